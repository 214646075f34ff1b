import assert from 'node:assert/strict';
import { test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { EXTENT_BYTES, ExtentCache } from '../../../lib/migration/stream-pages/extent-cache.ts';
import type { PositionedReads } from '../../../lib/migration/stream-pages/positioned-reads.ts';

/** Reads whose bytes say where they are from, and that settle after some turns of the event loop. */
function slowReads(
  size: number,
): PositionedReads & { started: number[]; failAt: number; isQuick: boolean } {
  const reads = {
    size,
    started: [] as number[],
    failAt: -1,
    isQuick: false,
    async read(target: Uint8Array, position: number): Promise<void> {
      const index = position / EXTENT_BYTES;
      reads.started.push(index);
      for (let turn = 0; turn < 1 + (index % 3); turn++) await new Promise(setImmediate);
      if (index === reads.failAt) throw new QemuFileError('EIO', 'the disk failed');
      target.fill(index % 251);
    },
    readNow(target: Uint8Array, position: number): boolean {
      if (!reads.isQuick) return false;
      target.fill(position / EXTENT_BYTES);
      return true;
    },
    readSome: () => 0,
    checkUnchanged() {},
    close: () => Promise.resolve(),
  };
  return reads;
}

async function bytesOf(cache: ExtentCache, index: number): Promise<Buffer> {
  const extent = cache.use(index);
  try {
    await extent.reading;
    return Buffer.from(extent.bytes as Buffer);
  } finally {
    cache.release(extent);
  }
}

test('an extent is read once for all who use it at the same time', async () => {
  const reads = slowReads(10 * EXTENT_BYTES);
  const cache = new ExtentCache(reads);
  const all = await Promise.all([bytesOf(cache, 3), bytesOf(cache, 3), bytesOf(cache, 3)]);
  for (const bytes of all) assert.ok(bytes.every((byte) => byte === 3));
  await bytesOf(cache, 3);
  assert.deepEqual(reads.started, [3]);
});

test('the extent after two in a row is read ahead, and none beyond the end', async () => {
  const reads = slowReads(5 * EXTENT_BYTES - 100);
  const cache = new ExtentCache(reads);
  await bytesOf(cache, 2);
  await bytesOf(cache, 3);
  assert.deepEqual(reads.started, [2, 3, 4]);
  assert.equal((await bytesOf(cache, 4)).length, EXTENT_BYTES - 100);
  assert.deepEqual(reads.started, [2, 3, 4]);
});

test('an extent is filled without waiting where its file can be read so', async () => {
  const reads = slowReads(10 * EXTENT_BYTES);
  const cache = new ExtentCache(reads);
  assert.equal(cache.fillNow(4), false);
  reads.isQuick = true;
  assert.equal(cache.fillNow(4), true);
  assert.ok((await bytesOf(cache, 4)).every((byte) => byte === 4));
  assert.deepEqual(reads.started, []);
  const waiting = bytesOf(cache, 7);
  assert.equal(cache.fillNow(7), false);
  await waiting;
  assert.equal(cache.fillNow(7), true);
});

test('an extent that was filled without waiting is checked', () => {
  const reads = slowReads(10 * EXTENT_BYTES);
  reads.isQuick = true;
  const cache = new ExtentCache(reads, () => {
    throw new QemuFileError('EBADMSG', 'another digest');
  });
  assert.throws(() => cache.fillNow(4), /another digest/);
  assert.throws(() => cache.fillNow(4), /another digest/);
});

test('bytes in use are not overwritten by other extents', async () => {
  const reads = slowReads(1000 * EXTENT_BYTES);
  const cache = new ExtentCache(reads);
  let seed = 5;
  const user = async (): Promise<void> => {
    for (let count = 0; count < 60; count++) {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
      const index = (seed >>> 8) % 1000;
      const extent = cache.use(index);
      await extent.reading;
      const bytes = extent.bytes as Buffer;
      assert.deepEqual([bytes[0], bytes.at(-1)], [index % 251, index % 251]);
      await new Promise(setImmediate);
      assert.deepEqual([bytes[0], bytes.at(-1)], [index % 251, index % 251]);
      cache.release(extent);
    }
  };
  await Promise.all(Array.from({ length: 20 }, user));
});

test('a failed read is reported to all who wait, and is tried again by the next', async () => {
  const reads = slowReads(10 * EXTENT_BYTES);
  const cache = new ExtentCache(reads);
  reads.failAt = 7;
  const both = await Promise.allSettled([bytesOf(cache, 7), bytesOf(cache, 7)]);
  for (const { status } of both) assert.equal(status, 'rejected');
  reads.failAt = -1;
  assert.equal((await bytesOf(cache, 7))[0], 7);
});

test('an extent that the check refuses is not used', async () => {
  const reads = slowReads(10 * EXTENT_BYTES);
  const cache = new ExtentCache(reads, (index) => {
    if (index === 2) throw new QemuFileError('EBADMSG', 'wrong digest');
  });
  await bytesOf(cache, 1);
  await assert.rejects(bytesOf(cache, 2), { code: 'EBADMSG' });
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { memoryPair } from '../../../adapters/memory/memory-pair.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import {
  collect,
  isSettled,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';

const write = (ops: QemuFileOps, text: string, position = 0) =>
  promised(() => ops.writevBuffer?.([Buffer.from(text)], position) ?? -1);

const readAll = async (ops: QemuFileOps) => (await collect(() => readOnce(ops))).toString();

describe('a pair', () => {
  test('returns synchronously if bytes fit or are available', () => {
    const [near, far] = memoryPair({ highWaterMark: 8 });
    assert.equal(near.writevBuffer([Buffer.from('abcd'), Buffer.from('efgh')], 0), 8);
    const buffer = Buffer.alloc(16);
    assert.equal(far.getBuffer(buffer, 0), 8);
    assert.equal(buffer.toString('utf8', 0, 8), 'abcdefgh');
  });

  test('makes a write wait for the one byte that does not fit', async () => {
    const [near, far] = memoryPair({ highWaterMark: 4 });
    const written = write(near, 'abcde');
    assert.equal(await isSettled(written), false);
    assert.equal(far.getBuffer(Buffer.alloc(1), 0), 1);
    assert.equal(await written, 5);
  });

  test('stores no more than its high-water mark of a write that waits', async () => {
    const [near, far] = memoryPair({ highWaterMark: 4 });
    const batch = Buffer.from('abcdefgh');
    const written = promised(() => near.writevBuffer([batch], 0));
    // The rest is taken out of the batch itself, which is the writer's until the answer.
    batch.fill('-', 4);
    assert.equal((await readOnce(far)).toString(), 'abcd');
    assert.equal((await readOnce(far)).toString(), '----');
    assert.equal(await written, 8);
  });

  test('transfers any sequence of batches of any size', async () => {
    const sizes = fc.array(fc.array(fc.nat(20), { minLength: 1, maxLength: 4 }), { maxLength: 20 });
    const check = async (mark: number, length: number, batches: number[][]) => {
      const [near, far] = memoryPair({ highWaterMark: mark });
      let next = 0;
      const sent = batches.map((batch) =>
        batch.map((size) => Uint8Array.from({ length: size }, () => next++ & 0xff)),
      );
      const writing = (async () => {
        for (const batch of sent) await near.writevBuffer(batch, 0);
        near.shutDown(false, true);
      })();
      const received: number[] = [];
      const buffer = new Uint8Array(length);
      for (;;) {
        const count = await far.getBuffer(buffer, 0);
        if (count === 0) break;
        received.push(...buffer.subarray(0, count as number));
      }
      await writing;
      assert.deepEqual(
        received,
        [...Array(next).keys()].map((value) => value & 0xff),
      );
    };
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 30 }),
        sizes,
        check,
      ),
      { numRuns: 50 },
    );
  });

  test('returns the stored bytes and then the end when the peer closes', async () => {
    const [near, far] = memoryPair();
    await write(near, 'last words');
    await near.close();
    assert.equal(await readAll(far), 'last words');
    await rejectsWith(write(far, 'hello?'), 'EPIPE');
  });

  test('returns the stored bytes and then ECONNRESET when the peer closes with an error', async () => {
    const [near, far] = memoryPair();
    await write(near, 'last wo');
    await near.close(new Error('not whole'));
    assert.equal((await readOnce(far)).toString(), 'last wo');
    await rejectsWith(readOnce(far), 'ECONNRESET');
    await rejectsWith(write(far, 'hello?'), 'ECONNRESET');
  });

  test('reports ECONNRESET, not the end, when the peer closes while a write is pending', async () => {
    const [near, far] = memoryPair({ highWaterMark: 4 });
    const written = rejectsWith(write(near, 'abcdef'), 'ECANCELED');
    await near.close();
    await written;
    assert.equal((await readOnce(far)).toString(), 'abcd');
    await rejectsWith(readOnce(far), 'ECONNRESET');
  });

  test('reports ECONNRESET, not the end, when the peer is shut down while a write is pending', async () => {
    const [near, far] = memoryPair({ highWaterMark: 4 });
    const written = rejectsWith(write(near, 'abcdef'), 'ECANCELED');
    await near.shutDown(false, true);
    await written;
    assert.equal((await readOnce(far)).toString(), 'abcd');
    await rejectsWith(readOnce(far), 'ECONNRESET');
    await write(far, 'here');
    assert.equal((await readOnce(near)).toString(), 'here');
  });

  test('stays at the end that was announced, even if the other end fails later', async () => {
    const [near, far] = memoryPair();
    await write(near, 'whole');
    await near.shutDown(false, true);
    await near.close(new Error('something else went wrong'));
    assert.equal(await readAll(far), 'whole');
  });

  test('fails its own reads with ECANCELED and the other end with EPIPE after shutDown(true, …)', async () => {
    const [near, far] = memoryPair({ highWaterMark: 2 });
    const read = rejectsWith(readOnce(near), 'ECANCELED');
    await near.shutDown(true, false);
    await read;
    await rejectsWith(readOnce(near), 'ECANCELED');
    await rejectsWith(write(far, 'x'), 'EPIPE');
    await write(near, 'ok');
    assert.equal((await readOnce(far)).toString(), 'ok');
  });

  test('refuses a second read, or write, before the first has answered', async () => {
    const [near, far] = memoryPair({ highWaterMark: 1 });
    const read = readOnce(near);
    await rejectsWith(readOnce(near), 'EBUSY');
    const written = write(near, 'ab');
    await rejectsWith(write(near, 'c'), 'EBUSY');
    await write(far, 'd');
    assert.equal((await read).toString(), 'd');
    assert.equal((await readOnce(far)).toString(), 'a');
    assert.equal((await readOnce(far)).toString(), 'b');
    assert.equal(await written, 2);
  });

  test('works when its operations are put into another table', async () => {
    const [near, far] = memoryPair();
    await write({ ...near }, 'x');
    assert.equal((await readOnce({ ...far })).toString(), 'x');
  });

  test('refuses an invalid high-water mark', () => {
    for (const highWaterMark of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.throws(() => memoryPair({ highWaterMark }), RangeError);
    }
  });
});

describe('several tables over one end', () => {
  test('leave the connection whole when one that only read fails', async () => {
    const [near, far] = memoryPair();
    const back = near.getReturnPath();
    await write(near, 'written');
    await back?.close(new Error('reading failed'));
    await write(near, ' on');
    await near.close();
    assert.equal(await readAll(far), 'written on');
  });

  test('break the connection when the one that wrote fails', async () => {
    const [near, far] = memoryPair();
    const back = near.getReturnPath();
    assert.ok(back);
    const read = rejectsWith(readOnce(back));
    await write(near, 'half');
    await near.close(new Error('not whole'));
    await read;
    assert.equal((await readOnce(far)).toString(), 'half');
    await rejectsWith(readOnce(far), 'ECONNRESET');
    await back.close();
  });

  test('break the connection when one failed and nothing was ever written', async () => {
    const [near, far] = memoryPair();
    const back = near.getReturnPath();
    await near.close(new Error('failed before the first byte was sent'));
    await back?.close();
    await rejectsWith(readOnce(far), 'ECONNRESET');
  });

  test('cannot be made from a table that is closed', async () => {
    const [near] = memoryPair();
    await near.close();
    assert.equal(near.getReturnPath(), null);
  });
});

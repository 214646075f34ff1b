import assert from 'node:assert/strict';
import { closeSync, openSync, readSync } from 'node:fs';
import { describe, test } from 'node:test';
import zlib from 'node:zlib';
import { memoryStorage } from '../../adapters/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { MadeGuest, PAGE, pageOf } from '../helpers/guests/made-guest.ts';

const PAGES = 4096;

/** Returns the size of bytes that are compressed in one piece, with the codec and level of the store's frames. */
function sizeInOnePiece(bytes: Uint8Array): number {
  const { zstdCompressSync, constants } = zlib as unknown as {
    zstdCompressSync?: (bytes: Uint8Array, options: object) => Buffer;
    constants: { ZSTD_c_compressionLevel: number };
  };
  if (zstdCompressSync === undefined) return zlib.deflateSync(bytes, { level: 1 }).length;
  const params = { [constants.ZSTD_c_compressionLevel]: 1 };
  return zstdCompressSync(bytes, { params }).length;
}

/** Assert that a guest takes at most 8 % more in a store than its stream in one piece. */
async function assertSmall(guest: MadeGuest): Promise<void> {
  const store = new SnapshotStore(memoryStorage());
  const { ownBytes } = await store.writer('one').writeGuest(guest);
  const chunks: Uint8Array[] = [];
  for await (const chunk of (await store.reader('one')).stream())
    chunks.push(Uint8Array.from(chunk));
  const peer = sizeInOnePiece(Buffer.concat(chunks));
  assert.ok(ownBytes <= 1.08 * peer, `${ownBytes} bytes, against ${peer}`);
  const { ownBytes: again } = await store.writer('two', { parent: 'one' }).writeGuest(guest);
  assert.ok(again <= 0.01 * ownBytes + 1024, `${again} bytes for a child without changes`);
}

describe('a snapshot without parent is at most 8 % larger than its compact stream, compressed in one piece', () => {
  test('with code and data of a real program, and pages that do not compress', async () => {
    const guest = new MadeGuest(2 * PAGES);
    const fd = openSync(process.execPath, 'r');
    for (let page = 0; page < PAGES; page++) {
      const bytes = Buffer.alloc(PAGE);
      readSync(fd, bytes, 0, PAGE, (1024 + page) * PAGE);
      if (!bytes.equals(Buffer.alloc(PAGE))) guest.memory.set(page, bytes);
    }
    closeSync(fd);
    guest.fill(PAGES, 100, 'noise');
    await assertSmall(guest);
  });

  for (const part of [1, 2, 6, 10, 20, 64, 256]) {
    test(`with pages of which 1/${part} does not compress`, async () => {
      const guest = new MadeGuest(PAGES);
      for (let page = 0; page < PAGES; page++) {
        const bytes = Buffer.alloc(PAGE);
        pageOf(`${part} ${page}`).copy(bytes, 0, 0, PAGE / part);
        guest.memory.set(page, bytes);
      }
      await assertSmall(guest);
    });
  }
});

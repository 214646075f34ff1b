import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { directoryStorage, memoryStorage } from '../../adapters/index.ts';
import { QemuFile } from '../../lib/index.ts';
import { MigrationWriter, writeSavedGuest } from '../../lib/migration/index.ts';
import { type SnapshotReader, SnapshotStore } from '../../lib/snapshot/index.ts';
import { SnapshotStream } from '../../lib/snapshot/read/snapshot-stream.ts';
import { MadeGuest } from '../helpers/guests/made-guest.ts';

/** Return the stream of one round that the package's writer makes of a guest. */
async function written(guest: MadeGuest): Promise<Buffer> {
  const parts: Buffer[] = [];
  const file = new QemuFile({
    writevBuffer(buffers) {
      const bytes = Buffer.concat(buffers);
      parts.push(bytes);
      return bytes.length;
    },
  });
  await writeSavedGuest(guest, new MigrationWriter(file));
  await file.close();
  return Buffer.concat(parts);
}

/** Read a stream into buffers of so many bytes. */
async function readInto(reader: SnapshotReader, bytes: number): Promise<Buffer> {
  const stream = new SnapshotStream(reader, reader.pages);
  const parts: Buffer[] = [];
  for (;;) {
    const target = Buffer.alloc(bytes);
    const count = await stream.read(target);
    if (count === 0) return Buffer.concat(parts);
    parts.push(target.subarray(0, count));
  }
}

function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

// A page between zeros, adjacent ones across frames, and the last one of a block.
const GUEST = new MadeGuest(300).fill(3, 1, 'a').fill(20, 70, 'b').fill(299, 1, 'c');

test('a snapshot is read as the stream of one round, in pieces of any size', async () => {
  const store = new SnapshotStore(memoryStorage());
  await store.writer('parent').writeGuest(GUEST.clone().fill(30, 40, 'parent'));
  await store.writer('child', { parent: 'parent' }).writeGuest(GUEST);
  const reader = await store.reader('child');
  const expected = digestOf(await written(GUEST));
  for (const bytes of [7, 4103, 4104, 5000, 65_537, 1 << 20]) {
    assert.equal(digestOf(await readInto(reader, bytes)), expected, `${bytes} bytes at a time`);
  }
});

test('two streams of a store with little memory are read beside each other', async () => {
  const guest = new MadeGuest(2000).fill(0, 2000, 'data');
  const store = new SnapshotStore(memoryStorage(), { cacheBytes: 1 });
  await store.writer('one').writeGuest(guest);
  const reader = await store.reader('one');
  const expected = digestOf(await written(guest));
  const read = async (): Promise<string> => {
    const digest = createHash('sha256');
    for await (const chunk of reader.stream()) digest.update(chunk);
    return digest.digest('hex');
  };
  assert.deepEqual(await Promise.all([read(), read()]), [expected, expected]);
});

test('a pack in a directory that ends early is named as damaged, whichever thread reads it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'qemu-file-read-'));
  try {
    const store = new SnapshotStore(directoryStorage(folder));
    await store.writer('one').writeGuest(new MadeGuest(3000).fill(0, 3000, 'data'));
    const [pack] = readdirSync(join(folder, 'packs')) as [string];
    truncateSync(join(folder, 'packs', pack), 3_000_000);
    const file = (await store.reader('one')).stream();
    const read = async (): Promise<void> => {
      for await (const _chunk of file);
    };
    await assert.rejects(read(), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'EBADMSG');
      assert.match(error.message, new RegExp(`${pack}.*shorter than the map says`));
      return true;
    });
    await store.close();
  } finally {
    rmSync(folder, { recursive: true });
  }
});

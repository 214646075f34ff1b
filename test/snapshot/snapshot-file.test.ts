import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { memoryStorage } from '../../adapters/index.ts';
import { QemuFile } from '../../lib/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { memoryDigest } from '../helpers/guests/made-guest.ts';

const STREAM = gunzipSync(readFileSync(new URL('../fixtures/q10-pc.mig.gz', import.meta.url)));

/** Return a file with the bytes of a stream. */
function fileOf(bytes: Buffer): QemuFile {
  let at = 0;
  return new QemuFile({
    getBuffer: (space) => {
      const count = bytes.copy(space, 0, at);
      at += count;
      return count;
    },
  });
}

async function names(store: SnapshotStore): Promise<string[]> {
  return (await store.list()).map(({ name }) => name);
}

describe('the file of a snapshot', () => {
  test('publishes what was written to it when it is closed', async () => {
    const store = new SnapshotStore(memoryStorage());
    await store.writer('other').writeStream(fileOf(STREAM));
    const file = store.writer('one').file();
    file.putBuffer(STREAM);
    await file.flush();
    assert.deepEqual(await names(store), ['other']);
    await file.close();
    assert.deepEqual(await names(store), ['one', 'other']);
    assert.equal(
      await memoryDigest(await store.reader('one')),
      await memoryDigest(await store.reader('other')),
    );
  });

  test('reads the stream from another file, and publishes it when it is closed', async () => {
    const store = new SnapshotStore(memoryStorage());
    await store.writer('other').writeStream(fileOf(STREAM));
    const file = store.writer('one').file();
    await using stream = fileOf(STREAM);
    const events: string[] = [];
    let bytes = 0;
    await file.readStream(stream, {
      pages: {
        page: (_block, _offset, page) => {
          bytes += page.length;
        },
      },
      onEvent: ({ type }) => void events.push(type),
    });
    // What is written as well is dropped.
    file.putBuffer(Buffer.alloc(1000, 1));
    await file.flush();
    assert.deepEqual(await names(store), ['other']);
    await file.close();
    assert.deepEqual(await names(store), ['one', 'other']);
    assert.ok(bytes > 0 && events.includes('vmDescription'), events.join());
    assert.equal(
      await memoryDigest(await store.reader('one')),
      await memoryDigest(await store.reader('other')),
    );
  });

  test('publishes nothing if it is given up after the stream was read', async () => {
    const store = new SnapshotStore(memoryStorage());
    await store.writer('other').writeStream(fileOf(STREAM));
    const file = store.writer('one').file();
    file.on('error', () => {});
    await using stream = fileOf(STREAM);
    await file.readStream(stream);
    file.destroy(new Error('the guest is needed elsewhere'));
    await file.close().catch(() => {});
    assert.deepEqual(await names(store), ['other']);
  });

  test('reports a stream that ends too early to who reads it, and publishes nothing', async () => {
    const store = new SnapshotStore(memoryStorage());
    await store.writer('other').writeStream(fileOf(STREAM));
    const file = store.writer('one').file();
    file.on('error', () => {});
    await using stream = fileOf(STREAM.subarray(0, STREAM.length / 2));
    await assert.rejects(file.readStream(stream), { code: 'ENODATA' });
    await assert.rejects(file.close(), { code: 'ENODATA' });
    assert.deepEqual(await names(store), ['other']);
  });

  test('does not read a second stream', async () => {
    const store = new SnapshotStore(memoryStorage());
    const file = store.writer('one').file();
    file.putBuffer(STREAM);
    await file.flush();
    await using stream = fileOf(STREAM);
    await assert.rejects(file.readStream(stream), { code: 'EBUSY' });
    await file.close();
    assert.deepEqual(await names(store), ['one']);
  });

  test('reports a name that exists to who reads the stream', async () => {
    const store = new SnapshotStore(memoryStorage());
    await store.writer('one').writeStream(fileOf(STREAM));
    const file = store.writer('one').file();
    file.on('error', () => {});
    await using stream = fileOf(STREAM);
    await assert.rejects(file.readStream(stream), { code: 'EEXIST' });
  });
});

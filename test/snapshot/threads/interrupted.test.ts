import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { memoryStorage } from '../../../adapters/index.ts';
import { QemuFileError } from '../../../lib/index.ts';
import { SnapshotStore } from '../../../lib/snapshot/index.ts';
import { frameThreads } from '../../../lib/snapshot/threads/frame-threads.ts';
// Translated here once: a thread that did it would leave a child process of the compiler.
import '../../../lib/snapshot/threads/frame-worker.ts';
import { fails } from '../../helpers/errors.ts';
import { MadeGuest, memoryDigest } from '../../helpers/guests/made-guest.ts';
import { watchLeaks } from '../../helpers/leaks.ts';
import { until } from '../../helpers/until.ts';

/** 40 MiB: threads start after 8 batches or groups of frames of 1 MiB. */
const GUEST = new MadeGuest(10_240).fill(0, 10_240, 'guest');

/** Make each thread end; where there are none, nothing happens. */
function endThreads(): void {
  for (let thread = 0; thread < frameThreads.size; thread++) {
    const nothing = new Uint8Array(new SharedArrayBuffer(0));
    const task = { kind: 'fingerprint', pages: nothing, fingerprints: nothing } as const;
    frameThreads.run({ ...task, count: 2, pageSize: 4096 }).catch(() => {});
  }
}

async function noThreads(): Promise<void> {
  await until(() => frameThreads.size === 0, { what: 'the end of the threads' });
}

describe('threads at work', () => {
  test('a writer that loses them fails with EIO or is whole, and leaves none', async () => {
    await using _leaks = await watchLeaks();
    const store = new SnapshotStore(memoryStorage());
    const digest = await memoryDigest(GUEST);
    try {
      await store.writer('guest', { onProgress: endThreads }).writeGuest(GUEST);
    } catch (error) {
      fails('EIO')(error);
      assert.deepEqual(await store.list(), []);
      await store.writer('guest').writeGuest(GUEST);
    }
    assert.equal(await memoryDigest(await store.reader('guest')), digest);
    await noThreads();
  });

  test('a reader that loses them fails with EIO or goes on, and reads again', async () => {
    await using _leaks = await watchLeaks();
    const store = new SnapshotStore(memoryStorage());
    await store.writer('guest').writeGuest(GUEST);
    const { pages } = await store.reader('guest');
    const target = Buffer.alloc(1_048_576);
    for (let at = 0; at < 10_240 * 4096; at += target.length) {
      endThreads();
      try {
        await pages.read(0, at, target);
      } catch (error) {
        fails('EIO')(error);
      }
    }
    assert.equal(await memoryDigest(await store.reader('guest')), await memoryDigest(GUEST));
    await noThreads();
  });

  for (const [what, code] of [
    ['is aborted', 'ECANCELED'],
    ['cannot put a pack', 'ENOSPC'],
  ] as const) {
    test(`a writer that ${what} meanwhile leaves none`, async () => {
      await using _leaks = await watchLeaks();
      const controller = new AbortController();
      const storage = memoryStorage();
      const put = storage.put.bind(storage);
      storage.put = (key, parts, options) => {
        if (!key.startsWith('packs/')) return put(key, parts, options);
        if (code === 'ENOSPC') return Promise.reject(new QemuFileError(code, 'the disk is full'));
        controller.abort();
        return put(key, parts, options);
      };
      const store = new SnapshotStore(storage);
      const { signal } = controller;
      await assert.rejects(store.writer('guest', { signal }).writeGuest(GUEST), fails(code));
      assert.deepEqual(await store.list(), []);
      await noThreads();
    });
  }
});

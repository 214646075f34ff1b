import assert from 'node:assert/strict';
import fs, { rmSync } from 'node:fs';
import { describe, test } from 'node:test';
import { directoryStorage, memoryStorage, type ObjectStorage } from '../../adapters/index.ts';
import { QemuFileError } from '../../lib/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { fails } from '../helpers/errors.ts';
import { MadeGuest, memoryDigest, PAGE } from '../helpers/guests/made-guest.ts';
import { mountSmallDisk, requireSmallDisk } from '../helpers/storage/small-disk.ts';

const BASE = new MadeGuest(1000).fill(0, 300, 'base');
const CHILD = BASE.clone('changed').fill(50, 40, 'child');

/** Storage of which the calls can be made to fail. */
function failing(
  storage: ObjectStorage,
  fail: (method: string, key: string) => Error | null,
): ObjectStorage {
  return new Proxy(storage, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== 'function') return value;
      if (property === 'list') return value.bind(target) as unknown;
      return (...args: unknown[]) => {
        const error = fail(String(property), String(args[0]));
        if (error !== null) return Promise.reject(error);
        return Reflect.apply(value, target, args) as unknown;
      };
    },
  });
}

/** Storage that cannot decide between two writers. */
function plain(storage: ObjectStorage): ObjectStorage {
  return new Proxy(storage, {
    get(target, property) {
      if (property === 'canPutIfAbsent') return false;
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== 'function') return value;
      if (property !== 'put') return value.bind(target) as unknown;
      return (key: string, parts: readonly Uint8Array[]) => target.put(key, parts);
    },
  });
}

async function assertWhole(store: SnapshotStore): Promise<string[]> {
  const { damage } = await store.fsck({ deep: true });
  assert.deepEqual(
    damage.filter(({ snapshots }) => snapshots.length > 0),
    [],
  );
  const names: string[] = [];
  for (const { name } of await store.list()) {
    const expected = name === 'base' ? BASE : CHILD;
    assert.equal(await memoryDigest(await store.reader(name)), await memoryDigest(expected), name);
    names.push(name);
  }
  return names;
}

describe('a writer of a child', () => {
  for (const code of ['ENOSPC', 'EIO']) {
    test(`whose storage fails with ${code} at any call leaves the store whole`, async () => {
      for (let calls = 0; ; calls++) {
        assert.ok(calls < 100);
        const storage = memoryStorage();
        const store = new SnapshotStore(storage);
        await store.writer('base').writeGuest(BASE);
        let left = calls;
        const broken = failing(storage, () =>
          left-- > 0 ? null : new QemuFileError(code, 'injected'),
        );
        try {
          await new SnapshotStore(broken).writer('child', { parent: 'base' }).writeGuest(CHILD);
          // Only the removal of its mark, which does not count, may have failed.
          assert.deepEqual(await assertWhole(store), ['base', 'child']);
          if (left >= 0) break;
        } catch (error) {
          fails(code)(error);
          const names = await assertWhole(store);
          assert.ok(names.includes('base'));
        }
      }
    });
  }

  test('that is aborted publishes nothing', async () => {
    const store = new SnapshotStore(memoryStorage());
    await store.writer('base').writeGuest(BASE);
    const controller = new AbortController();
    const writer = store.writer('child', {
      parent: 'base',
      signal: controller.signal,
      onProgress: () => controller.abort(),
    });
    await assert.rejects(writer.writeGuest(CHILD), fails('ECANCELED'));
    assert.deepEqual(await assertWhole(store), ['base']);
  });

  for (const prefix of ['writers/', 'claims/']) {
    test(`removes what it put in ${prefix} if it is aborted before the answer`, async () => {
      const storage = memoryStorage();
      const put = storage.put.bind(storage);
      storage.put = async (key, parts, options) => {
        await put(key, parts, options);
        if (key.startsWith(prefix)) throw new QemuFileError('ECANCELED', 'aborted');
      };
      const store = new SnapshotStore(prefix === 'claims/' ? plain(storage) : storage);
      await assert.rejects(store.writer('base').writeGuest(BASE), fails('ECANCELED'));
      for await (const { key } of storage.list(prefix)) assert.fail(`${key} stays`);
    });
  }

  test('is refused without its parent, and where the name is taken', async () => {
    const store = new SnapshotStore(memoryStorage());
    await assert.rejects(
      store.writer('child', { parent: 'base' }).writeGuest(CHILD),
      fails('ENOENT'),
    );
    await store.writer('base').writeGuest(BASE);
    await assert.rejects(store.writer('base').writeGuest(CHILD), fails('EEXIST'));
    await store.writer('base', { replace: true, parent: 'base' }).writeGuest(CHILD);
    const [info] = await store.list();
    assert.equal(info?.parent, null);
    assert.equal(await memoryDigest(await store.reader('base')), await memoryDigest(CHILD));
  });

  test('whose parent is removed and collected meanwhile either fails or is whole', async () => {
    const storage = memoryStorage();
    const store = new SnapshotStore(storage);
    await store.writer('base').writeGuest(BASE);
    let isRemoved = false;
    const slow = new Proxy(CHILD, {});
    const writer = store.writer('child', {
      parent: 'base',
      onProgress: () => {
        isRemoved = true;
      },
    });
    const writing = writer.writeGuest(slow);
    while (!isRemoved) await new Promise(setImmediate);
    await store.remove('base');
    await store.gc({ graceMs: 0 });
    await writing;
    assert.deepEqual(await assertWhole(store), ['child']);
    await store.gc({ graceMs: 0 });
    assert.deepEqual(await assertWhole(store), ['child']);
  });
});

test('two writers of children of one parent, which is removed and collected meanwhile, are whole or told', async () => {
  for (let round = 0; round < 10; round++) {
    const storage = memoryStorage();
    const [first, second, third] = Array.from({ length: 3 }, () => new SnapshotStore(storage));
    await first?.writer('base').writeGuest(BASE);
    const writing = Promise.allSettled([
      first?.writer('child', { parent: 'base' }).writeGuest(CHILD),
      second?.writer('other', { parent: 'base' }).writeGuest(CHILD),
    ]);
    // The parent goes at another moment in each round.
    for (let turn = 0; turn < 3 * round; turn++) await new Promise(setImmediate);
    await third?.remove('base');
    await third?.gc({ graceMs: 0 });
    const names: string[] = [];
    for (const [at, result] of (await writing).entries()) {
      if (result.status === 'fulfilled') names.push(['child', 'other'][at] as string);
      else fails('ENOENT')(result.reason);
    }
    assert.deepEqual(await assertWhole(third as SnapshotStore), names);
    await third?.gc({ graceMs: 0 });
    assert.deepEqual(await assertWhole(third as SnapshotStore), names);
  }
});

describe('two writers of one name', () => {
  for (const [kind, wrap] of [
    ['that decides', (storage: ObjectStorage) => storage],
    ['that cannot decide', plain],
  ] as const) {
    test(`on storage ${kind}: one succeeds, the other is told`, async () => {
      for (let round = 0; round < 5; round++) {
        const storage = wrap(memoryStorage());
        const [first, second] = [new SnapshotStore(storage), new SnapshotStore(storage)];
        await first.writer('base').writeGuest(BASE);
        const results = await Promise.allSettled([
          first.writer('child', { parent: 'base' }).writeGuest(CHILD),
          second.writer('child', { parent: 'base' }).writeGuest(CHILD),
        ]);
        const failures = results.filter(({ status }) => status === 'rejected');
        assert.equal(failures.length, 1);
        fails('EEXIST')((failures[0] as PromiseRejectedResult).reason);
        assert.deepEqual(await assertWhole(first), ['base', 'child']);
      }
    });
  }
});

test('a writer begins where another one makes the store between its looks at the place', async () => {
  const storage = memoryStorage();
  const other = new SnapshotStore(storage);
  let isFirst = true;
  const store = new SnapshotStore(
    new Proxy(storage, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target);
        if (typeof value !== 'function') return value;
        if (property !== 'list' || !isFirst) return value.bind(target) as unknown;
        return async function* (prefix: string) {
          isFirst = false;
          await other.writer('base').writeGuest(BASE);
          yield* target.list(prefix);
        };
      },
    }),
  );
  await store.writer('child', { parent: 'base' }).writeGuest(CHILD);
  assert.equal(isFirst, false);
  assert.deepEqual((await assertWhole(store)).sort(), ['base', 'child']);
});

test('of two writers of one name in a directory without hard links, one succeeds', async (t) => {
  t.mock.method(fs.promises, 'link', () =>
    Promise.reject(Object.assign(new Error('not permitted'), { code: 'EPERM' })),
  );
  for (let round = 0; round < 5; round++) {
    await using directory = makeTempDir();
    const stores = [0, 1].map(() => new SnapshotStore(directoryStorage(directory.join('store'))));
    const results = await Promise.allSettled(
      stores.map((store) => store.writer('one').writeGuest(CHILD)),
    );
    const failures = results.filter(({ status }) => status === 'rejected');
    assert.equal(failures.length, 1);
    fails('EEXIST')((failures[0] as PromiseRejectedResult).reason);
    assert.deepEqual(await assertWhole(stores[0] as SnapshotStore), ['one']);
  }
});

describe('a full disk', { skip: requireSmallDisk() }, () => {
  for (const bytes of [8 << 10, 64 << 10, 512 << 10, 1 << 20]) {
    test(`with ${bytes >> 10} KiB left: what was there stays whole, and nothing new appears`, async () => {
      await using disk = mountSmallDisk({ bytes: 4 << 20, inodes: 200 });
      const store = new SnapshotStore(directoryStorage(disk.path));
      await store.writer('base').writeGuest(BASE);
      disk.fill(bytes);
      const big = new MadeGuest(1000).fill(0, 900, 'big');
      await assert.rejects(
        store.writer('big', { parent: 'base' }).writeGuest(big),
        fails('ENOSPC'),
      );
      rmSync(disk.join('fill'));
      assert.deepEqual(await assertWhole(store), ['base']);
      await store.gc({ graceMs: 0 });
      await store.writer('child', { parent: 'base' }).writeGuest(CHILD);
      assert.deepEqual(await assertWhole(store), ['base', 'child']);
    });
  }
});

describe('garbage', () => {
  test('is removed when it is old enough, and what is needed stays', async () => {
    const store = new SnapshotStore(memoryStorage());
    await store.writer('base').writeGuest(BASE);
    await store.writer('child', { parent: 'base' }).writeGuest(CHILD);
    await store.remove('base');
    assert.equal((await store.gc()).removed.length, 0);
    const dry = await store.gc({ graceMs: 0, dryRun: true });
    assert.equal(dry.removed.length, 1);
    assert.match(dry.removed[0] as string, /^maps\//);
    assert.deepEqual((await store.gc({ graceMs: 0 })).removed, dry.removed);
    assert.deepEqual(await assertWhole(store), ['child']);
    await store.remove('child');
    const progress: number[][] = [];
    const onProgress = (...counts: number[]): void => void progress.push(counts);
    assert.equal((await store.gc({ graceMs: 0, onProgress })).removed.length, 3);
    assert.deepEqual(progress, [
      [1, 3],
      [2, 3],
      [3, 3],
    ]);
    assert.equal((await store.fsck()).objects, 0);
  });

  test('is not removed while what is needed is unknown', async () => {
    const storage = memoryStorage();
    const store = new SnapshotStore(storage);
    await store.writer('base').writeGuest(BASE);
    await storage.put('snapshots/base', [Buffer.from('x')]);
    await assert.rejects(store.gc({ graceMs: 0 }), fails('EBADMSG'));
    assert.equal((await store.fsck()).objects, 3);
  });
});

describe('ten clones of one golden guest', () => {
  test('cost what they changed', async () => {
    const store = new SnapshotStore(memoryStorage());
    const golden = await store.writer('golden').writeGuest(BASE);
    for (let clone = 0; clone < 10; clone++) {
      const guest = BASE.clone(`clone ${clone}`).fill(20 * clone, 30, `clone ${clone}`);
      await store.writer(`clone-${clone}`, { parent: 'golden' }).writeGuest(guest);
    }
    const { bytes } = await store.fsck();
    assert.ok(bytes < golden.ownBytes + 10 * 30 * PAGE * 1.1, `${bytes}`);
  });
});

test('a chain of fifty snapshots is read from one map', async () => {
  const storage = memoryStorage();
  const store = new SnapshotStore(storage);
  let guest = BASE;
  await store.writer('s0').writeGuest(guest);
  for (let depth = 1; depth <= 50; depth++) {
    guest = guest.clone(`depth ${depth}`).fill((depth * 7) % 300, 3, `depth ${depth}`);
    await store.writer(`s${depth}`, { parent: `s${depth - 1}` }).writeGuest(guest);
  }
  const read: string[] = [];
  const watched = failing(storage, (method, key) => {
    if (method === 'get') read.push(key);
    return null;
  });
  const reader = await new SnapshotStore(watched).reader('s50');
  assert.equal(await memoryDigest(reader), await memoryDigest(guest));
  assert.deepEqual(read.map((key) => key.replace(/[0-9a-f]{64}/, 'DIGEST')).sort(), [
    'maps/DIGEST',
    'qemu-file-store',
    'snapshots/s50',
  ]);
});

// The removal of garbage beside writers that begin and end at the worst moment.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { memoryStorage, type ObjectStorage } from '../../adapters/index.ts';
import { QemuFileError } from '../../lib/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { MadeGuest, memoryDigest } from '../helpers/guests/made-guest.ts';

const BASE = new MadeGuest(1000).fill(0, 300, 'base');
const CHILD = BASE.clone('changed').fill(50, 40, 'child');

/** Storage that does something before the nth call of a method for keys that begin with a prefix. */
function interrupted(
  storage: ObjectStorage,
  { method, prefix, nth }: { method: keyof ObjectStorage; prefix: string; nth: number },
  work: () => Promise<unknown>,
): ObjectStorage {
  let left = nth;
  return new Proxy(storage, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== 'function') return value;
      const call = (args: unknown[]): unknown => Reflect.apply(value, target, args);
      const isHit = (key: unknown): boolean =>
        property === method && String(key).startsWith(prefix) && --left === 0;
      if (property === 'list') {
        return async function* (...args: unknown[]) {
          if (isHit(args[0])) await work();
          yield* call(args) as AsyncIterable<unknown>;
        };
      }
      return async (...args: unknown[]) => {
        if (isHit(args[0])) await work();
        return call(args);
      };
    },
  });
}

async function assertWhole(store: SnapshotStore, ...names: string[]): Promise<void> {
  assert.deepEqual((await store.fsck({ deep: true })).damage, []);
  assert.deepEqual(
    (await store.list()).map(({ name }) => name),
    names,
  );
  for (const name of names) {
    const expected = name === 'base' ? BASE : CHILD;
    assert.equal(await memoryDigest(await store.reader(name)), await memoryDigest(expected), name);
  }
}

describe('gc without a grace period', () => {
  for (const [moment, prefix, nth] of [
    ['before writers are listed', 'writers/', 1],
    ['before snapshots are listed', 'snapshots/', 1],
    ['after snapshots are listed', 'writers/', 2],
    ['before the objects are removed', 'writers/', 3],
    ['right before the objects are removed', 'snapshots/', 2],
  ] as const) {
    test(`keeps the objects of a copy that begins and ends ${moment}`, async () => {
      const other = new SnapshotStore(memoryStorage());
      await other.writer('base').writeGuest(BASE);
      const storage = memoryStorage();
      const store = new SnapshotStore(storage);
      await other.copy('base', store);
      await store.remove('base');
      const place = { method: 'list' as const, prefix, nth };
      let isCopied = false;
      const hooked = interrupted(storage, place, async () => {
        await other.copy('base', new SnapshotStore(storage));
        isCopied = true;
      });
      await new SnapshotStore(hooked).gc({ graceMs: 0 });
      assert.ok(isCopied);
      await assertWhole(store, 'base');
    });
  }

  test('keeps all that is there while the map of a copy is still to come', async () => {
    const other = new SnapshotStore(memoryStorage());
    await other.writer('base').writeGuest(BASE);
    const storage = memoryStorage();
    const store = new SnapshotStore(storage);
    await other.copy('base', store);
    await store.remove('base');
    await storage.remove((await garbageOf(store)).find((key) => key.startsWith('maps/')) as string);
    let removed: readonly string[] | undefined;
    const hooked = interrupted(storage, { method: 'put', prefix: 'maps/', nth: 1 }, async () => {
      ({ removed } = await store.gc({ graceMs: 0 }));
    });
    await other.copy('base', new SnapshotStore(hooked));
    assert.deepEqual(removed, []);
    await assertWhole(store, 'base');
  });
});

async function garbageOf(store: SnapshotStore): Promise<readonly string[]> {
  return (await store.gc({ graceMs: 0, dryRun: true })).removed;
}

describe('a writer of a child', () => {
  test('is told if its parent is removed and collected before it has put its mark', async () => {
    const storage = memoryStorage();
    const store = new SnapshotStore(storage);
    await store.writer('base').writeGuest(BASE);
    const hooked = interrupted(storage, { method: 'put', prefix: 'writers/', nth: 1 }, async () => {
      await store.remove('base');
      await store.gc({ graceMs: 0 });
    });
    const writer = new SnapshotStore(hooked).writer('child', { parent: 'base' });
    await assert.rejects(writer.writeGuest(CHILD), { code: 'ENOENT' });
    await assertWhole(store);
  });

  test('compares with the new parent if that is replaced before it has put its mark', async () => {
    const storage = memoryStorage();
    const store = new SnapshotStore(storage);
    await store.writer('base').writeGuest(CHILD);
    const hooked = interrupted(storage, { method: 'put', prefix: 'writers/', nth: 1 }, async () => {
      await store.writer('base', { replace: true }).writeGuest(BASE);
      await store.gc({ graceMs: 0 });
    });
    await new SnapshotStore(hooked).writer('child', { parent: 'base' }).writeGuest(CHILD);
    await assertWhole(store, 'base', 'child');
  });

  for (const isOwn of [false, true]) {
    test(`is told before it publishes if a pack ${isOwn ? 'of its own' : 'of its parent'} is gone`, async () => {
      const storage = memoryStorage();
      const store = new SnapshotStore(storage);
      await store.writer('base').writeGuest(BASE);
      const parents = new Set<string>();
      for await (const { key } of storage.list('packs/')) parents.add(key);
      const hooked = interrupted(
        storage,
        { method: 'stat', prefix: 'packs/', nth: isOwn ? 2 : 1 },
        async () => {
          for await (const { key } of storage.list('packs/')) {
            if (parents.has(key) !== isOwn) await storage.remove(key);
          }
        },
      );
      const writer = new SnapshotStore(hooked).writer('child', { parent: 'base' });
      await assert.rejects(writer.writeGuest(CHILD), { code: 'EBADMSG', message: /removed/ });
      assert.deepEqual(
        (await store.list()).map(({ name }) => name),
        ['base'],
      );
    });
  }
});

describe('gc of storage', () => {
  /** Storage with a snapshot and the packs and the map of a removed one, in which some methods are others. */
  const littered = async (other: Partial<ObjectStorage>): Promise<SnapshotStore> => {
    const storage = memoryStorage();
    const store = new SnapshotStore(storage);
    await store.writer('base').writeGuest(BASE);
    await store.writer('child', { parent: 'base' }).writeGuest(CHILD);
    await store.remove('child');
    const get = (target: ObjectStorage, property: string | symbol): unknown => {
      const value: unknown =
        other[property as keyof ObjectStorage] ?? Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    };
    return new SnapshotStore(new Proxy(storage, { get }));
  };

  test('that is full removes garbage', async () => {
    const full = { put: () => Promise.reject(new QemuFileError('ENOSPC', 'the storage is full')) };
    const store = await littered(full);
    const { removed } = await store.gc({ graceMs: 0 });
    assert.deepEqual(removed.map((key) => key.split('/')[0]).sort(), ['maps', 'packs']);
    await assertWhole(store, 'base');
  });

  test('with another clock ages the leftovers of writers by that', async () => {
    const ages: unknown[] = [];
    const past = 1_000_000;
    const store = await littered({
      stat: (key) => Promise.resolve({ key, bytes: 0, modifiedMs: past }),
      removeLeftovers: (olderThanMs, options) => {
        ages.push([olderThanMs, options?.nowMs]);
        return Promise.resolve(0);
      },
    });
    await store.gc({ graceMs: 5000 });
    assert.deepEqual(ages, [[5000, past]]);
  });
});

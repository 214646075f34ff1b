import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ObjectStorage, StoredObject } from '../../../adapters/storage/object-storage.ts';

const MIB = 1 << 20;
const LIMITS = { timeout: 300_000 };

/** Abilities of a storage. */
export interface StorageTraits {
  /** Whether `put` with `ifAbsent` is atomic. */
  readonly canPutIfAbsent: boolean;
}

/** A fresh, empty storage. */
export interface OpenedStorage extends AsyncDisposable {
  readonly storage: ObjectStorage;
}

/**
 * Register the tests that every storage must pass.
 *
 * @param name - Of the storage.
 * @param open - Makes a fresh one; each test calls it once.
 */
export function storageConformance(
  name: string,
  traits: StorageTraits,
  open: () => Promise<OpenedStorage>,
): void {
  const check = (behaviour: string, body: (storage: ObjectStorage) => Promise<void>): void => {
    test(behaviour, LIMITS, async () => {
      await using opened = await open();
      await body(opened.storage);
    });
  };

  describe(name, () => {
    check('reads back what was put, in one piece', async (storage) => {
      await storage.put('packs/ab/01', [Buffer.from('one '), Buffer.from(''), Buffer.from('two')]);
      assert.equal((await storage.get('packs/ab/01', 7)).toString(), 'one two');
    });

    check('keeps an object without bytes', async (storage) => {
      await storage.put('empty', []);
      assert.equal((await storage.get('empty', 0)).length, 0);
      assert.equal((await storage.stat('empty'))?.bytes, 0);
      assert.equal((await storage.getRange('empty', 0, 0)).length, 0);
    });

    check('keeps an object of 12 MiB in parts of many sizes', async (storage) => {
      const parts = [1, MIB, 5 * MIB + 3, 7, 6 * MIB].map((length, index) =>
        Buffer.alloc(length, index + 1),
      );
      await storage.put('big', parts);
      assert.ok(Buffer.concat(parts).equals(await storage.get('big', 16 * MIB)));
      const middle = await storage.getRange('big', MIB - 1, 4);
      assert.deepEqual([...middle], [2, 2, 3, 3]);
    });

    check('takes more than a thousand parts', async (storage) => {
      const parts = Array.from({ length: 2500 }, (_, index) => Buffer.from([index & 0xff]));
      await storage.put('parts', parts);
      assert.ok(Buffer.concat(parts).equals(await storage.get('parts', 2500)));
    });

    check('replaces an object', async (storage) => {
      await storage.put('a', [Buffer.from('first')]);
      await storage.put('a', [Buffer.from('2nd')]);
      assert.equal((await storage.get('a', 10)).toString(), '2nd');
    });

    check('refuses to replace an object that must be absent', async (storage) => {
      await storage.put('names/x', [Buffer.from('first')], { ifAbsent: true });
      const second = storage.put('names/x', [Buffer.from('second')], { ifAbsent: true });
      await assert.rejects(second, { name: 'QemuFileError', code: 'EEXIST', reason: /names\/x/ });
      assert.equal((await storage.get('names/x', 10)).toString(), 'first');
      assert.equal(storage.canPutIfAbsent, traits.canPutIfAbsent);
    });

    if (traits.canPutIfAbsent) {
      check('lets one of eight writers of an absent key succeed', async (storage) => {
        const writers = Array.from({ length: 8 }, (_, index) =>
          storage.put('one', [Buffer.from(`${index}`)], { ifAbsent: true }),
        );
        const results = await Promise.allSettled(writers);
        const winners = results.flatMap(({ status }, index) =>
          status === 'fulfilled' ? [index] : [],
        );
        assert.equal(winners.length, 1);
        for (const result of results) {
          if (result.status === 'rejected') assertCode(result.reason, 'EEXIST');
        }
        assert.equal((await storage.get('one', 10)).toString(), `${winners[0]}`);
      });
    }

    check('reports an object that is not there', async (storage) => {
      const missing = { name: 'QemuFileError', code: 'ENOENT', reason: /packs\/none/ };
      await storage.put('packs/some', [Buffer.from('x')]);
      await assert.rejects(storage.get('packs/none', 100), missing);
      await assert.rejects(storage.getRange('packs/none', 0, 1), missing);
      assert.equal(await storage.stat('packs/none'), null);
      assert.equal(await storage.stat('packs/some/deeper'), null);
      assert.equal(await storage.stat('packs'), null, 'a common prefix is not an object');
    });

    check('refuses an object that is larger than the reader accepts', async (storage) => {
      await storage.put('a', [Buffer.alloc(100)]);
      await assert.rejects(storage.get('a', 99), { code: 'EFBIG', reason: /100 bytes/ });
    });

    check('reads ranges, and reports one that ends after the object', async (storage) => {
      await storage.put('a', [Buffer.from('0123456789')]);
      assert.equal((await storage.getRange('a', 0, 10)).toString(), '0123456789');
      assert.equal((await storage.getRange('a', 9, 1)).toString(), '9');
      assert.equal((await storage.getRange('a', 3, 0)).length, 0);
      const beyond = { name: 'QemuFileError', code: 'ENODATA' };
      await assert.rejects(storage.getRange('a', 9, 2), beyond);
      await assert.rejects(storage.getRange('a', 11, 1), beyond);
      await assert.rejects(storage.getRange('a', 10, 2 ** 40), beyond);
    });

    check('refuses a range that is not one', async (storage) => {
      await storage.put('a', [Buffer.from('0123456789')]);
      for (const [offset, length] of [
        [-1, 1],
        [0, -1],
        [0.5, 1],
        [Number.NaN, 1],
        [0, 2 ** 53],
      ] as const) {
        await assert.rejects(storage.getRange('a', offset, length), { code: 'EINVAL' });
      }
    });

    check('states size and time of an object', async (storage) => {
      const before = Date.now();
      await storage.put('packs/a', [Buffer.alloc(1234)]);
      const found = (await storage.stat('packs/a')) as StoredObject;
      assert.equal(found.key, 'packs/a');
      assert.equal(found.bytes, 1234);
      // S3 has whole seconds; file systems the time of the last clock tick.
      assert.ok(found.modifiedMs > before - 5000 && found.modifiedMs < Date.now() + 5000);
    });

    check('lists the objects under a prefix, wherever it is cut', async (storage) => {
      for (const key of ['packs/ab/1', 'packs/ab/2', 'packs/ac/1', 'packs', 'names/ab']) {
        if (key !== 'packs') await storage.put(key, [Buffer.from(key)]);
      }
      assert.deepEqual(await keysOf(storage, ''), [
        'names/ab',
        'packs/ab/1',
        'packs/ab/2',
        'packs/ac/1',
      ]);
      assert.deepEqual(await keysOf(storage, 'packs/'), ['packs/ab/1', 'packs/ab/2', 'packs/ac/1']);
      assert.deepEqual(await keysOf(storage, 'packs/ab'), ['packs/ab/1', 'packs/ab/2']);
      assert.deepEqual(await keysOf(storage, 'packs/a'), [
        'packs/ab/1',
        'packs/ab/2',
        'packs/ac/1',
      ]);
      assert.deepEqual(await keysOf(storage, 'packs/ac/1'), ['packs/ac/1']);
      assert.deepEqual(await keysOf(storage, 'packs/ac/1/'), []);
      assert.deepEqual(await keysOf(storage, 'other/'), []);
      const [only] = await collect(storage.list('names/'));
      assert.equal(only?.bytes, 8);
      assert.ok(Math.abs((only?.modifiedMs ?? 0) - Date.now()) < 60_000);
    });

    check('removes an object, and accepts one that is gone', async (storage) => {
      await storage.put('packs/a', [Buffer.from('a')]);
      await storage.put('packs/b', [Buffer.from('b')]);
      await storage.remove('packs/a');
      await storage.remove('packs/a');
      await storage.remove('nowhere/a');
      assert.equal(await storage.stat('packs/a'), null);
      assert.deepEqual(await keysOf(storage, ''), ['packs/b']);
    });

    check('refuses names that are not keys', async (storage) => {
      const long = 'x'.repeat(256);
      for (const key of [
        ...['', '/', '/etc/passwd', '..', '../x', 'a/../b', 'a//b', 'a/', './a', 'a/.b', '.a'],
        ...['a\0b', 'a b', 'a\\b', 'ä', 'a\n', long, 'abc/'.repeat(200)],
      ]) {
        const invalid = { name: 'QemuFileError', code: 'EINVAL' };
        await assert.rejects(storage.put(key, [Buffer.from('x')]), invalid, JSON.stringify(key));
        await assert.rejects(storage.get(key, 10), invalid);
        await assert.rejects(storage.getRange(key, 0, 1), invalid);
        await assert.rejects(storage.stat(key), invalid);
        await assert.rejects(storage.remove(key), invalid);
      }
      for (const prefix of ['/', '../', 'a//', './', '.x', 'a b']) {
        await assert.rejects(keysOf(storage, prefix), { code: 'EINVAL' });
      }
    });

    check('takes long keys with all characters that they may have', async (storage) => {
      const key = `A-Z_a.z/${'0123456789.tmp-'.repeat(16)}/${'y'.repeat(255)}`;
      await storage.put(key, [Buffer.from('long')], { ifAbsent: true });
      assert.equal((await storage.get(key, 4)).toString(), 'long');
      assert.deepEqual(await keysOf(storage, 'A-Z_'), [key]);
    });

    check('ends every operation when its signal is aborted', async (storage) => {
      const signal = AbortSignal.abort();
      const aborted = { name: 'QemuFileError', code: 'ECANCELED' };
      await storage.put('a', [Buffer.from('a')]);
      await assert.rejects(storage.put('b', [Buffer.from('b')], { signal }), aborted);
      await assert.rejects(storage.get('a', 10, { signal }), aborted);
      await assert.rejects(storage.getRange('a', 0, 1, { signal }), aborted);
      await assert.rejects(storage.stat('a', { signal }), aborted);
      await assert.rejects(storage.remove('a', { signal }), aborted);
      await assert.rejects(collect(storage.list('', { signal })), aborted);
      assert.deepEqual(await keysOf(storage, ''), ['a']);
    });

    check('has nothing left over from writers that ended in order', async (storage) => {
      await storage.put('a', [Buffer.from('a')]);
      assert.equal(await storage.removeLeftovers(0), 0);
      assert.equal((await storage.get('a', 1)).toString(), 'a');
    });

    check('serves many operations at the same time', async (storage) => {
      const keys = Array.from({ length: 24 }, (_, index) => `many/${index}`);
      await Promise.all(keys.map((key) => storage.put(key, [Buffer.from(key)])));
      const contents = await Promise.all(keys.map((key) => storage.get(key, 20)));
      assert.deepEqual(contents.map(String), keys);
      assert.equal((await keysOf(storage, 'many/')).length, 24);
      await Promise.all(keys.map((key) => storage.remove(key)));
      assert.deepEqual(await keysOf(storage, ''), []);
    });
  });
}

/** Return the sorted keys under a prefix. */
export async function keysOf(storage: ObjectStorage, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list(prefix)) keys.push(key);
  return keys.sort();
}

function assertCode(error: unknown, code: string): void {
  assert.equal((error as { code?: unknown }).code, code);
}

async function collect(objects: AsyncIterable<StoredObject>): Promise<StoredObject[]> {
  const all: StoredObject[] = [];
  for await (const object of objects) all.push(object);
  return all;
}

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { type TestContext, test } from 'node:test';
import { directoryStorage } from '../../../adapters/storage/directory-storage.ts';
import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { until } from '../../helpers/until.ts';

async function makeStorage(directory: TempDir, keys: readonly string[]): Promise<ObjectStorage> {
  const storage = directoryStorage(directory.join('store'));
  for (const key of keys) await storage.put(key, [Buffer.from('0123456789')]);
  return storage;
}

/** Return the files below a directory that this process has open. */
function openIn(directory: TempDir): string[] {
  const open: string[] = [];
  for (const fd of fs.readdirSync('/proc/self/fd')) {
    let target = '';
    try {
      target = fs.readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      continue; // The descriptor of the listing itself.
    }
    if (target.startsWith(directory.join('store/')))
      open.push(target.slice(directory.path.length + 7));
  }
  return open.sort();
}

/** Return a list to which each path that is opened is added. */
function recordOpens(t: TestContext): string[] {
  const paths: string[] = [];
  const { open } = fs;
  t.mock.method(fs, 'open', (path: string, ...rest: unknown[]) => {
    paths.push(path);
    Reflect.apply(open, fs, [path, ...rest]);
  });
  return paths;
}

test('ranges of one object open it once, at the same time and one after the other', async (t) => {
  await using directory = makeTempDir();
  const storage = await makeStorage(directory, ['packs/a']);
  const opens = recordOpens(t);
  const ranges = await Promise.all([0, 3, 6].map((at) => storage.getRange('packs/a', at, 3)));
  assert.deepEqual(ranges.map(String), ['012', '345', '678']);
  assert.equal(String(await storage.getRange('packs/a', 9, 1)), '9');
  assert.deepEqual(opens, [directory.join('store/packs/a')]);
  await storage.close();
});

test('the 64 objects that were read last stay open', async () => {
  await using directory = makeTempDir();
  const keys = Array.from({ length: 66 }, (_, index) => `packs/${index}`);
  const storage = await makeStorage(directory, keys);
  for (const key of keys.slice(0, 64)) await storage.getRange(key, 0, 1);
  await storage.getRange('packs/0', 0, 1);
  for (const key of keys.slice(64)) await storage.getRange(key, 0, 1);
  assert.deepEqual(
    openIn(directory),
    keys.filter((key) => key !== 'packs/1' && key !== 'packs/2').sort(),
  );
  await storage.close();
});

test('objects that are read at the same time all stay open until they are read', async () => {
  await using directory = makeTempDir();
  const keys = Array.from({ length: 90 }, (_, index) => `packs/${index}`);
  const storage = await makeStorage(directory, keys);
  const ranges = await Promise.all(keys.map((key) => storage.getRange(key, 2, 2)));
  assert.deepEqual(new Set(ranges.map(String)), new Set(['23']));
  assert.equal(openIn(directory).length, 64);
  await storage.close();
});

test('close closes all objects, those that are being read after that', async () => {
  await using directory = makeTempDir();
  const storage = await makeStorage(directory, ['a', 'b']);
  await storage.getRange('a', 0, 1);
  const reading = storage.getRange('b', 0, 10);
  await storage.close();
  assert.ok(!openIn(directory).includes('a'));
  assert.equal(String(await reading), '0123456789');
  assert.deepEqual(openIn(directory), []);
});

test('objects are closed after a time without a read, without a call of close', async () => {
  await using directory = makeTempDir();
  const storage = await makeStorage(directory, ['a']);
  await storage.getRange('a', 0, 1);
  assert.deepEqual(openIn(directory), ['a']);
  await until(() => openIn(directory).length === 0, { what: 'the object to be closed' });
  assert.equal(String(await storage.getRange('a', 1, 1)), '1');
  await storage.close();
});

test('a removed object is closed and no longer there', async () => {
  await using directory = makeTempDir();
  const storage = await makeStorage(directory, ['a']);
  await storage.getRange('a', 0, 1);
  await storage.remove('a');
  assert.deepEqual(openIn(directory), []);
  await assert.rejects(storage.getRange('a', 0, 1), { code: 'ENOENT' });
});

test('an object that is replaced is read anew', async () => {
  await using directory = makeTempDir();
  const storage = await makeStorage(directory, ['a']);
  await storage.getRange('a', 0, 1);
  await storage.put('a', [Buffer.from('longer than before')]);
  assert.deepEqual(openIn(directory), []);
  assert.equal(String(await storage.getRange('a', 0, 18)), 'longer than before');
  await storage.close();
});

test('an object that another process removes stays readable while it is open', async () => {
  await using directory = makeTempDir();
  const storage = await makeStorage(directory, ['a']);
  await storage.getRange('a', 0, 1);
  fs.unlinkSync(directory.join('store/a'));
  assert.equal(String(await storage.getRange('a', 5, 5)), '56789');
  await storage.close();
  await assert.rejects(storage.getRange('a', 5, 5), { code: 'ENOENT' });
});

test('an object that could not be read is opened anew', async (t) => {
  await using directory = makeTempDir();
  const storage = await makeStorage(directory, ['a']);
  await assert.rejects(storage.getRange('b', 0, 1), { code: 'ENOENT' });
  await storage.put('b', [Buffer.from('b')]);
  assert.equal(String(await storage.getRange('b', 0, 1)), 'b');
  await storage.getRange('a', 0, 1);
  t.mock.method(fs, 'read', (...args: unknown[]) => {
    const stale = Object.assign(new Error('ESTALE: injected'), { code: 'ESTALE' });
    setImmediate(args.at(-1) as (error: Error) => void, stale);
  });
  await assert.rejects(storage.getRange('a', 0, 1), { code: 'ESTALE' });
  t.mock.restoreAll();
  assert.deepEqual(openIn(directory), ['b']);
  assert.equal(String(await storage.getRange('a', 0, 1)), '0');
  await storage.close();
});

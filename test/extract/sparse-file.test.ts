import assert from 'node:assert/strict';
import fs from 'node:fs';
import { type TestContext, test } from 'node:test';
import { SparseFile, temporarySparseFile } from '../../lib/extract/index.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { failsAt } from '../helpers/errors.ts';

const PAGE = 4096;

function newFile(directory: TempDir, name = 'file'): SparseFile {
  return new SparseFile(fs.openSync(directory.join(name), 'wx+'), name);
}

function read(store: SparseFile, at: number, length: number): Buffer {
  const target = Buffer.alloc(length, 0xee);
  store.read(at, target);
  return target;
}

type WriteArguments = [fd: number, bytes: Uint8Array, offset: number, size: number, at: number];

/** Record every call of writeSync as position and length. */
function countWrites(t: TestContext): { calls: [at: number, size: number][] } {
  const seen: { calls: [number, number][] } = { calls: [] };
  const { writeSync } = fs;
  t.mock.method(fs, 'writeSync', (...args: WriteArguments) => {
    seen.calls.push([args[4], args[3]]);
    return writeSync(...args);
  });
  return seen;
}

test('written bytes are read back before and after the flush, zeros elsewhere', async () => {
  await using directory = makeTempDir();
  const store = newFile(directory);
  store.write(PAGE, Buffer.alloc(PAGE, 1));
  store.write(2 * PAGE, Buffer.alloc(PAGE, 2));
  assert.deepEqual(read(store, 2 * PAGE - 1, 2), Buffer.from([1, 2]));
  assert.deepEqual(read(store, PAGE - 1, 2), Buffer.from([0, 1]));
  assert.deepEqual(read(store, 3 * PAGE - 1, 3), Buffer.from([2, 0, 0]));
  store.write(100 * PAGE, Buffer.alloc(PAGE, 3));
  assert.deepEqual(read(store, PAGE - 1, 2), Buffer.from([0, 1]));
  assert.deepEqual(read(store, 101 * PAGE - 1, 2), Buffer.from([3, 0]));
  store.flush();
  assert.deepEqual(read(store, 2 ** 40, 2), Buffer.alloc(2));
  store.close();
  store.close();
});

test('adjacent pages are written to the file with few calls', async (t) => {
  await using directory = makeTempDir();
  const store = newFile(directory);
  const writes = countWrites(t);
  for (let page = 0; page < 130; page++) {
    store.write((10 + page) * PAGE, Buffer.alloc(PAGE, page + 1));
  }
  store.flush();
  store.flush();
  assert.deepEqual(writes.calls, [
    [10 * PAGE, 64 * PAGE],
    [74 * PAGE, 64 * PAGE],
    [138 * PAGE, 2 * PAGE],
  ]);
  const bytes = fs.readFileSync(directory.join('file'));
  for (let page = 0; page < 130; page++) assert.equal(bytes[(10 + page) * PAGE + 77], page + 1);
  store.close();
});

test('the last write to a page wins, gathered or not', async () => {
  await using directory = makeTempDir();
  const store = newFile(directory);
  store.write(0, Buffer.alloc(3 * PAGE, 1));
  store.write(PAGE, Buffer.alloc(PAGE, 2));
  store.write(3 * PAGE, Buffer.alloc(PAGE, 3));
  store.write(2 * PAGE, Buffer.alloc(300_000, 4));
  store.write(2 * PAGE, Buffer.alloc(10, 5));
  store.zero(0, 16);
  store.truncate(2 * PAGE + 300_000);
  const bytes = fs.readFileSync(directory.join('file'));
  const wanted = Buffer.alloc(2 * PAGE + 300_000, 4);
  wanted
    .fill(1, 0, PAGE)
    .fill(0, 0, 16)
    .fill(2, PAGE, 2 * PAGE);
  wanted.fill(5, 2 * PAGE, 2 * PAGE + 10);
  assert.deepEqual(bytes, wanted);
  store.close();
});

test('the file has holes where nothing or only zeros were written', async () => {
  await using directory = makeTempDir();
  const store = newFile(directory);
  store.zero(0, 2 ** 38);
  store.write(2 ** 38, Buffer.alloc(PAGE, 1));
  store.zero(2 ** 39, 2 ** 40);
  store.truncate(2 ** 40);
  const stats = fs.statSync(directory.join('file'));
  assert.equal(stats.size, 2 ** 40);
  assert.ok(stats.blocks * 512 <= 16 * PAGE, `${stats.blocks} blocks`);
  store.close();
});

test('zero() overwrites written bytes only', async (t) => {
  await using directory = makeTempDir();
  const store = newFile(directory);
  store.write(10 * PAGE, Buffer.alloc(100 * PAGE, 1));
  store.flush();
  const writes = countWrites(t);
  store.zero(0, 2 ** 50);
  store.flush();
  assert.equal(
    writes.calls.reduce((sum, [, size]) => sum + size, 0),
    100 * PAGE,
  );
  assert.deepEqual(read(store, 10 * PAGE, 100 * PAGE), Buffer.alloc(100 * PAGE));
  store.zero(0, 2 ** 50);
  store.flush();
  assert.equal(writes.calls.length, 2);
  store.close();
});

test('zero() over part of a page keeps the rest of the page', async () => {
  await using directory = makeTempDir();
  const store = newFile(directory);
  store.write(0, Buffer.alloc(2 * PAGE, 1));
  store.zero(1024, 1024);
  store.zero(PAGE + 4000, PAGE);
  const wanted = Buffer.alloc(2 * PAGE, 1)
    .fill(0, 1024, 2048)
    .fill(0, PAGE + 4000);
  assert.deepEqual(read(store, 0, 2 * PAGE), wanted);
  store.zero(0, 1024);
  assert.deepEqual(read(store, 0, 2 * PAGE), wanted.fill(0, 0, 1024));
  store.close();
});

test('short writes and reads are continued', async (t) => {
  await using directory = makeTempDir();
  const store = newFile(directory);
  const { writeSync, readSync } = fs;
  t.mock.method(fs, 'writeSync', (...args: WriteArguments) => {
    const [fd, bytes, offset, length, position] = args;
    return writeSync(fd, bytes, offset, Math.min(length, 1000), position);
  });
  t.mock.method(fs, 'readSync', (...args: WriteArguments) => {
    const [fd, bytes, offset, length, position] = args;
    return readSync(fd, bytes, offset, Math.min(length, 700), position);
  });
  const bytes = Buffer.from(Array.from({ length: 10_000 }, (_, index) => index % 253));
  store.write(5, bytes);
  store.flush();
  assert.deepEqual(read(store, 5, 10_000), bytes);
  assert.deepEqual(read(store, 10_000, 10).subarray(5), Buffer.alloc(5));
  store.close();
});

test('an error names the operation, file and position, and is kept as the failure of the file', async (t) => {
  await using directory = makeTempDir();
  const store = newFile(directory);
  store.write(8 * PAGE, Buffer.alloc(PAGE, 1));
  const full = t.mock.method(fs, 'writeSync', () => {
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  });
  assert.throws(() => store.flush(), failsAt('ENOSPC', 'write', 8 * PAGE));
  assert.throws(() => store.write(0, Buffer.alloc(1)), /ENOSPC: write: cannot write file at byte/);
  assert.equal(store.failure?.position, 8 * PAGE);
  full.mock.mockImplementation(() => 0);
  assert.throws(() => store.flush(), failsAt('EIO', 'write', 8 * PAGE));
  t.mock.method(fs, 'readSync', () => {
    throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
  });
  assert.throws(() => store.read(PAGE, Buffer.alloc(1)), failsAt('EIO', 'read', PAGE));
  store.close();
});

test('a temporary file has no name', async () => {
  await using directory = makeTempDir();
  const store = temporarySparseFile(directory.path);
  assert.deepEqual(fs.readdirSync(directory.path), []);
  store.write(0, Buffer.from('secret'));
  assert.equal(read(store, 0, 6).toString(), 'secret');
  store.close();
});

test('a temporary file is private while it has a name', async (t) => {
  await using directory = makeTempDir();
  const modes: number[] = [];
  const { unlinkSync } = fs;
  t.mock.method(fs, 'unlinkSync', (path: string) => {
    modes.push(fs.statSync(path).mode & 0o777);
    unlinkSync(path);
  });
  temporarySparseFile(directory.path).close();
  assert.deepEqual(modes, [0o600]);
});

test('an error of creating a temporary file names the directory', async () => {
  await using directory = makeTempDir();
  const missing = directory.join('missing');
  assert.throws(() => temporarySparseFile(missing), failsAt('ENOENT', 'open'));
  assert.throws(() => temporarySparseFile(missing), new RegExp(missing));
});

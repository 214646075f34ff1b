import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { directoryStorage } from '../../../adapters/storage/directory-storage.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { injectedError } from '../../helpers/errors.ts';
import { modeOf } from '../../helpers/files.ts';
import { mountSmallDisk } from '../../helpers/storage/small-disk.ts';
import { until } from '../../helpers/until.ts';
import { keysOf, storageConformance } from './conformance.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const DAY_MS = 24 * 3_600_000;
const PARTIAL = /^\..*\.qemu-file-partial$/;

storageConformance('storage in a directory', { canPutIfAbsent: true }, async () => {
  const directory = makeTempDir();
  const storage = directoryStorage(directory.join('store'));
  await storage.put('made', []);
  await storage.remove('made');
  return {
    storage,
    [Symbol.asyncDispose]: async () => {
      await storage.close();
      directory.remove();
    },
  };
});

/** Return the names in a directory, at any depth. */
function namesIn(path: string): string[] {
  if (!fs.existsSync(path)) return [];
  return fs.readdirSync(path, { recursive: true }).map(String).sort();
}

/** Make a function of fs fail. */
function failing(t: TestContext, name: 'fsync' | 'writev', code: string): void {
  t.mock.method(fs, name, (...args: unknown[]) => {
    setImmediate(args.at(-1) as (error: Error) => void, injectedError(code));
  });
}

async function putAndGet(directory: TempDir): Promise<void> {
  const storage = directoryStorage(directory.join('store'));
  await storage.put('packs/a', [Buffer.from('content')], { ifAbsent: true });
  assert.equal(String(await storage.get('packs/a', 10)), 'content');
}

test('only the owner can read: directories have mode 0700, objects 0600', async () => {
  await using directory = makeTempDir();
  await putAndGet(directory);
  assert.equal(modeOf(directory.join('store')), 0o700);
  assert.equal(modeOf(directory.join('store/packs')), 0o700);
  assert.equal(modeOf(directory.join('store/packs/a')), 0o600);
  assert.deepEqual(namesIn(directory.join('store')), ['packs', 'packs/a']);
});

test('the directory that contains the store must exist', async () => {
  await using directory = makeTempDir();
  const storage = directoryStorage(directory.join('none/store'));
  await assert.rejects(storage.put('a', []), { code: 'ENOENT', reason: /none\/store/ });
  assert.deepEqual(namesIn(directory.path), []);
});

test('a directory that does not exist has no objects to list, to read or to stat', async () => {
  await using directory = makeTempDir();
  const storage = directoryStorage(directory.join('store'));
  await assert.rejects(keysOf(storage, ''), { code: 'ENOENT', reason: /store/ });
  await assert.rejects(storage.get('a', 1), { code: 'ENOENT' });
  await assert.rejects(storage.removeLeftovers(0), { code: 'ENOENT' });
  assert.equal(await storage.stat('a'), null);
  assert.ok(!fs.existsSync(directory.join('store')), 'reading creates nothing');
});

test('a link to the directory is followed, links below it are not', async () => {
  await using directory = makeTempDir();
  fs.mkdirSync(directory.join('real'));
  fs.symlinkSync('real', directory.join('store'));
  await putAndGet(directory);
  fs.mkdirSync(directory.join('secret'));
  fs.writeFileSync(directory.join('secret/key'), 'secret');
  fs.symlinkSync('../secret', directory.join('real/out'));
  fs.symlinkSync('../../secret/key', directory.join('real/packs/link'));
  const storage = directoryStorage(directory.join('store'));
  const refused = { code: 'EIO', reason: /symbolic link, which is not followed/ };
  for (const key of ['out/key', 'packs/link']) {
    await assert.rejects(storage.get(key, 100), refused);
    await assert.rejects(storage.getRange(key, 0, 1), refused);
    await assert.rejects(storage.stat(key), refused);
  }
  await assert.rejects(storage.put('out/new', [Buffer.from('x')]), refused);
  await assert.rejects(storage.remove('out/key'), refused);
  assert.deepEqual(await keysOf(storage, ''), ['packs/a']);
  assert.equal(await storage.removeLeftovers(0), 0);
  assert.deepEqual(namesIn(directory.join('secret')), ['key']);
});

test('a write in the place of a link replaces the link, not its target', async () => {
  await using directory = makeTempDir();
  fs.mkdirSync(directory.join('store'));
  fs.writeFileSync(directory.join('target'), 'target');
  fs.symlinkSync('../target', directory.join('store/a'));
  const storage = directoryStorage(directory.join('store'));
  await assert.rejects(storage.put('a', [], { ifAbsent: true }), { code: 'EEXIST' });
  await storage.put('a', [Buffer.from('new')]);
  assert.equal(fs.readFileSync(directory.join('target'), 'utf8'), 'target');
  assert.equal(String(await storage.get('a', 3)), 'new');
});

test('special files, directories and foreign names in the directory are no objects', async () => {
  await using directory = makeTempDir();
  await putAndGet(directory);
  const path = directory.join('store');
  const fifo = spawn('mkfifo', [`${path}/fifo`]);
  await once(fifo, 'close');
  for (const name of ['with space', '.hidden', 'new\nline', 'ä']) {
    fs.writeFileSync(`${path}/${name}`, 'x');
  }
  fs.mkdirSync(`${path}/.git`);
  fs.writeFileSync(`${path}/.git/config`, 'x');
  const storage = directoryStorage(path);
  assert.deepEqual(await keysOf(storage, ''), ['packs/a']);
  await assert.rejects(storage.get('fifo', 10), { code: 'EIO', reason: /a device, a FIFO/ });
  await assert.rejects(storage.get('packs', 10), { code: 'ENOENT', reason: /a directory, not an/ });
  await assert.rejects(storage.get('packs/a/b', 10), { code: 'ENOENT' });
  await assert.rejects(storage.put('packs', []), { code: 'EIO' });
  await assert.rejects(storage.put('packs/a/b', []), { name: 'QemuFileError' });
  assert.equal(String(await storage.get('packs/a', 10)), 'content');
});

test('a full disk is an error that names the object, and leaves nothing', async () => {
  await using disk = mountSmallDisk({ bytes: 1 << 20 });
  const storage = directoryStorage(disk.path);
  await storage.put('packs/small', [Buffer.from('x')]);
  await assert.rejects(storage.put('packs/big', [Buffer.alloc(700_000), Buffer.alloc(700_000)]), {
    name: 'QemuFileError',
    code: 'ENOSPC',
    reason: /packs\/big: no space left on device/,
  });
  assert.deepEqual(namesIn(disk.path), ['packs', 'packs/small']);
  await storage.put('packs/big', [Buffer.alloc(700_000)]);
});

test('a failing disk is an error that names the object, and leaves nothing', async (t) => {
  await using directory = makeTempDir();
  await putAndGet(directory);
  const storage = directoryStorage(directory.join('store'));
  for (const call of ['writev', 'fsync'] as const) {
    failing(t, call, 'EIO');
    await assert.rejects(storage.put('packs/b', [Buffer.from('x')]), {
      code: 'EIO',
      reason: /packs\/b: the disk or the server failed/,
    });
    t.mock.restoreAll();
  }
  assert.deepEqual(await keysOf(storage, ''), ['packs/a']);
  assert.deepEqual(namesIn(directory.join('store')), ['packs', 'packs/a']);
});

test('a name appears only after the bytes are durable, and the name before put ends', async (t) => {
  await using directory = makeTempDir();
  const storage = directoryStorage(directory.join('store'));
  await storage.put('packs/a', []);
  const calls: string[] = [];
  const { fsync } = fs;
  t.mock.method(fs, 'fsync', (fd: number, done: fs.NoParamCallback) => {
    const path = fs.readlinkSync(`/proc/self/fd/${fd}`).slice(directory.path.length + 1);
    calls.push(`fsync ${PARTIAL.test(path.split('/').at(-1) ?? '') ? 'file' : path}`);
    fsync(fd, done);
  });
  const { rename, link } = fs.promises;
  t.mock.method(fs.promises, 'rename', (from: string, to: string) => {
    calls.push('rename');
    return rename(from, to);
  });
  t.mock.method(fs.promises, 'link', (from: string, to: string) => {
    calls.push('link');
    return link(from, to);
  });
  await storage.put('packs/b', [Buffer.from('b')]);
  await storage.put('packs/c', [Buffer.from('c')], { ifAbsent: true });
  await storage.put('maps/d', [Buffer.from('d')]);
  await storage.remove('packs/b');
  assert.deepEqual(calls, [
    ...['fsync file', 'rename', 'fsync store/packs'],
    ...['fsync file', 'link', 'fsync store/packs'],
    ...['fsync store', 'fsync file', 'rename', 'fsync store/maps'],
    'fsync store/packs',
  ]);
});

test('a file system without hard links is written to nevertheless', async (t) => {
  await using directory = makeTempDir();
  const storage = directoryStorage(directory.join('store'));
  t.mock.method(fs.promises, 'link', () => Promise.reject(injectedError('EPERM')));
  assert.equal(storage.canPutIfAbsent, null);
  await storage.put('a', [Buffer.from('first')], { ifAbsent: true });
  assert.equal(storage.canPutIfAbsent, false);
  await assert.rejects(storage.put('a', [], { ifAbsent: true }), { code: 'EEXIST' });
  assert.equal(String(await storage.get('a', 5)), 'first');
  assert.deepEqual(namesIn(directory.join('store')), ['a']);
});

test('an NFS server that reports EEXIST for its own success is believed', async (t) => {
  await using directory = makeTempDir();
  const storage = directoryStorage(directory.join('store'));
  const { link } = fs.promises;
  t.mock.method(fs.promises, 'link', async (from: string, to: string) => {
    await link(from, to);
    throw injectedError('EEXIST');
  });
  await storage.put('a', [Buffer.from('first')], { ifAbsent: true });
  t.mock.restoreAll();
  await assert.rejects(storage.put('a', [], { ifAbsent: true }), { code: 'EEXIST' });
  assert.deepEqual(namesIn(directory.join('store')), ['a']);
});

/** Start a program that puts objects one after another until it is killed. */
async function startWriter(path: string): Promise<ChildProcess> {
  const program = `
    import { directoryStorage } from './adapters/storage/directory-storage.ts';
    const storage = directoryStorage(${JSON.stringify(path)});
    console.log('ready');
    for (let index = 0; ; index += 1) {
      const content = Buffer.alloc(1 << 20, index);
      await storage.put('packs/' + index, [content], { ifAbsent: index % 2 === 0 });
    }`;
  const args = ['--import', 'tsx', '--input-type=module', '--eval', program];
  const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  return child;
}

/** Stop a writer at a moment at which it has a temporary file. */
async function stopWhileWriting(child: ChildProcess, path: string): Promise<void> {
  const isWriting = (): boolean =>
    namesIn(path).some((name) => PARTIAL.test(name.split('/').at(-1) ?? ''));
  const isStopped = (): boolean =>
    / T /.test(fs.readFileSync(`/proc/${child.pid}/stat`, 'utf8').replace(/^.*\)/, ''));
  await until(
    async () => {
      if (!isWriting()) return false;
      child.kill('SIGSTOP');
      await until(isStopped, { what: 'the writer to stop', intervalMs: 0 });
      if (isWriting()) return true;
      child.kill('SIGCONT');
      return false;
    },
    { what: 'a temporary file', intervalMs: 0 },
  );
}

test('a writer that is killed leaves whole objects, and a temporary file that is removed', async () => {
  await using directory = makeTempDir();
  const path = directory.join('store');
  const storage = directoryStorage(path);
  let leftovers = 0;
  for (let round = 0; round < 3; round += 1) {
    const child = await startWriter(path);
    await stopWhileWriting(child, path);
    assert.equal(await storage.removeLeftovers(0), 0, 'its writer lives');
    child.kill('SIGKILL');
    await once(child, 'close');
    for await (const { key, bytes } of storage.list('packs/')) {
      assert.equal(bytes, 1 << 20);
      const content = await storage.get(key, 1 << 20);
      assert.ok(content.equals(Buffer.alloc(1 << 20, Number(key.split('/')[1]))));
      await storage.remove(key);
    }
    assert.equal(await storage.removeLeftovers(DAY_MS), 0, 'it is too young');
    leftovers += await storage.removeLeftovers(0);
    assert.deepEqual(namesIn(path), ['packs']);
  }
  assert.ok(leftovers > 0);
});

test('temporary files of other hosts are removed when they are a day old', async () => {
  await using directory = makeTempDir();
  await putAndGet(directory);
  const path = directory.join('store/packs/.b.01234567-123-456-0123456789ab.qemu-file-partial');
  fs.writeFileSync(path, 'half');
  const storage = directoryStorage(directory.join('store'));
  assert.equal(await storage.removeLeftovers(0), 0);
  const old = new Date(Date.now() - DAY_MS - 60_000);
  fs.utimesSync(path, old, old);
  assert.equal(await storage.removeLeftovers(2 * DAY_MS), 0, 'the caller wants them older');
  const nowMs = old.getTime() + 60_000;
  assert.equal(await storage.removeLeftovers(0, { nowMs }), 0, 'by the clock of the server');
  assert.equal(await storage.removeLeftovers(0), 1);
  assert.deepEqual(await keysOf(storage, ''), ['packs/a']);
});

test('an abort between writing and publishing leaves nothing', async (t) => {
  await using directory = makeTempDir();
  await putAndGet(directory);
  const storage = directoryStorage(directory.join('store'));
  const abort = new AbortController();
  const { fsync } = fs;
  t.mock.method(fs, 'fsync', (fd: number, done: fs.NoParamCallback) => {
    abort.abort();
    fsync(fd, done);
  });
  await assert.rejects(storage.put('packs/b', [Buffer.from('b')], { signal: abort.signal }), {
    code: 'ECANCELED',
  });
  assert.deepEqual(namesIn(directory.join('store')), ['packs', 'packs/a']);
});

test('an empty path and one with NUL are refused', () => {
  for (const path of ['', 'a\0b']) {
    assert.throws(() => directoryStorage(path), { name: 'QemuFileError', code: 'EINVAL' });
  }
});

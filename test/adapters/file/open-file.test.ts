import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import { basename } from 'node:path';
import { type TestContext, test } from 'node:test';
import { openFd, type PathWriteOps } from '../../../adapters/file/open-file.ts';
import { openPath } from '../../../adapters/open-path.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { injectedError } from '../../helpers/errors.ts';
import { modeOf } from '../../helpers/files.ts';
import {
  collect,
  pattern,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';
import { conformance } from '../ops-conformance.ts';

async function write(ops: PathWriteOps, text: string): Promise<void> {
  assert.equal(await ops.writevBuffer([Buffer.from(text)], 0), text.length);
}

function list(directory: TempDir): string[] {
  return fs.readdirSync(directory.path).sort();
}

function contentOf(path: string): string {
  return fs.readFileSync(path, 'latin1');
}

function countFds(): number {
  return fs.readdirSync('/proc/self/fd').length;
}

/** Makes a function of fs, or of fs.promises, fail. */
function failing(t: TestContext, name: 'fsync' | 'writev' | 'open', code: string): void {
  t.mock.method(fs, name, (...args: unknown[]) => {
    setImmediate(args.at(-1) as (error: Error) => void, injectedError(code));
  });
}

conformance('new file', { direction: 'write', isStore: true }, async () => {
  const directory = makeTempDir();
  const path = directory.join('file');
  let read = 0;
  return {
    ops: await openFd(path, { direction: 'write' }),
    peer: {
      async read() {
        const bytes = fs.readFileSync(path).subarray(read);
        read += bytes.length;
        return bytes;
      },
      close: async () => {},
    },
    dispose: async () => directory.remove(),
  };
});

conformance('existing file', { direction: 'read', isStore: true }, async () => {
  const directory = makeTempDir();
  const path = directory.join('file');
  fs.writeFileSync(path, '');
  return {
    ops: await openFd(path, { direction: 'read' }),
    peer: { write: async (bytes) => fs.appendFileSync(path, bytes), close: async () => {} },
    dispose: async () => directory.remove(),
  };
});

test('reads a file from its offset to its end', async () => {
  await using directory = makeTempDir();
  const bytes = pattern(200_000);
  fs.writeFileSync(directory.join('file'), bytes);
  const ops = await openFd(directory.join('file'), { direction: 'read', offset: 1000 });
  const read = await collect(() => readOnce(ops));
  assert.ok(read.equals(bytes.subarray(1000)));
  await ops.close();
});

test('shows a file under its name only when it is whole', async () => {
  await using directory = makeTempDir();
  const path = directory.join('guest.bin');
  const ops = await openFd(path, { direction: 'write' });
  await write(ops, 'whole');
  assert.equal(ops.path, fs.realpathSync(directory.path).concat('/guest.bin'));
  const [partial, ...others] = list(directory);
  assert.deepEqual(others, []);
  assert.match(partial ?? '', /^\.guest\.bin\.[0-9a-f-]+\.qemu-file-partial$/);
  assert.equal(basename(ops.partialPath ?? ''), partial);
  assert.equal(modeOf(directory.join(partial ?? '')), 0o600);
  await ops.close();
  assert.deepEqual(list(directory), ['guest.bin']);
  assert.equal(contentOf(path), 'whole');
  assert.equal(modeOf(path), 0o600);
});

test('leaves an existing file alone until the new one is whole, and then makes it private', async () => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  fs.writeFileSync(path, 'old', { mode: 0o644 });
  const ops = await openFd(path, { direction: 'write' });
  await write(ops, 'new');
  assert.equal(contentOf(path), 'old');
  await ops.close();
  assert.equal(contentOf(path), 'new');
  assert.equal(modeOf(path), 0o600);
  assert.deepEqual(list(directory), ['file']);
});

test('creates a file with the requested mode', async () => {
  await using directory = makeTempDir();
  const ops = await openFd(directory.join('file'), { direction: 'write', mode: 0o640 });
  await ops.close();
  assert.equal(modeOf(directory.join('file')), 0o640 & ~process.umask());
});

test('is durable before it has its name, and its name after that', async (t) => {
  await using directory = makeTempDir();
  const ops = await openFd(directory.join('file'), { direction: 'write' });
  await write(ops, 'abc');
  const steps: string[] = [];
  const { fsync } = fs;
  const { rename } = fs.promises;
  t.mock.method(fs, 'fsync', (fd: number, done: fs.NoParamCallback) => {
    steps.push(fs.fstatSync(fd).isDirectory() ? 'sync directory' : 'sync file');
    fsync(fd, done);
  });
  t.mock.method(fs.promises, 'rename', (from: string, to: string) => {
    steps.push('rename');
    return rename(from, to);
  });
  await ops.close();
  assert.deepEqual(steps, ['sync file', 'rename', 'sync directory']);
});

test('removes the temporary file and keeps the old one when closed with an error', async () => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  fs.writeFileSync(path, 'old');
  const ops = await openFd(path, { direction: 'write' });
  await write(ops, 'half of the n');
  await ops.close(new Error('the connection broke'));
  assert.deepEqual(list(directory), ['file']);
  assert.equal(contentOf(path), 'old');
});

test('keeps the partial file with `keepPartial`', async () => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  const ops = await openFd(path, { direction: 'write', keepPartial: true });
  await write(ops, 'half');
  await ops.close(new Error('the connection broke'));
  assert.equal(contentOf(ops.partialPath ?? ''), 'half');
  assert.equal(fs.existsSync(path), false);
});

test('asks whether to keep the partial file, by the error that it did not get whole for', async () => {
  await using directory = makeTempDir();
  const asked: [message: string, path: string][] = [];
  const keepPartial = (error: Error, path: string): boolean => {
    asked.push([error.message, path]);
    return error.message === 'worth it';
  };
  const closed = async (error?: Error): Promise<string | undefined> => {
    const ops = await openFd(directory.join('file'), { direction: 'write', keepPartial });
    await write(ops, 'half');
    await ops.close(error);
    return ops.partialPath;
  };
  const dropped = await closed(new Error('not worth it'));
  assert.deepEqual(list(directory), []);
  const kept = await closed(new Error('worth it'));
  assert.deepEqual(list(directory), [basename(kept ?? '')]);
  assert.equal(contentOf(kept ?? ''), 'half');
  assert.equal(modeOf(kept ?? ''), 0o600);
  // A whole file is no question.
  await closed();
  assert.deepEqual(asked, [
    ['not worth it', dropped],
    ['worth it', kept],
  ]);
});

test('asks whether to keep the partial file of which a write failed, by that error', async (t) => {
  await using directory = makeTempDir();
  const asked: unknown[] = [];
  const ops = await openFd(directory.join('file'), {
    direction: 'write',
    keepPartial: (error) => asked.push((error as NodeJS.ErrnoException).code) > 0,
  });
  await write(ops, 'abc');
  failing(t, 'writev', 'ENOSPC');
  await assert.rejects(
    promised(() => ops.writevBuffer([Buffer.from('def')], 3)),
    { code: 'ENOSPC' },
  );
  await assert.rejects(ops.close(), { code: 'ENOSPC' });
  assert.deepEqual(asked, ['ENOSPC']);
  assert.deepEqual(list(directory), [basename(ops.partialPath ?? '')]);
});

test('does not publish a file of which a write failed', async (t) => {
  await using directory = makeTempDir();
  const ops = await openFd(directory.join('file'), { direction: 'write' });
  await write(ops, 'abc');
  failing(t, 'writev', 'ENOSPC');
  const written = promised(() => ops.writevBuffer([Buffer.from('def')], 3));
  await assert.rejects(written, { code: 'ENOSPC', position: 3 });
  await assert.rejects(ops.close(), { code: 'ENOSPC', position: 3 });
  assert.deepEqual(list(directory), []);
});

test('does not publish a file of which a write was cut off', async (t) => {
  await using directory = makeTempDir();
  const ops = await openFd(directory.join('file'), { direction: 'write' });
  failing(t, 'writev', 'EAGAIN');
  const written = rejectsWith(promised(() => ops.writevBuffer([Buffer.from('def')], 3)));
  await rejectsWith(ops.close());
  await written;
  assert.deepEqual(list(directory), []);
});

test('publishes a file whose writing was shut down after the last byte', async () => {
  await using directory = makeTempDir();
  const ops = await openFd(directory.join('file'), { direction: 'write' });
  await write(ops, 'abc');
  ops.shutDown(false, true);
  await ops.close();
  assert.equal(contentOf(directory.join('file')), 'abc');
});

test('fails to close, and leaves the old file, when the new one cannot be made durable', async (t) => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  fs.writeFileSync(path, 'old');
  const ops = await openFd(path, { direction: 'write' });
  await write(ops, 'new');
  failing(t, 'fsync', 'EIO');
  await assert.rejects(ops.close(), { code: 'EIO', operation: 'close' });
  assert.deepEqual(list(directory), ['file']);
  assert.equal(contentOf(path), 'old');
});

test('fails to close, and removes the temporary file, when the rename fails', async (t) => {
  await using directory = makeTempDir();
  const ops = await openFd(directory.join('file'), { direction: 'write' });
  t.mock.method(fs.promises, 'rename', () => Promise.reject(injectedError('EROFS')));
  await assert.rejects(ops.close(), { code: 'EROFS', operation: 'close' });
  assert.deepEqual(list(directory), []);
});

for (const [code, fails] of [
  ['EINVAL', false],
  ['EIO', true],
] as const) {
  test(`${fails ? 'reports' : 'does not mind'} ${code} when the directory is synced`, async (t) => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write' });
    const { fsync } = fs;
    t.mock.method(fs, 'fsync', (fd: number, done: fs.NoParamCallback) => {
      if (fs.fstatSync(fd).isDirectory()) setImmediate(done, injectedError(code));
      else fsync(fd, done);
    });
    if (fails) await rejectsWith(ops.close(), code);
    else await ops.close();
    assert.deepEqual(list(directory), ['file']);
  });
}

test('replaces the target of a link, not the link', async () => {
  await using directory = makeTempDir();
  fs.mkdirSync(directory.join('far'));
  fs.writeFileSync(directory.join('far/target'), 'old');
  fs.symlinkSync('far/target', directory.join('link'));
  const ops = await openFd(directory.join('link'), { direction: 'write' });
  assert.equal(ops.path, fs.realpathSync(directory.join('far/target')));
  await write(ops, 'new');
  await ops.close();
  assert.equal(fs.readlinkSync(directory.join('link')), 'far/target');
  assert.equal(contentOf(directory.join('far/target')), 'new');
});

test('creates the file that a dangling link names', async () => {
  await using directory = makeTempDir();
  fs.mkdirSync(directory.join('far'));
  fs.symlinkSync('far/second', directory.join('first'));
  fs.symlinkSync('target', directory.join('far/second'));
  const ops = await openFd(directory.join('first'), { direction: 'write' });
  await write(ops, 'new');
  await ops.close();
  assert.equal(contentOf(directory.join('far/target')), 'new');
  assert.equal(fs.lstatSync(directory.join('first')).isSymbolicLink(), true);
});

test('does not replace a file with `replace: false`, not even one that appeared meanwhile', async () => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  const ops = await openFd(path, { direction: 'write', replace: false });
  await write(ops, 'new');
  fs.writeFileSync(path, 'old');
  await rejectsWith(ops.close(), 'EEXIST');
  assert.equal(contentOf(path), 'old');
  await rejectsWith(openFd(path, { direction: 'write', replace: false }), 'EEXIST');
  assert.deepEqual(list(directory), ['file']);
  fs.unlinkSync(path);
  const again = await openFd(path, { direction: 'write', replace: false });
  await write(again, 'new');
  await again.close();
  assert.equal(contentOf(path), 'new');
  assert.deepEqual(list(directory), ['file']);
});

test('writes a file whose name is as long as names can be', async () => {
  await using directory = makeTempDir();
  for (const name of ['x'.repeat(255), 'ü'.repeat(127)]) {
    const ops = await openFd(directory.join(name), { direction: 'write' });
    await write(ops, 'abc');
    await ops.close();
    assert.equal(contentOf(directory.join(name)), 'abc');
  }
});

test('writes two files of one name at a time, and the last to close stays', async () => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  const one = await openFd(path, { direction: 'write' });
  const two = await openFd(path, { direction: 'write' });
  await Promise.all([write(one, 'one'), write(two, 'two')]);
  await two.close();
  await one.close();
  assert.equal(contentOf(path), 'one');
  assert.deepEqual(list(directory), ['file']);
});

test('keeps the bytes before its offset and truncates the rest, in place', async () => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  fs.writeFileSync(path, '0123456789', { mode: 0o644 });
  const { ino } = fs.statSync(path);
  const ops = await openFd(path, { direction: 'write', offset: 4 });
  assert.equal(ops.partialPath, undefined);
  assert.equal(contentOf(path), '0123');
  await write(ops, 'ab');
  await ops.close();
  assert.equal(contentOf(path), '0123ab');
  assert.equal(fs.statSync(path).ino, ino);
  assert.equal(modeOf(path), 0o644);
});

test('creates a private file with a hole if the file does not exist', async () => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  const ops = await openFd(path, { direction: 'write', offset: 4 });
  await write(ops, 'ab');
  await ops.close();
  assert.equal(contentOf(path), '\0\0\0\0ab');
  assert.equal(modeOf(path), 0o600);
});

test('leaves a file in place as it is when closed with an error', async () => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  fs.writeFileSync(path, '0123456789');
  const ops = await openFd(path, { direction: 'write', offset: 4 });
  await write(ops, 'ab');
  await ops.close(new Error('the connection broke'));
  assert.deepEqual(list(directory), ['file']);
  assert.equal(contentOf(path), '0123ab');
});

test('writes devices in place', async () => {
  const ops = await openFd('/dev/null', { direction: 'write' });
  assert.equal(ops.path, '/dev/null');
  assert.equal(ops.partialPath, undefined);
  await write(ops, 'abc');
  await ops.close();
  assert.equal(fs.statSync('/dev/null').isCharacterDevice(), true);
  const full = await openFd('/dev/full', { direction: 'write' });
  await rejectsWith(write(full, 'abc'), 'ENOSPC');
  await rejectsWith(full.close(), 'ENOSPC');
  for (const direction of ['read', 'write'] as const) {
    await rejectsWith(openFd('/dev/null', { direction, offset: 1 }), 'ESPIPE');
  }
});

test('reads devices', async () => {
  const ops = await openFd('/dev/zero', { direction: 'read' });
  assert.ok((await readOnce(ops)).every((byte) => byte === 0));
  await ops.close();
});

test('reports why a path cannot be opened, and leaves no file', async () => {
  await using directory = makeTempDir();
  fs.writeFileSync(directory.join('file'), '');
  fs.mkdirSync(directory.join('dir'));
  fs.symlinkSync('loop', directory.join('loop'));
  execFileSync('mkfifo', [directory.join('fifo')]);
  await using server = net.createServer();
  await new Promise<void>((resolve) => server.listen(directory.join('socket'), resolve));
  const names = list(directory);
  const fds = countFds();
  const both = [
    ['missing/file', 'ENOENT'],
    ['file/below', 'ENOTDIR'],
    ['loop', 'ELOOP'],
    ['dir', 'EISDIR'],
    ['fifo', 'ENOTSUP'],
    ['socket', 'ENOTSUP'],
    [`${'x'.repeat(256)}`, 'ENAMETOOLONG'],
    ['with\0nul', 'EINVAL'],
  ] as const;
  for (const [name, code] of both) {
    await rejectsWith(openFd(directory.join(name), { direction: 'read' }), code);
    await rejectsWith(openFd(directory.join(name), { direction: 'write' }), code);
  }
  await rejectsWith(openFd('', { direction: 'read' }), 'ENOENT');
  await rejectsWith(openFd('', { direction: 'write' }), 'ENOENT');
  await rejectsWith(openFd(directory.join('new'), { direction: 'read' }), 'ENOENT');
  await rejectsWith(openFd(`${directory.join('new')}/`, { direction: 'write' }), 'EISDIR');
  for (const offset of [-1, 1.5, Number.NaN]) {
    await rejectsWith(openFd(directory.join('file'), { direction: 'read', offset }), 'EINVAL');
  }
  await assert.rejects(openPath(directory.join('socket'), { direction: 'read' }), {
    code: 'ENOTSUP',
    message: new RegExp(`unix:${directory.join('socket')}`),
  });
  assert.deepEqual(list(directory), names);
  assert.equal(countFds(), fds);
});

test('passes on that the system does not permit it', async (t) => {
  // Injected: these tests may run as root, whom nothing is forbidden.
  await using directory = makeTempDir();
  fs.writeFileSync(directory.join('file'), '');
  failing(t, 'open', 'EACCES');
  for (const direction of ['read', 'write'] as const) {
    const opened = openFd(directory.join('file'), { direction });
    await assert.rejects(opened, { code: 'EACCES', operation: 'open' });
  }
});

test('does not open what its signal has ended already', async () => {
  await using directory = makeTempDir();
  const signal = AbortSignal.abort(new Error('enough'));
  for (const direction of ['read', 'write'] as const) {
    const opened = openFd(directory.join('file'), { direction, signal });
    await assert.rejects(opened, { code: 'ECANCELED', cause: signal.reason as Error });
  }
  assert.deepEqual(list(directory), []);
});

test('closes and removes the file if its signal aborts while it opens', async (t) => {
  await using directory = makeTempDir();
  const path = directory.join('file');
  fs.writeFileSync(path, 'old');
  const fds = countFds();
  const real = fs.open as (...args: unknown[]) => void;
  for (const options of [
    { direction: 'read' },
    { direction: 'write' },
    { direction: 'write', offset: 2 },
  ] as const) {
    const controller = new AbortController();
    t.mock.method(fs, 'open', (...args: unknown[]) => {
      controller.abort();
      real(...args);
    });
    await rejectsWith(openFd(path, { ...options, signal: controller.signal }), 'ECANCELED');
    assert.deepEqual(list(directory), ['file']);
    assert.equal(contentOf(path), 'old');
    t.mock.restoreAll();
  }
  assert.equal(countFds(), fds);
});

test('opens files and FIFOs alike by their path', async () => {
  await using directory = makeTempDir();
  execFileSync('mkfifo', [directory.join('fifo')]);
  const file = await openPath(directory.join('file'), { direction: 'write' });
  assert.equal(await file.writevBuffer([Buffer.from('abc')], 0), 3);
  await file.close();
  assert.equal(contentOf(directory.join('file')), 'abc');
  const reader = await openPath(directory.join('fifo'), { direction: 'read' });
  const writer = await openPath(directory.join('fifo'), { direction: 'write' });
  assert.equal(await writer.writevBuffer([Buffer.from('def')], 0), 3);
  assert.equal((await readOnce(reader)).toString(), 'def');
  await Promise.all([reader.close(), writer.close()]);
  await rejectsWith(openPath(directory.join('missing'), { direction: 'read' }), 'ENOENT');
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fdOps } from '../../../adapters/file/fd.ts';
import { InlineReads } from '../../../adapters/file/inline-reads.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { injectedError } from '../../helpers/errors.ts';
import { isOpen } from '../../helpers/files.ts';
import {
  collect,
  isSettled,
  pattern,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';
import { until, within } from '../../helpers/until.ts';
import { conformance } from '../ops-conformance.ts';

type WritevDone = (error: NodeJS.ErrnoException | null, written: number) => void;
type ReadDone = (error: NodeJS.ErrnoException | null, length: number) => void;

/** Opens a new file for reading and writing. */
function openNew(directory: TempDir, content: Uint8Array = new Uint8Array(0)): number {
  fs.writeFileSync(directory.join('file'), content);
  return fs.openSync(directory.join('file'), 'r+');
}

/** Replace fs.writev: each call writes at most the given number of bytes, or fails. */
function faultyWritev(t: TestContext, ...faults: (number | string)[]): { calls: number } {
  const real = fs.writev;
  const seen = { calls: 0 };
  const faulty = (fd: number, buffers: Uint8Array[], at: number | null, done: WritevDone) => {
    const fault = faults[seen.calls++];
    if (typeof fault === 'string') setImmediate(done, injectedError(fault), 0);
    else if (fault === undefined) real(fd, buffers, at, done);
    else if (fault === 0) setImmediate(done, null, 0);
    else real(fd, [Buffer.concat(buffers).subarray(0, fault)], at, done);
  };
  t.mock.method(fs, 'writev', faulty as typeof fs.writev);
  return seen;
}

/** Replaces fs.read by one whose first calls fail. */
function faultyRead(t: TestContext, ...codes: string[]): void {
  const real = fs.read as (...args: unknown[]) => void;
  let calls = 0;
  const faulty = (...args: unknown[]) => {
    const code = codes[calls++];
    if (code === undefined) real(...args);
    else setImmediate(args.at(-1) as ReadDone, injectedError(code), 0);
  };
  t.mock.method(fs, 'read', faulty as typeof fs.read);
}

conformance('descriptor of a file', { direction: 'both', isStore: true }, async () => {
  const directory = makeTempDir();
  const path = directory.join('file');
  let read = 0;
  return {
    ops: fdOps(openNew(directory)),
    peer: {
      async read() {
        const bytes = fs.readFileSync(path).subarray(read);
        read += bytes.length;
        return bytes;
      },
      write: async (bytes) => fs.appendFileSync(path, bytes),
      close: async () => {},
    },
    dispose: async () => directory.remove(),
  };
});

test('continues after short writes at every place of a buffer', async (t) => {
  await using directory = makeTempDir();
  const bytes = pattern(1000);
  const batch = [
    bytes.subarray(0, 10),
    bytes.subarray(10, 10),
    bytes.subarray(10, 700),
    bytes.subarray(700),
  ];
  for (const cut of [1, 9, 10, 11, 699, 700, 701, 999]) {
    await t.test(`after ${cut} bytes`, async (t) => {
      const ops = fdOps(openNew(directory), { direction: 'write' });
      faultyWritev(t, cut, 1, cut);
      assert.equal(await ops.writevBuffer(batch, 0), 1000);
      assert.equal(await ops.writevBuffer([Buffer.from('next')], 1000), 4);
      await ops.close();
      const expected = Buffer.concat([bytes, Buffer.from('next')]);
      assert.deepEqual(fs.readFileSync(directory.join('file')), expected);
    });
  }
});

test('leaves the buffers of the caller as they are after a short write', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory), { direction: 'write' });
  faultyWritev(t, 3);
  const batch = [Buffer.from('abcdef'), Buffer.from('gh')];
  await ops.writevBuffer(batch, 0);
  await ops.close();
  assert.deepEqual(batch, [Buffer.from('abcdef'), Buffer.from('gh')]);
});

test('continues after writes that took nothing', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory), { direction: 'write' });
  const seen = faultyWritev(t, 0, 2, 0, 0);
  assert.equal(await ops.writevBuffer([Buffer.from('abcdef')], 0), 6);
  await ops.close();
  assert.equal(seen.calls, 5);
  assert.equal(fs.readFileSync(directory.join('file'), 'latin1'), 'abcdef');
});

test('fails with EIO at its position when writes keep taking nothing', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory), { direction: 'write' });
  const always = Array.from({ length: 100 }, () => 0);
  const seen = faultyWritev(t, 2, ...always);
  const written = promised(() => ops.writevBuffer([Buffer.from('abcdef')], 500));
  await assert.rejects(written, { code: 'EIO', position: 502, operation: 'writevBuffer' });
  assert.ok(seen.calls < 20, `tried ${seen.calls} times`);
  await ops.close();
});

test('tries again after EAGAIN and EINTR', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory, Buffer.from('old')));
  faultyWritev(t, 'EAGAIN', 'EINTR', 2, 'EAGAIN');
  faultyRead(t, 'EAGAIN', 'EINTR');
  assert.equal((await readOnce(ops)).toString(), 'old');
  assert.equal(await ops.writevBuffer([Buffer.from('abcdef')], 0), 6);
  await ops.close();
  assert.equal(fs.readFileSync(directory.join('file'), 'latin1'), 'abcdef');
});

for (const [how, code] of [
  ['closed', 'EBADF'],
  ['shut down', 'ECANCELED'],
] as const) {
  test(`stops retrying when ${how}`, async (t) => {
    await using directory = makeTempDir();
    const ops = fdOps(openNew(directory));
    const forever = Array.from({ length: 10_000 }, () => 'EAGAIN');
    const seen = faultyWritev(t, ...forever);
    faultyRead(t, ...forever);
    const written = rejectsWith(
      promised(() => ops.writevBuffer([Buffer.from('abc')], 0)),
      code,
    );
    const read = rejectsWith(readOnce(ops), code);
    await until(() => seen.calls > 3, { what: 'some tries' });
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout');
    if (how === 'closed') await ops.close();
    else ops.shutDown(true, true);
    await Promise.all([written, read]);
    await isSettled(Promise.resolve());
    const { calls } = seen;
    assert.equal(seen.calls, calls);
    assert.deepEqual(timers(), []);
    await rejectsWith(readOnce(ops), code);
    await rejectsWith(
      promised(() => ops.writevBuffer([Buffer.from('abc')], 0)),
      code,
    );
    await ops.close();
  });
}

test('shuts down one direction and continues with the other', async () => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory, Buffer.from('old')));
  ops.shutDown(false, true);
  await rejectsWith(
    promised(() => ops.writevBuffer([Buffer.from('abc')], 0)),
    'ECANCELED',
  );
  assert.equal((await readOnce(ops)).toString(), 'old');
  await ops.close();
});

test('fails with the code of the system at its position, and keeps failing', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory), { direction: 'write' });
  faultyWritev(t, 4, 'EDQUOT');
  const written = promised(() => ops.writevBuffer([pattern(10)], 100));
  await assert.rejects(written, { code: 'EDQUOT', position: 104, operation: 'writevBuffer' });
  await rejectsWith(
    promised(() => ops.writevBuffer([pattern(10)], 110)),
    'EDQUOT',
  );
  await ops.close();
});

test('fails with ENOSPC on a full device', async () => {
  const ops = fdOps(fs.openSync('/dev/full', 'w'), { direction: 'write' });
  const written = promised(() => ops.writevBuffer([Buffer.from('abc')], 7));
  await assert.rejects(written, { code: 'ENOSPC', position: 7 });
  await ops.close();
});

test('fails with ENOSPC on a full device in blocking mode', () => {
  const ops = fdOps(fs.openSync('/dev/full', 'w'), { direction: 'write' });
  ops.setBlocking(true);
  assert.throws(() => ops.writevBuffer([Buffer.from('abc')], 7), { code: 'ENOSPC', position: 7 });
  return ops.close();
});

test('reports the position at which a read failed', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory, Buffer.from('abc')), { direction: 'read' });
  faultyRead(t, 'EIO');
  const read = promised(() => ops.getBuffer(Buffer.alloc(2), 1234));
  await assert.rejects(read, { code: 'EIO', position: 1234, operation: 'getBuffer' });
  await ops.close();
});

test('fails a second read or write that does not wait for the first', async () => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory, Buffer.from('abc')));
  const first = [promised(() => ops.writevBuffer([Buffer.from('xyz')], 0)), readOnce(ops)];
  await rejectsWith(
    promised(() => ops.writevBuffer([Buffer.from('!')], 3)),
    'EBUSY',
  );
  await rejectsWith(readOnce(ops), 'EBUSY');
  assert.throws(() => ops.setOffset?.(0, 'set'), { code: 'EBUSY' });
  await Promise.all(first);
  assert.equal(await ops.writevBuffer([Buffer.from('!')], 3), 1);
  await ops.close();
});

test('answers at once in blocking mode, and with a promise out of it', async () => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory));
  ops.setBlocking(true);
  assert.equal(ops.writevBuffer([Buffer.from('abc'), Buffer.from('def')], 0), 6);
  const buffer = Buffer.alloc(4);
  assert.equal(ops.getBuffer(buffer, 0), 4);
  assert.equal(buffer.toString(), 'abcd');
  assert.equal(ops.getBuffer(buffer, 4), 2);
  assert.equal(ops.getBuffer(buffer, 6), 0);
  ops.setBlocking(false);
  const answer = ops.writevBuffer([Buffer.from('ghi')], 6);
  assert.equal(typeof answer, 'object');
  assert.equal(await answer, 3);
  assert.equal((await readOnce(ops)).toString(), 'ghi');
  await ops.close();
});

test('completes short writes and retries in blocking mode', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory));
  const real = { write: fs.writevSync, read: fs.readSync as (...args: unknown[]) => number };
  let writes = 0;
  t.mock.method(fs, 'writevSync', (fd: number, buffers: Uint8Array[], at?: number) => {
    if (writes++ % 2 === 0) throw injectedError('EAGAIN');
    return real.write(fd, [Buffer.concat(buffers).subarray(0, 3)], at);
  });
  let reads = 0;
  const faulty = (...args: unknown[]) => {
    if (reads++ === 0) throw injectedError('EINTR');
    return real.read(...args);
  };
  t.mock.method(fs, 'readSync', faulty as typeof fs.readSync);
  ops.setBlocking(true);
  assert.equal(ops.writevBuffer([Buffer.from('abcd'), Buffer.from('efgh')], 0), 8);
  const buffer = Buffer.alloc(8);
  assert.equal(ops.getBuffer(buffer, 0), 8);
  assert.equal(buffer.toString(), 'abcdefgh');
  await ops.close();
});

test('starts at its offset in both directions, which are independent from then on', async () => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory, Buffer.from('0123456789')), { offset: 4 });
  assert.equal(await ops.writevBuffer([Buffer.from('ab')], 0), 2);
  assert.equal(await ops.writevBuffer([Buffer.from('c')], 2), 1);
  assert.equal((await readOnce(ops)).toString(), 'abc789');
  assert.equal(await ops.getOffset?.(), 7);
  await ops.close();
  assert.equal(fs.readFileSync(directory.join('file'), 'latin1'), '0123abc789');
});

test('reads from offsets that no 32-bit number holds', async () => {
  await using directory = makeTempDir();
  const offset = 5 * 2 ** 30;
  const fd = openNew(directory);
  fs.writeSync(fd, Buffer.from('far away'), 0, 8, offset);
  const ops = fdOps(fd, { direction: 'read', offset: offset + 4 });
  assert.equal((await readOnce(ops)).toString(), 'away');
  await ops.close();
});

test("uses the descriptor's own offset with `offset: 'current'`", async () => {
  await using directory = makeTempDir();
  const fd = openNew(directory, Buffer.from('0123456789'));
  fs.readSync(fd, Buffer.alloc(3), 0, 3, null);
  const ops = fdOps(fd, { offset: 'current', autoClose: false });
  assert.equal(await ops.writevBuffer([Buffer.from('ab')], 0), 2);
  assert.equal((await readOnce(ops)).toString(), '56789');
  assert.equal('setOffset' in ops, false);
  await ops.close();
  assert.equal(isOpen(fd), true);
  fs.closeSync(fd);
  assert.equal(fs.readFileSync(directory.join('file'), 'latin1'), '012ab56789');
});

test('has only the operations of its direction', async () => {
  await using directory = makeTempDir();
  const [reader, writer] = [
    fdOps(openNew(directory), { direction: 'read' }),
    fdOps(openNew(directory), { direction: 'write' }),
  ];
  const has = (ops: object) =>
    Object.entries(ops)
      .filter(([, value]) => typeof value === 'function')
      .map(([name]) => name)
      .sort();
  const common = ['close', 'getFd', 'getOffset', 'setBlocking', 'setOffset', 'shutDown'];
  assert.deepEqual(has(reader), [...common, 'getBuffer', 'getBufferAt'].sort());
  assert.deepEqual(has(writer), [...common, 'putBufferAt', 'writevBuffer'].sort());
  await Promise.all([reader.close(), writer.close()]);
});

test('has no seeking on what cannot seek', async () => {
  const ops = fdOps(fs.openSync('/dev/zero', 'r+'));
  for (const name of ['setOffset', 'getOffset', 'getBufferAt', 'putBufferAt']) {
    assert.equal(name in ops, false);
  }
  const zeros = await readOnce(ops);
  assert.ok(zeros.length > 0 && zeros.every((byte) => byte === 0));
  assert.equal(await ops.writevBuffer([pattern(100)], 0), 100);
  const fd = fs.openSync('/dev/zero', 'r');
  assert.throws(() => fdOps(fd, { offset: 1 }), { code: 'ESPIPE' });
  fs.closeSync(fd);
  await ops.close();
});

test('reads and writes whole at an offset in spite of short calls, without moving', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory, Buffer.from('0123456789')));
  faultyWritev(t, 1, 'EAGAIN', 2);
  assert.equal(await ops.putBufferAt?.(Buffer.from('abcde'), 3), 5);
  faultyRead(t, 'EAGAIN');
  const buffer = Buffer.alloc(20, '.');
  assert.equal(await ops.getBufferAt?.(buffer, 1), 9);
  assert.equal(buffer.toString(), '12abcde89...........');
  assert.equal(await ops.getOffset?.(), 0);
  await ops.close();
});

test('fails reads and writes at an offset when shut down or closed', async (t) => {
  await using directory = makeTempDir();
  const ops = fdOps(openNew(directory));
  const seen = faultyWritev(t, ...Array.from({ length: 10_000 }, () => 'EAGAIN'));
  const put = rejectsWith(
    promised(() => ops.putBufferAt?.(Buffer.from('a'), 3)),
    'ECANCELED',
  );
  await until(() => seen.calls > 0, { what: 'a try' });
  ops.shutDown(true, true);
  await put;
  await rejectsWith(
    promised(() => ops.getBufferAt?.(Buffer.alloc(1), 0)),
    'ECANCELED',
  );
  await ops.close();
  await rejectsWith(
    promised(() => ops.putBufferAt?.(Buffer.from('a'), 0)),
    'EBADF',
  );
  assert.throws(() => ops.getOffset?.(), { code: 'EBADF' });
});

test('fails for a descriptor that is not open, of a directory, or with a bad offset', () => {
  assert.throws(() => fdOps(99_999), { code: 'EBADF', operation: 'fdOps' });
  const directory = fs.openSync('/', 'r');
  assert.throws(() => fdOps(directory), { code: 'EISDIR' });
  fs.closeSync(directory);
  const file = fs.openSync('/dev/zero', 'r');
  for (const offset of [-1, 0.5, Number.NaN, 2 ** 53]) {
    assert.throws(() => fdOps(file, { offset }), { code: 'EINVAL' });
  }
  fs.closeSync(file);
});

test('does not close a file under a write that a thread works on', async (t) => {
  await using directory = makeTempDir();
  const fd = openNew(directory);
  const ops = fdOps(fd, { direction: 'write' });
  const real = fs.writev;
  let start = () => {};
  const slow = (fd: number, buffers: Uint8Array[], at: number | null, done: WritevDone) => {
    start = () => real(fd, buffers, at, done);
  };
  t.mock.method(fs, 'writev', slow as typeof fs.writev);
  const written = promised(() => ops.writevBuffer([Buffer.from('abc')], 0));
  const closed = ops.close();
  assert.equal(ops.getFd(), -1);
  assert.equal(await isSettled(Promise.race([written, closed])), false);
  assert.equal(isOpen(fd), true);
  start();
  assert.equal(await written, 3);
  await closed;
  assert.equal(isOpen(fd), false);
  assert.equal(fs.readFileSync(directory.join('file'), 'latin1'), 'abc');
});

test('closes at once when a read hangs, and the descriptor when the read returns', async () => {
  await using directory = makeTempDir();
  const path = directory.join('fifo');
  execFileSync('mkfifo', [path]);
  // Both ends in one descriptor: reads block, and never end.
  const fd = fs.openSync(path, 'r+');
  const ops = fdOps(fd, { direction: 'read' });
  const buffer = Buffer.alloc(10, '.');
  const read = promised(() => ops.getBuffer(buffer, 0));
  assert.equal(await isSettled(read), false);
  const failed = rejectsWith(read, 'EBADF');
  await within(ops.close(), { what: 'close' });
  await failed;
  assert.equal(isOpen(fd), true);
  fs.writeSync(fd, 'late');
  await until(() => !isOpen(fd), { what: 'the descriptor to be closed' });
  assert.equal(buffer.toString(), '..........', 'the memory of the caller is not touched');
});

test('reports a failing close', async (t) => {
  await using directory = makeTempDir();
  const fd = openNew(directory);
  const ops = fdOps(fd);
  t.mock.method(fs, 'close', ((_fd: number, done: (error: Error) => void) => {
    setImmediate(done, injectedError('EIO'));
  }) as typeof fs.close);
  await assert.rejects(ops.close(), { code: 'EIO', operation: 'close' });
  t.mock.restoreAll();
  fs.closeSync(fd);
});

test('reads and writes a block device at offsets', async (t) => {
  await using directory = makeTempDir();
  fs.writeFileSync(directory.join('disk'), pattern(65536));
  let device: string;
  try {
    device = execFileSync('losetup', ['-f', '--show', directory.join('disk')], { stdio: 'pipe' })
      .toString()
      .trim();
  } catch {
    t.skip('no loop devices here');
    return;
  }
  t.after(() => execFileSync('losetup', ['-d', device]));
  const ops = fdOps(fs.openSync(device, 'r+'), { offset: 512 });
  assert.equal(await ops.writevBuffer([Buffer.alloc(1000, 'a'), Buffer.alloc(24, 'b')], 0), 1024);
  const bytes = await collect(() => readOnce(ops));
  const expected = Buffer.concat([
    Buffer.alloc(1000, 'a'),
    Buffer.alloc(24, 'b'),
    pattern(65536).subarray(1536),
  ]);
  assert.ok(bytes.equals(expected));
  assert.equal(await ops.setOffset?.(0, 'end'), 65536);
  await ops.close();
});

test('takes the size of a block device from sysfs, in sectors of 512 bytes', async (t) => {
  await using directory = makeTempDir();
  const stats = fs.statSync(directory.path);
  stats.isDirectory = () => false;
  stats.isBlockDevice = () => true;
  // As stat(2) returns major 253 and minor 0x12345.
  stats.rdev = 0x1230_fd45;
  t.mock.method(fs, 'fstatSync', () => stats);
  const readFile = t.mock.method(fs, 'readFileSync', () => '8\n');
  const ops = fdOps(openNew(directory), { direction: 'read' });
  assert.equal(ops.setOffset?.(0, 'end'), 4096);
  assert.equal(readFile.mock.calls[0]?.arguments[0], '/sys/dev/block/253:74565/size');
  readFile.mock.mockImplementation(() => {
    throw injectedError('ENOENT');
  });
  assert.throws(() => ops.setOffset?.(0, 'end'), {
    code: 'ENOTSUP',
    reason: /size of the device is not known \(.*\); copy its contents to a file/,
  });
  await ops.close();
});

test('reads of a file run on the calling thread if they may, and sometimes give the event loop a turn', async (t) => {
  await using directory = makeTempDir();
  const content = pattern(40 * 1000);
  const ops = fdOps(openNew(directory, content), { direction: 'read', inlineReads: true });
  const inPool = t.mock.method(fs, 'read');
  // Each look at the clock is 1 ms after the last one.
  let now = 0;
  t.mock.method(performance, 'now', () => now++);
  const read: Buffer[] = [];
  const buffer = Buffer.alloc(1000);
  for (let position = 0; position < content.length; position += 1000) {
    const isInline = position % 11_000 !== 10_000;
    const length = ops.getBuffer(buffer, position);
    assert.equal(typeof length === 'number', isInline, `at ${position}`);
    assert.equal(await length, 1000);
    read.push(Buffer.from(buffer));
  }
  assert.deepEqual(Buffer.concat(read), content);
  assert.equal(inPool.mock.callCount(), 0);
  assert.equal(await ops.getBuffer(buffer, content.length), 0);
  await ops.close?.();
  await rejectsWith(
    promised(() => ops.getBuffer(buffer, content.length)),
    'EBADF',
  );
});

test('reads of a file move to the thread pool after one that took long', () => {
  const reads = new InlineReads();
  assert.equal(reads.next(), 'now');
  reads.took(6);
  const next = Array.from({ length: 6 }, () => reads.next());
  assert.deepEqual(next, ['inPool', 'inPool', 'inPool', 'inPool', 'now', 'now']);
});

test('a read that waits for the next turn of the event loop keeps the descriptor open, and reports its error', async (t) => {
  await using directory = makeTempDir();
  // Each look at the clock is 5 ms after the last one: every third read waits.
  let now = 0;
  t.mock.method(performance, 'now', () => (now += 5));
  const buffer = Buffer.alloc(1000);
  for (const outcome of ['bytes', 'error']) {
    const fd = openNew(directory, pattern(3000));
    const ops = fdOps(fd, { direction: 'read', inlineReads: true });
    for (const position of [0, 1000]) assert.equal(ops.getBuffer(buffer, position), 1000);
    const reading = promised(() => ops.getBuffer(buffer, 2000));
    const failing =
      outcome === 'error'
        ? t.mock.method(fs, 'readSync', () => {
            throw injectedError('EIO');
          })
        : undefined;
    const closing = ops.close();
    assert.equal(isOpen(fd), true);
    if (outcome === 'error') await rejectsWith(reading, 'EIO');
    else {
      assert.equal(await reading, 1000);
      assert.deepEqual(buffer, pattern(3000).subarray(2000));
    }
    failing?.mock.restore();
    await closing;
    assert.equal(isOpen(fd), false);
  }
});

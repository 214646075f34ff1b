import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { buffer } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openFifo } from '../../../adapters/pipe/fifo.ts';
import { pipeOps } from '../../../adapters/pipe/pipe.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { isOpen, makeFifo } from '../../helpers/files.ts';
import {
  collect,
  isSettled,
  pattern,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';
import { streamPeer } from '../../helpers/transports/stream-peer.ts';
import { within } from '../../helpers/until.ts';
import { conformance } from '../ops-conformance.ts';

const { O_NONBLOCK, O_RDONLY, O_WRONLY } = fs.constants;
const CHILD = fileURLToPath(new URL('../../helpers/transports/pipe-child.ts', import.meta.url));
const MIB = 1024 * 1024;

/** Opens both ends of a new pipe, the reading one first. */
function openPipe(directory: TempDir): [number, number] {
  const path = makeFifo(directory);
  const reader = fs.openSync(path, O_RDONLY | O_NONBLOCK);
  return [reader, fs.openSync(path, O_WRONLY | O_NONBLOCK)];
}

function write(ops: QemuFileOps, text: string): Promise<number> {
  return promised(() => ops.writevBuffer?.([Buffer.from(text)], 0) ?? -1);
}

/** Starts the child script with descriptors of the test's choice. */
function startChild(mode: string, stdio: (number | 'pipe')[], ...args: string[]): ChildProcess {
  return spawn(process.execPath, ['--import', 'tsx', CHILD, mode, ...args], { stdio });
}

async function exitOf(child: ChildProcess): Promise<unknown[]> {
  return within(once(child, 'close') as Promise<unknown[]>, {
    what: 'the end of the child',
  });
}

conformance('FIFO, reading', { direction: 'read' }, async () => {
  const directory = makeTempDir();
  const path = makeFifo(directory);
  const ops = await openFifo(path, { direction: 'read' });
  const fd = fs.openSync(path, O_WRONLY | O_NONBLOCK);
  const peer = streamPeer(new net.Socket({ fd, readable: false, writable: true }));
  return {
    ops,
    peer: { write: peer.write, end: peer.end, close: peer.close },
    dispose: async () => directory.remove(),
  };
});

const WRITING = { direction: 'write', isBounded: true, canBreak: true } as const;
conformance('FIFO, writing', WRITING, async () => {
  const directory = makeTempDir();
  const path = makeFifo(directory);
  const fd = fs.openSync(path, O_RDONLY | O_NONBLOCK);
  const peer = streamPeer(new net.Socket({ fd, readable: true, writable: false }));
  return {
    ops: await openFifo(path, { direction: 'write' }),
    peer: { read: peer.read, close: peer.close },
    dispose: async () => directory.remove(),
  };
});

conformance('inherited pipe, writing', WRITING, async () => {
  const directory = makeTempDir();
  const [reader, writer] = openPipe(directory);
  const peer = streamPeer(new net.Socket({ fd: reader, readable: true, writable: false }));
  return {
    ops: pipeOps(writer, { direction: 'write' }),
    peer: { read: peer.read, close: peer.close },
    dispose: async () => directory.remove(),
  };
});

describe('a FIFO', () => {
  test('reports no end before the first writer opens, and one after the last has closed', async () => {
    await using directory = makeTempDir();
    const path = makeFifo(directory);
    const ops = await openFifo(path, { direction: 'read' });
    const first = readOnce(ops);
    assert.equal(await isSettled(first), false);
    const one = fs.openSync(path, O_WRONLY | O_NONBLOCK);
    const two = fs.openSync(path, O_WRONLY | O_NONBLOCK);
    fs.writeSync(one, 'one');
    assert.equal((await first).toString(), 'one');
    fs.closeSync(one);
    const second = readOnce(ops);
    assert.equal(await isSettled(second), false);
    fs.writeSync(two, 'two');
    fs.closeSync(two);
    assert.equal((await second).toString(), 'two');
    assert.equal((await readOnce(ops)).length, 0);
    await ops.close();
  });

  test('opens for writing when a reader opens it', async () => {
    await using directory = makeTempDir();
    const path = makeFifo(directory);
    const opening = openFifo(path, { direction: 'write' });
    assert.equal(await isSettled(opening), false);
    const reader = fs.openSync(path, O_RDONLY | O_NONBLOCK);
    const ops = await opening;
    await write(ops, 'abc');
    await ops.close();
    assert.equal(fs.readFileSync(reader, 'latin1'), 'abc');
    fs.closeSync(reader);
  });

  test('stops waiting for a reader when its signal aborts', async () => {
    await using directory = makeTempDir();
    const path = makeFifo(directory);
    const controller = new AbortController();
    const { signal } = controller;
    const opening = openFifo(path, { direction: 'write', signal });
    assert.equal(await isSettled(opening), false);
    const failed = assert.rejects(opening, { code: 'ECANCELED', operation: 'open' });
    controller.abort();
    await failed;
    await rejectsWith(openFifo(path, { direction: 'write', signal }), 'ECANCELED');
    await rejectsWith(openFifo(path, { direction: 'read', signal }), 'ECANCELED');
  });

  test('waits for the other side without keeping a thread', async () => {
    await using directory = makeTempDir();
    fs.writeFileSync(directory.join('file'), 'abc');
    const controller = new AbortController();
    const { signal } = controller;
    const opening: Promise<unknown>[] = [];
    const readers: QemuFileOps[] = [];
    const reads: Promise<unknown>[] = [];
    // The thread pool has four threads by default.
    for (let i = 0; i < 10; i++) {
      const path = makeFifo(directory, `writer${i}`);
      opening.push(rejectsWith(openFifo(path, { direction: 'write', signal }), 'ECANCELED'));
      const reader = await openFifo(makeFifo(directory, `reader${i}`), { direction: 'read' });
      readers.push(reader);
      reads.push(rejectsWith(readOnce(reader), 'ECANCELED'));
    }
    const content = fs.promises.readFile(directory.join('file'), 'latin1');
    assert.equal(await within(content, { what: 'a file to be read' }), 'abc');
    controller.abort();
    await Promise.all(opening);
    for (const reader of readers) await reader.close?.();
    await Promise.all(reads);
  });

  test('breaks a write that waits when its reader leaves', async () => {
    await using directory = makeTempDir();
    const path = makeFifo(directory);
    const reader = fs.openSync(path, O_RDONLY | O_NONBLOCK);
    const ops = await openFifo(path, { direction: 'write' });
    const written = promised(() => ops.writevBuffer([pattern(MIB)], 3));
    assert.equal(await isSettled(written), false);
    fs.closeSync(reader);
    await assert.rejects(written, { code: 'EPIPE', operation: 'writevBuffer', position: 3 });
    await rejectsWith(write(ops, 'x'), 'EPIPE');
    await ops.close(new Error('the file failed'));
  });

  test('shows its reader the end when it is shut down', async () => {
    await using directory = makeTempDir();
    const path = makeFifo(directory);
    const reader = await openFifo(path, { direction: 'read' });
    const writer = await openFifo(path, { direction: 'write' });
    await write(writer, 'abc');
    await writer.shutDown(false, true);
    await rejectsWith(write(writer, 'more'));
    await writer.close();
    assert.equal((await collect(() => readOnce(reader))).toString(), 'abc');
    await reader.close();
  });

  test('is not closed in order in the middle of a batch', async () => {
    await using directory = makeTempDir();
    const [reader, writer] = openPipe(directory);
    const ops = pipeOps(writer, { direction: 'write' });
    const failed = rejectsWith(promised(() => ops.writevBuffer?.([pattern(MIB)], 0)));
    await rejectsWith(
      promised(() => ops.close?.()),
      'ECANCELED',
    );
    await failed;
    fs.closeSync(reader);
    assert.equal(isOpen(writer), false);
  });

  test('reports why it cannot be opened', async () => {
    await using directory = makeTempDir();
    fs.writeFileSync(directory.join('file'), '');
    for (const direction of ['read', 'write'] as const) {
      await rejectsWith(openFifo(directory.join('missing'), { direction }), 'ENOENT');
      await rejectsWith(openFifo(directory.join('file'), { direction }), 'ENOTSUP');
      await rejectsWith(openFifo(directory.path, { direction }), 'ENOTSUP');
      await rejectsWith(openFifo(directory.join('file/below'), { direction }), 'ENOTDIR');
    }
  });
});

describe('an inherited descriptor', () => {
  test('of a pipe is read to its end, and closed', async () => {
    await using directory = makeTempDir();
    const [reader, writer] = openPipe(directory);
    fs.writeSync(writer, 'abc');
    fs.closeSync(writer);
    const ops = pipeOps(reader, { direction: 'read' });
    assert.equal(ops.getFd(), reader);
    assert.equal((await collect(() => readOnce(ops))).toString(), 'abc');
    await ops.close();
    assert.equal(isOpen(reader), false);
  });

  test('of a file continues at its position, and is closed', async () => {
    await using directory = makeTempDir();
    fs.writeFileSync(directory.join('file'), '0123456789');
    const fd = fs.openSync(directory.join('file'), 'r+');
    fs.readSync(fd, Buffer.alloc(4), 0, 4, null);
    const ops = pipeOps(fd, { direction: 'read' });
    assert.equal((await collect(() => readOnce(ops))).toString(), '456789');
    await ops.close();
    assert.equal(isOpen(fd), false);
  });

  test('of a socket is two-way and has a return path', async () => {
    const child = startChild('echo', [2, 2, 2, 'pipe'], '3');
    const socket = child.stdio[3] as net.Socket;
    socket.end('hello');
    assert.equal((await buffer(socket)).toString(), 'hello');
    assert.deepEqual(await exitOf(child), [0, null]);
  });

  test('that is one of the event loop is refused', { skip: process.platform !== 'linux' }, () => {
    const targets = new Map<number, string>();
    for (const name of fs.readdirSync('/proc/self/fd')) {
      const fd = Number(name);
      if (fd > 2 && isOpen(fd)) targets.set(fd, fs.readlinkSync(`/proc/self/fd/${fd}`));
    }
    const kinds = new Set<string>();
    for (const [fd, target] of targets) {
      const isAnonymous = target.startsWith('anon_inode:');
      const ends = [...targets.values()].filter((other) => other === target);
      if (!isAnonymous && (!target.startsWith('pipe:') || ends.length < 2)) continue;
      assert.throws(() => pipeOps(fd, { direction: 'write' }), {
        code: 'EBADF',
        message: new RegExp(`descriptor ${fd} was not inherited, Node itself uses that number; `),
      });
      kinds.add(isAnonymous ? 'anonymous' : 'pipe');
    }
    assert.deepEqual([...kinds].sort(), ['anonymous', 'pipe']);
  });

  test('needs a direction where it does not have one', async () => {
    await using directory = makeTempDir();
    const [reader, writer] = openPipe(directory);
    assert.throws(() => pipeOps(reader), { code: 'EINVAL', operation: 'pipeOps' });
    assert.throws(() => pipeOps(99_999, { direction: 'read' }), { code: 'EBADF' });
    assert.equal(isOpen(reader), true);
    fs.closeSync(reader);
    fs.closeSync(writer);
    const child = startChild('wrong', [0, 'pipe', 'pipe']);
    const said = buffer(child.stderr as NodeJS.ReadableStream);
    assert.deepEqual(await exitOf(child), [0, null]);
    assert.equal((await said).toString(), 'EINVAL\nEINVAL\nEINVAL\n');
  });
});

describe('standard input and output', () => {
  const bytes = pattern(MIB + 1);

  test('are copied through pipes', async () => {
    await using directory = makeTempDir();
    const [input, output] = [directory.join('in'), directory.join('out')];
    fs.writeFileSync(input, bytes);
    const node = `'${process.execPath}' --import tsx '${CHILD}' copy`;
    execFileSync('sh', ['-c', `cat '${input}' | ${node} | cat > '${output}'`]);
    assert.ok(fs.readFileSync(output).equals(bytes));
  });

  test('are copied through sockets', async () => {
    const child = startChild('copy', ['pipe', 'pipe', 2]);
    const copied = buffer(child.stdout as NodeJS.ReadableStream);
    child.stdin?.end(bytes);
    assert.deepEqual(await exitOf(child), [0, null]);
    assert.ok((await copied).equals(bytes));
  });

  test('are copied as files, from and to where they are', async () => {
    await using directory = makeTempDir();
    const [input, output] = [directory.join('in'), directory.join('out')];
    fs.writeFileSync(input, Buffer.concat([Buffer.from('skip'), bytes]));
    const node = `'${process.execPath}' --import tsx '${CHILD}' copy`;
    const script = `{ head -c 0; dd bs=4 count=1 2>&-; ${node}; echo after; } < '${input}' > '${output}'`;
    execFileSync('sh', ['-c', script]);
    const expected = Buffer.concat([Buffer.from('skip'), bytes, Buffer.from('after\n')]);
    assert.ok(fs.readFileSync(output).equals(expected));
  });

  test('return unread bytes to the stream for its next reader', async () => {
    const child = startChild('first', ['pipe', 'pipe', 2]);
    const copied = buffer(child.stdout as NodeJS.ReadableStream);
    child.stdin?.end(bytes);
    assert.deepEqual(await exitOf(child), [0, null]);
    assert.ok((await copied).equals(bytes));
  });

  test('do not keep the process once they are closed', async () => {
    const child = startChild('stop', ['pipe', 'pipe', 'pipe']);
    child.stdin?.write('abc');
    const said = buffer(child.stderr as NodeJS.ReadableStream);
    assert.deepEqual(await exitOf(child), [0, null]);
    assert.equal((await said).toString(), 'closed\n');
  });

  test('fail with EPIPE when the reader leaves, and the process lives on', async () => {
    const child = startChild('flood', ['pipe', 'pipe', 'pipe']);
    const said = buffer(child.stderr as NodeJS.ReadableStream);
    child.stdout?.once('data', () => child.stdout?.destroy());
    assert.deepEqual(await exitOf(child), [1, null]);
    assert.equal((await said).toString(), 'EPIPE\n');
  });

  test('fail with ENOSPC when the disk is full', async () => {
    const full = fs.openSync('/dev/full', 'w');
    const child = startChild('flood', ['pipe', full, 'pipe']);
    fs.closeSync(full);
    const said = buffer(child.stderr as NodeJS.ReadableStream);
    assert.deepEqual(await exitOf(child), [1, null]);
    assert.equal((await said).toString(), 'ENOSPC\n');
  });
});

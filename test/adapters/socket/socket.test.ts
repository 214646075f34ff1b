import assert from 'node:assert/strict';
import { once } from 'node:events';
import { fstatSync } from 'node:fs';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { describe, test } from 'node:test';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { FAST_PATH_SWITCH, keepFastPathSwitch } from '../../helpers/fast-path-switch.ts';
import { withoutLeaks } from '../../helpers/leaks.ts';
import {
  collect,
  isSettled,
  manyTurns,
  pattern,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';
import { duplexPair } from '../../helpers/transports/duplex-pair.ts';
import { plainSockets, tlsSockets } from '../../helpers/transports/sockets.ts';
import { streamPeer } from '../../helpers/transports/stream-peer.ts';

const LIMITS = { timeout: 300_000 };

const write = (ops: QemuFileOps, bytes: string | Uint8Array) =>
  promised(() => ops.writevBuffer?.([Buffer.from(bytes)], 0) ?? -1);

describe('writing to a socket', LIMITS, () => {
  keepFastPathSwitch();

  test('writes one batch as one writev where it cannot write directly', async () => {
    process.env[FAST_PATH_SWITCH] = '1';
    const [socket, other] = await plainSockets();
    const batches: number[] = [];
    socket._writev = (chunks, callback) => {
      batches.push(chunks.length);
      net.Socket.prototype._writev?.call(socket, chunks, callback);
    };
    socket._write = () => assert.fail('a batch was taken apart');
    const ops = socketOps(socket);
    await ops.writevBuffer([Buffer.from('a'), Buffer.from('b'), Buffer.from('c')], 0);
    await ops.writevBuffer([Buffer.from('d'), Buffer.from('e')], 3);
    assert.deepEqual(batches, [3, 2]);
    await Promise.all([ops.close(), streamPeer(other).close()]);
  });

  test('copies for a stream that can keep its buffers, and writes a batch as one chunk', async () => {
    const kept: Buffer[] = [];
    const stream = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, callback) {
        kept.push(chunk);
        callback();
      },
    });
    const ops = socketOps(stream, { lingerMs: 0 });
    const batch = [Buffer.from('ab'), Buffer.from('cd')];
    await ops.writevBuffer(batch, 0);
    for (const buffer of batch) buffer.fill('!');
    assert.deepEqual(kept.map(String), ['abcd']);
    await ops.close();
  });
});

describe('reading from a socket', LIMITS, () => {
  test('returns the chunks of the stream uncopied', async () => {
    const chunks = [Buffer.from('one'), Buffer.from('two')];
    const stream = new Duplex({ read() {}, write: (_chunk, _encoding, callback) => callback() });
    const ops = socketOps(stream, { lingerMs: 0 });
    for (const chunk of chunks) stream.push(chunk);
    for (const chunk of chunks) assert.equal(await ops.getBuffer(Buffer.alloc(9), 0), chunk);
    await ops.close();
  });

  test('returns the bytes before a reset, and then fails with ECONNRESET', async () => {
    const [socket, other] = duplexPair(Duplex);
    const peer = streamPeer(other);
    const ops = socketOps(socket);
    const read = readOnce(ops);
    await peer.write(Buffer.from('first'));
    assert.equal((await read).toString(), 'first');
    await peer.write(Buffer.from('second'));
    peer.reset();
    assert.equal((await readOnce(ops)).toString(), 'second');
    await rejectsWith(readOnce(ops), 'ECONNRESET');
    await ops.close(new Error('failed'));
  });

  // Node itself calls this an end: see the comment in adapters/socket/socket.ts.
  test('does not report a reset right after bytes as an end', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    other.write(pattern(8 * 1024 * 1024));
    await manyTurns();
    other.resetAndDestroy();
    await once(other, 'close');
    await rejectsWith(
      collect(() => readOnce(ops)),
      'ECONNRESET',
    );
    await rejectsWith(readOnce(ops), 'ECONNRESET');
    await ops.close();
  });

  test('returns the end of a socket that ended earlier', async () => {
    const [socket, other] = await plainSockets();
    other.end();
    socket.resume();
    await once(socket, 'end');
    const ops = socketOps(socket);
    assert.equal((await readOnce(ops)).length, 0);
    await write(ops, 'still open');
    await ops.close();
    assert.equal((await collect(streamPeer(other).read)).toString(), 'still open');
  });

  test('fails on a socket that was destroyed earlier', async () => {
    const [socket, other] = await plainSockets();
    const closed = once(socket, 'close');
    socket.destroy();
    await closed;
    const ops = socketOps(socket);
    await rejectsWith(readOnce(ops), 'ECONNRESET');
    await rejectsWith(write(ops, 'x'), 'EPIPE');
    await ops.close();
    other.destroy();
  });
});

describe('closing a socket', LIMITS, () => {
  test('does not wait forever for a peer that never ends, and loses no byte', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket, { lingerMs: 20 });
    await write(ops, 'all of it');
    await ops.close();
    assert.equal(socket.destroyed, true);
    assert.equal((await collect(streamPeer(other).read)).toString(), 'all of it');
    other.destroy();
  });

  test('drops bytes that still arrive, so that the peer receives our bytes and not a reset', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    const peer = streamPeer(other);
    await write(ops, 'the answer');
    const unwanted = peer.write(pattern(4 * 1024 * 1024));
    assert.equal(await isSettled(unwanted), false);
    const closed = ops.close();
    await unwanted;
    assert.equal((await collect(peer.read)).toString(), 'the answer');
    await peer.close();
    await closed;
  });

  test('fails with ECONNRESET when the peer resets before it has read everything', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    await write(ops, 'not read');
    const closed = rejectsWith(ops.close(), 'ECONNRESET', 'EPIPE');
    other.resetAndDestroy();
    await closed;
    assert.equal(socket.destroyed, true);
  });

  test('does not fail over a reset when nothing was written', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    const read = rejectsWith(readOnce(ops), 'ECONNRESET');
    other.resetAndDestroy();
    await read;
    await ops.close();
  });

  test('with an error destroys a unix socket, whose peer sees an end', async () => {
    await using directory = makeTempDir();
    const [socket, other] = await plainSockets(directory.join('s'));
    const ops = socketOps(socket);
    await write(ops, 'half');
    await ops.close(new Error('not whole'));
    assert.equal((await collect(streamPeer(other).read)).toString(), 'half');
    other.destroy();
  });

  test('with an error destroys a stream that is not a socket with that error', async () => {
    const reason = new Error('not whole');
    const destroyedWith: unknown[] = [];
    const stream = new Duplex({
      read() {},
      write: (_chunk, _encoding, callback) => callback(),
      destroy(error, callback) {
        destroyedWith.push(error);
        callback(error);
      },
    });
    await socketOps(stream).close(reason);
    assert.deepEqual(destroyedWith, [reason]);
  });

  test('ends a stream that never emits close', async () => {
    const stream = new Duplex({
      read() {},
      write: (_chunk, _encoding, callback) => callback(),
      emitClose: false,
    });
    const ops = socketOps(stream, { lingerMs: 1 });
    await write(ops, 'x');
    await ops.close();
    assert.equal(stream.destroyed, true);
  });

  for (const [kind, connect, closeNotify] of [
    ['TCP', plainSockets, true],
    ['TLS', tlsSockets, true],
    ['TLS that says no goodbye', tlsSockets, false],
  ] as const) {
    test(`with an error leaves no descriptor while a half-close is under way over ${kind}`, async () => {
      await withoutLeaks(async () => {
        const [socket, other] = await connect();
        other.on('error', () => {}).resume();
        const ops = socketOps(socket, { closeNotify });
        const ended = promised(() => ops.shutDown(false, true)).catch(() => {});
        await ops.close(new Error('not whole'));
        await ended;
        assert.equal(ops.getFd(), -1);
        other.destroy();
      });
    });
  }
});

describe('shutting a socket down', LIMITS, () => {
  test('ends writing in the middle of a batch with a reset, not with an end', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    const peer = socketOps(other);
    const written = write(ops, pattern(8 * 1024 * 1024));
    assert.equal(await isSettled(written), false);
    const failed = rejectsWith(written, 'ECANCELED');
    await ops.shutDown(false, true);
    await failed;
    await rejectsWith(
      collect(() => readOnce(peer)),
      'ECONNRESET',
    );
    await ops.close();
  });

  test('does not make the close that follows fail', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    await write(ops, 'some');
    await ops.shutDown(true, true);
    await ops.close();
    assert.equal((await collect(streamPeer(other).read)).toString(), 'some');
    other.destroy();
  });

  test('resolves a half-close that is called twice', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    await Promise.all([ops.shutDown(false, true), ops.shutDown(false, true)]);
    const peer = streamPeer(other);
    assert.equal((await peer.read()).length, 0);
    await Promise.all([ops.close(), peer.close()]);
  });

  test('of reading lets the peer write on, and drops its bytes', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    const peer = streamPeer(other);
    await ops.shutDown(true, false);
    await rejectsWith(readOnce(ops), 'ECANCELED');
    await peer.write(pattern(8 * 1024 * 1024));
    await write(ops, 'still here');
    assert.equal((await peer.read()).toString(), 'still here');
    await Promise.all([ops.close(), peer.close()]);
  });
});

describe('a socket', LIMITS, () => {
  test('returns its descriptor', async () => {
    const [socket, other] = await plainSockets();
    const ops = socketOps(socket);
    assert.ok(fstatSync(ops.getFd()).isSocket());
    const closed = ops.close();
    assert.equal(ops.getFd(), -1);
    other.end();
    await closed;
  });

  test('returns -1 without a descriptor', async () => {
    const [socket] = duplexPair(Duplex);
    const ops = socketOps(socket, { lingerMs: 0 });
    assert.equal(ops.getFd(), -1);
    await ops.close();
  });

  test('has the sizes of a socket, or those of its options', async () => {
    const [near, far] = await tlsSockets();
    const sizes = { stagingSize: 131072, copyLimit: 4096, highWaterMark: 262144 };
    assert.deepEqual(socketOps(near).sizes, sizes);
    assert.deepEqual(socketOps(far, { sizes: { gatherEntries: 8 } }).sizes, { gatherEntries: 8 });
    assert.equal(socketOps(new net.Socket()).sizes, undefined);
    near.destroy();
    far.destroy();
  });

  test('that fails to connect fails pending calls', async () => {
    const server = net.createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as net.AddressInfo;
    server.close();
    const ops = socketOps(net.connect(port, '127.0.0.1'));
    await Promise.all([
      rejectsWith(write(ops, 'x'), 'ECONNREFUSED'),
      rejectsWith(readOnce(ops), 'ECONNREFUSED'),
    ]);
    await ops.close(new Error('failed'));
  });
});

// Admission: which bytes a connection must send within which time, and the fate of all others.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { describe, test } from 'node:test';
import {
  type AdmissionOptions,
  admit,
  connectSocket,
  type Listener,
  type ListenOptions,
  listenSocket,
  openFrom,
  openTo,
  type Rejection,
  type SocketTarget,
  socketOps,
  type Verdict,
} from '../../../../adapters/index.ts';
import type { QemuFileError } from '../../../../lib/contract/errors.ts';
import { pattern } from '../../../helpers/bytes.ts';
import { makeTempDir } from '../../../helpers/cleanup.ts';
import { watchLeaks } from '../../../helpers/leaks.ts';
import { collect, isSettled, readOnce, rejectsWith } from '../../../helpers/transports/backend.ts';
import { flood } from '../../../helpers/transports/flood.ts';
import { certificates } from '../../../helpers/transports/sockets.ts';
import { streamPeer, watchListeners } from '../../../helpers/transports/stream-peer.ts';
import { until } from '../../../helpers/until.ts';

const LIMITS = { timeout: 300_000 };
const ANY_PORT = { host: '127.0.0.1', port: 0 };
const { ca, cert, key } = certificates;

/** Accept connections that begin with "QEVM". */
function qevm(start: Buffer): Verdict {
  const magic = 'QEVM';
  if (start.length >= magic.length)
    return start.toString('latin1', 0, 4) === magic ? 'accept' : 'reject';
  return magic.startsWith(start.toString('latin1')) ? 'more' : 'reject';
}

/** Classify like `qevm`, and record the bytes that were classified. */
function noting(seen: string[]): (start: Buffer) => Verdict {
  return (start) => {
    seen.push(start.toString('latin1'));
    return qevm(start);
  };
}

/** A listener, and the connections it has rejected. */
interface Gate extends AsyncDisposable {
  listener: Listener;
  target: net.NetConnectOpts;
  rejected: Rejection[];
  accept: Listener['accept'];
}

async function openGate(
  options: AdmissionOptions = {},
  listen: ListenOptions = {},
  target: SocketTarget = ANY_PORT,
): Promise<Gate> {
  const rejected: Rejection[] = [];
  const plain = await listenSocket(target, { backlog: 64, ...listen });
  const onRejected = (rejection: Rejection) => void rejected.push(rejection);
  const listener = admit(plain, { classify: qevm, onRejected, ...options });
  return {
    listener,
    target: plain.address as net.NetConnectOpts,
    rejected,
    accept: (wish) => listener.accept(wish),
    [Symbol.asyncDispose]: () => listener.close(),
  };
}

/** Connects without the code under test. */
async function connect(target: net.NetConnectOpts): Promise<net.Socket> {
  const socket = net.connect({ ...target, allowHalfOpen: true });
  await once(socket, 'connect');
  return socket;
}

/** Read a socket to its end. */
const receive = (socket: net.Socket) => collect(streamPeer(socket).read);

/** Waits until the other end has closed a connection. */
async function closing(socket: net.Socket): Promise<void> {
  socket.on('error', () => {}).resume();
  await until(() => socket.readableEnded || socket.closed, { what: 'the connection to be closed' });
  socket.destroy();
}

const reasons = (rejected: readonly Rejection[]) => rejected.map(({ reason }) => reason);

describe('an accepted connection', LIMITS, () => {
  for (const kind of ['tcp', 'unix', 'tls'] as const) {
    test(`${kind}: is returned paused, from its first byte, without listeners`, async () => {
      await using directory = makeTempDir();
      const target = kind === 'unix' ? { path: directory.join('s') } : ANY_PORT;
      await using gate = await openGate({}, kind === 'tls' ? { tls: { cert, key } } : {}, target);
      const near = await connectSocket(
        gate.listener.address,
        kind === 'tls' ? { tls: { ca } } : {},
      );
      const bytes = Buffer.concat([Buffer.from('QEVM'), pattern(500_000)]);
      near.write(bytes.subarray(0, 3));
      const accepted = gate.accept();
      near.end(bytes.subarray(3));
      const far = await accepted;
      assert.equal(far.isPaused(), true);
      for (const event of ['data', 'readable']) assert.equal(far.listenerCount(event), 0);
      const ops = socketOps(far);
      assert.ok((await collect(() => readOnce(ops))).equals(bytes));
      // The other direction is still open.
      assert.equal(await ops.writevBuffer?.([Buffer.from('answer')], 0), 6);
      const answered = receive(near);
      await ops.close?.();
      assert.equal((await answered).toString(), 'answer');
      near.destroy();
      assert.deepEqual(reasons(gate.rejected), []);
    });
  }

  test('has the same listeners as one accepted without admission', async () => {
    await using plain = await listenSocket(ANY_PORT);
    const first = await connect(plain.address);
    const bare = await plain.accept();
    await using gate = await openGate();
    const second = await connect(gate.target);
    second.write('QEVM');
    const far = await gate.accept();
    assert.deepEqual(
      far.eventNames().map((name) => [name, far.listenerCount(name)]),
      bare.eventNames().map((name) => [name, bare.listenerCount(name)]),
    );
    const more = watchListeners(far);
    far.on('data', () => {});
    assert.deepEqual(more(), ['data']);
    for (const socket of [first, bare, second, far]) socket.destroy();
  });

  test('can have sent its bytes one at a time, and ended after them', async () => {
    await using gate = await openGate();
    const near = await connect(gate.target);
    near.setNoDelay(true);
    for (const byte of Buffer.from('QEVM')) {
      near.write(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    near.end();
    const far = await gate.accept();
    assert.equal((await receive(far)).toString(), 'QEVM');
    near.destroy();
    far.destroy();
  });

  test('can have arrived before accept(); callers are served in order', async () => {
    await using gate = await openGate();
    const near: net.Socket[] = [];
    const send = async (text: string) => {
      const socket = await connect(gate.target);
      socket.end(text);
      near.push(socket);
    };
    const waiting = [gate.accept(), gate.accept()];
    await send('QEVM 1');
    const far = [await waiting[0]];
    await send('QEVM 2');
    far.push(await waiting[1]);
    await send('QEVM 3');
    far.push(await gate.accept());
    const texts = await Promise.all(far.map((socket) => receive(socket as net.Socket)));
    assert.deepEqual(texts.map(String), ['QEVM 1', 'QEVM 2', 'QEVM 3']);
    for (const socket of [...near, ...far]) socket?.destroy();
  });

  test('has sent at least one byte, without a classify option', async () => {
    await using gate = await openGate({ classify: undefined });
    const silent = await connect(gate.target);
    const near = await connect(gate.target);
    near.end('x');
    const far = await gate.accept();
    assert.equal((await receive(far)).toString(), 'x');
    for (const socket of [silent, near, far]) socket.destroy();
  });
});

describe('a rejected connection', LIMITS, () => {
  test('is closed and reported, and the next one is accepted', async () => {
    await using gate = await openGate();
    const accepted = gate.accept();
    const near = await connect(gate.target);
    const { localAddress, localPort } = near;
    near.write('GET / HTTP/1.1\r\n\r\n');
    await closing(near);
    const [rejection] = gate.rejected;
    assert.ok(rejection !== undefined);
    assert.equal(rejection.reason, 'unrecognised');
    assert.equal(rejection.peer, `${localAddress}:${localPort}`);
    assert.equal(rejection.start.toString(), 'GET / HTTP/1.1\r\n\r\n');
    const real = await connect(gate.target);
    real.end('QEVM');
    const far = await accepted;
    assert.equal((await receive(far)).toString(), 'QEVM');
    far.destroy();
    real.destroy();
  });

  test('sent nothing in time', async () => {
    await using gate = await openGate({ firstByteMs: 20 });
    const near = await connect(gate.target);
    await closing(near);
    assert.deepEqual(reasons(gate.rejected), ['timeout']);
    assert.equal(gate.rejected[0]?.start.length, 0);
  });

  test('sent a byte now and then: none extends the time limit', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    let seen = '';
    await using gate = await openGate({
      firstByteMs: 10_000,
      classify: (start) => {
        seen = start.toString();
        return qevm(start);
      },
    });
    const near = await connect(gate.target);
    for (const prefix of ['Q', 'QE', 'QEV']) {
      near.write(prefix.slice(-1));
      await until(() => seen === prefix, { what: `"${prefix}" to be seen` });
      assert.deepEqual(reasons(gate.rejected), []);
      t.mock.timers.tick(3333);
    }
    assert.deepEqual(reasons(gate.rejected), []);
    t.mock.timers.tick(1);
    assert.deepEqual(reasons(gate.rejected), ['timeout']);
    assert.equal(gate.rejected[0]?.start.toString(), 'QEV');
    await closing(near);
  });

  test('does not time out after it was accepted', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    await using gate = await openGate();
    const near = await connect(gate.target);
    near.end('QEVM');
    const far = await gate.accept();
    t.mock.timers.tick(60_000);
    assert.equal((await receive(far)).toString(), 'QEVM');
    near.destroy();
    far.destroy();
  });

  test('is the oldest silent one when too many are pending', async () => {
    const seen: string[] = [];
    await using gate = await openGate({ maxPending: 2, classify: noting(seen) });
    const begun = await connect(gate.target);
    begun.write('QE');
    await until(() => seen.includes('QE'), { what: 'the first bytes to be seen' });
    const silent = await connect(gate.target);
    const third = await connect(gate.target);
    await closing(silent);
    assert.deepEqual(reasons(gate.rejected), ['evicted']);
    // Neither has been dropped.
    begun.write('VM');
    (await gate.accept()).destroy();
    third.write('QEVM');
    (await gate.accept()).destroy();
    begun.destroy();
    third.destroy();
  });

  test('is the oldest pending one when none is silent', async () => {
    const seen: string[] = [];
    await using gate = await openGate({ maxPending: 2, classify: noting(seen) });
    const near = [await connect(gate.target), await connect(gate.target)];
    for (const socket of near) socket.write('Q');
    await until(() => seen.length === 2, { what: 'the first bytes to be seen' });
    const last = await connect(gate.target);
    await closing(near[0] as net.Socket);
    last.write('QEVM');
    (await gate.accept()).destroy();
    near[1]?.write('EVM');
    (await gate.accept()).destroy();
    assert.deepEqual(reasons(gate.rejected), ['evicted']);
    for (const socket of [...near, last]) socket.destroy();
  });

  test('ended or broke before it was classified', async () => {
    await using gate = await openGate();
    (await connect(gate.target)).end();
    const ending = await connect(gate.target);
    ending.end('QEV');
    const breaking = await connect(gate.target);
    breaking.write('Q');
    await until(() => gate.rejected.length === 2, { what: 'two to be rejected' });
    breaking.resetAndDestroy();
    await until(() => gate.rejected.length === 3, { what: 'the third to be rejected' });
    assert.deepEqual(reasons(gate.rejected), ['closed', 'closed', 'closed']);
    const [, ended, broken] = gate.rejected;
    assert.equal(ended?.start.toString(), 'QEV');
    assert.equal((broken?.error as NodeJS.ErrnoException | undefined)?.code, 'ECONNRESET');
    ending.destroy();
  });

  test('arrived while too many accepted ones waited for accept()', async () => {
    let classified = 0;
    await using gate = await openGate({
      maxPending: 1,
      classify: () => {
        classified += 1;
        return 'accept';
      },
    });
    const first = await connect(gate.target);
    first.end('QEVM 1');
    await until(() => classified === 1, { what: 'the first to be accepted' });
    const second = await connect(gate.target);
    second.end('QEVM 2');
    await closing(second);
    assert.deepEqual(reasons(gate.rejected), ['queue-full']);
    const far = await gate.accept();
    assert.equal((await receive(far)).toString(), 'QEVM 1');
    for (const socket of [first, far]) socket.destroy();
  });

  test('could not be classified by its first 4096 bytes; no more are inspected', async () => {
    const sizes: number[] = [];
    await using gate = await openGate({
      classify: (start) => {
        sizes.push(start.length);
        return 'more';
      },
    });
    const near = await connect(gate.target);
    near.on('error', () => {}).write(pattern(100_000));
    await closing(near);
    assert.deepEqual(reasons(gate.rejected), ['unrecognised']);
    assert.equal(Math.max(...sizes), 4096);
    assert.equal(gate.rejected[0]?.start.length, 64);
  });
});

describe('a further channel', LIMITS, () => {
  async function withMain(gate: Gate): Promise<[near: net.Socket, far: net.Socket]> {
    const near = await connect(gate.target);
    near.write('QEVM');
    return [near, await gate.accept()];
  }

  test('is accepted although it sends nothing, even if it arrived before accept()', async () => {
    await using gate = await openGate();
    const [near, main] = await withMain(gate);
    const second = await connect(gate.target);
    const accepted = await gate.accept({ alongside: main });
    const waiting = gate.accept({ alongside: main });
    const third = await connect(gate.target);
    for (const [from, to] of [
      [second, accepted],
      [third, await waiting],
    ] as const) {
      from.end('any bytes');
      assert.equal((await receive(to)).toString(), 'any bytes');
      from.destroy();
      to.destroy();
    }
    near.destroy();
    main.destroy();
  });

  test('is not one that is older than the main one, or from another address', async () => {
    await using gate = await openGate();
    const before = await connect(gate.target);
    const [near, main] = await withMain(gate);
    const stranger = await connect({ ...gate.target, localAddress: '127.0.0.2' });
    const waiting = gate.accept({ alongside: main });
    assert.equal(await isSettled(waiting), false);
    const second = await connect(gate.target);
    const far = await waiting;
    assert.equal(far.remotePort, second.localPort);
    for (const socket of [before, near, main, stranger, second, far]) socket.destroy();
  });

  test('from another address is accepted if it is recognised', async () => {
    await using gate = await openGate();
    const [near, main] = await withMain(gate);
    const stranger = await connect({ ...gate.target, localAddress: '127.0.0.2' });
    stranger.write('QEVM');
    const far = await gate.accept({ alongside: main });
    assert.equal(far.remoteAddress, '127.0.0.2');
    for (const socket of [near, main, stranger, far]) socket.destroy();
  });

  test('must belong to a connection of the same listener', async () => {
    await using gate = await openGate();
    await rejectsWith(gate.accept({ alongside: new net.Socket() }), 'EINVAL');
  });
});

describe('a listener with admission', LIMITS, () => {
  test('cancels one wait by its signal, and drops no connection for it', async () => {
    await using gate = await openGate();
    const controller = new AbortController();
    const canceled = gate.accept({ signal: controller.signal });
    const served = gate.accept();
    controller.abort();
    await rejectsWith(canceled, 'ECANCELED');
    await rejectsWith(gate.accept({ signal: AbortSignal.abort() }), 'ECANCELED');
    const near = await connect(gate.target);
    near.write('QEVM');
    (await served).destroy();
    near.destroy();
  });

  test('closes the connections that accept() has not returned, and fails pending calls', async () => {
    await using leaks = await watchLeaks();
    const gate = await openGate();
    const silent = await connect(gate.target);
    const ready = await connect(gate.target);
    const accepted = gate.accept();
    ready.write('QEVM');
    const far = await accepted;
    const waiting = rejectsWith(gate.accept(), 'EBADF');
    await gate.listener.close();
    await waiting;
    await rejectsWith(gate.accept(), 'EBADF');
    await closing(silent);
    far.end('still here');
    assert.equal((await receive(ready)).toString(), 'still here');
    far.destroy();
    ready.destroy();
    await leaks.check();
  });

  test('rejects option values out of range', async () => {
    await using plain = await listenSocket(ANY_PORT);
    for (const wrong of [{ firstByteMs: 0 }, { firstByteMs: 2 ** 31 }, { maxPending: 1.5 }]) {
      assert.throws(() => admit(plain, wrong), { code: 'EINVAL', operation: 'admit' });
    }
  });
});

describe('TLS handshakes', LIMITS, () => {
  test('that make no progress time out, and the connection is closed', async () => {
    const errors: QemuFileError[] = [];
    await using gate = await openGate(
      {},
      {
        tls: { cert, key, handshakeTimeout: 20 },
        onConnectionError: (error) => errors.push(error),
      },
    );
    const near = await connect(gate.target);
    near.write(Buffer.from('160301', 'hex'));
    await closing(near);
    assert.match(errors[0]?.message ?? '', /handshake/);
    assert.equal(errors.length, 1);
  });

  test('are evicted by newer ones, the ones that have sent least first', async () => {
    const errors: QemuFileError[] = [];
    await using gate = await openGate(
      {},
      { tls: { cert, key }, backlog: 2, onConnectionError: (error) => errors.push(error) },
    );
    const begun = await connect(gate.target);
    begun.write(Buffer.from('160301', 'hex'));
    const silent = await connect(gate.target);
    const third = await connect(gate.target);
    await closing(silent);
    assert.deepEqual(
      errors.map(({ code, operation }) => [code, operation]),
      [['ECONNABORTED', 'accept']],
    );
    assert.equal(begun.readableEnded, false);
    begun.destroy();
    third.destroy();
  });
});

describe('openFrom with admission', LIMITS, () => {
  test('waits for a connection that sends something', async () => {
    let target: SocketTarget | undefined;
    const opening = openFrom('tcp:127.0.0.1:0', {
      admission: {},
      onListening: (address) => {
        target = address;
      },
    });
    await until(() => target, { what: 'it to listen' });
    const silent = await connect(target as net.NetConnectOpts);
    const to = await openTo({ scheme: 'tcp', ...(target as { host: string; port: number }) });
    to.end('hello');
    const from = await opening;
    assert.equal((await collect(async () => readChunk(from))).toString(), 'hello');
    await closing(silent);
    await Promise.all([from.close(), to.close()]);
  });

  test('does not listen when its options are wrong', async () => {
    await using leaks = await watchLeaks();
    await rejectsWith(openFrom('tcp:127.0.0.1:0', { admission: { firstByteMs: -1 } }), 'EINVAL');
    await leaks.check();
  });
});

async function readChunk(file: Awaited<ReturnType<typeof openFrom>>): Promise<Uint8Array> {
  const length = await file.fillOrEnd(1);
  return length === 0 ? new Uint8Array(0) : file.getBuffer(1);
}

describe('floods', LIMITS, () => {
  const CROWD = 300;

  for (const [name, bytes] of [
    ['nothing', undefined],
    ['garbage', Buffer.alloc(100_000, 'GET / ')],
    ['half a magic', Buffer.from('QE')],
  ] as const) {
    test(`of connections that send ${name} stay bounded, and keep no peer out`, async () => {
      await using leaks = await watchLeaks();
      {
        await using gate = await openGate({ maxPending: 16 });
        await using crowd = await flood({
          target: gate.target,
          connections: CROWD,
          send: () => bytes,
        });
        assert.equal(crowd.connected, CROWD);
        const near = await connect(gate.target);
        near.end('QEVM');
        const far = await gate.accept();
        assert.equal((await receive(far)).toString(), 'QEVM');
        await until(() => crowd.open <= 16, {
          what: 'the others to be closed',
        });
        assert.ok(gate.rejected.length > CROWD / 2);
        near.destroy();
        far.destroy();
      }
      await leaks.check();
    });
  }

  test('of connections that never finish their TLS handshake keep no peer out', async () => {
    await using leaks = await watchLeaks();
    {
      await using gate = await openGate({}, { tls: { cert, key } });
      await using crowd = await flood({
        target: gate.target,
        connections: CROWD,
        atOnce: 10,
        send: (index) => (index % 3 === 0 ? Buffer.from('160301', 'hex') : undefined),
      });
      assert.equal(crowd.connected, CROWD);
      const near = await connectSocket(gate.listener.address, { tls: { ca } });
      near.end('QEVM');
      const far = await gate.accept();
      assert.equal((await receive(far)).toString(), 'QEVM');
      await until(() => crowd.open <= 64, { what: 'the others to be closed' });
      near.destroy();
      far.destroy();
    }
    await leaks.check();
  });
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs, {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import { describe, test } from 'node:test';
import tls from 'node:tls';
import { connectSocket } from '../../../../adapters/socket/connect.ts';
import { listenSocket } from '../../../../adapters/socket/listen/listen.ts';
import { socketOps } from '../../../../adapters/socket/socket.ts';
import type { SocketTarget } from '../../../../adapters/socket/socket-target.ts';
import type { QemuFileError } from '../../../../lib/contract/errors.ts';
import { makeTempDir } from '../../../helpers/cleanup.ts';
import { collect, readOnce, rejectsWith } from '../../../helpers/transports/backend.ts';
import { certificates, leaveSocketOver } from '../../../helpers/transports/sockets.ts';
import { streamPeer } from '../../../helpers/transports/stream-peer.ts';
import { until } from '../../../helpers/until.ts';

const LIMITS = { timeout: 300_000 };
const ANY_PORT = { host: '127.0.0.1', port: 0 };
const { ca, otherCa, cert, key } = certificates;

const portOfAddress = (address: SocketTarget) => ('port' in address ? address.port : assert.fail());

/** Connects without the code under test. */
async function connect(address: SocketTarget): Promise<net.Socket> {
  const socket = net.connect({ ...(address as net.TcpNetConnectOpts), allowHalfOpen: true });
  await once(socket, 'connect');
  return socket;
}

/** Reads all that a socket was sent. */
const receive = (socket: net.Socket) => collect(streamPeer(socket).read).then(String);

/** Reads all that a socket was sent, and destroys it. */
async function takeAll(socket: net.Socket): Promise<string> {
  const text = await receive(socket);
  socket.destroy();
  return text;
}

describe('listening on TCP', LIMITS, () => {
  test('reports the port that the system chose, and accepts half-open connections', async () => {
    await using listener = await listenSocket(ANY_PORT);
    assert.ok(portOfAddress(listener.address) > 0);
    const near = await connect(listener.address);
    near.end('question');
    const far = await listener.accept();
    assert.equal(await receive(far), 'question');
    far.end('answer');
    assert.equal(await receive(near), 'answer');
  });

  test('is for this machine only when the host is empty', async () => {
    await using listener = await listenSocket({ host: '', port: 0 });
    assert.deepEqual(listener.address, {
      host: '127.0.0.1',
      port: portOfAddress(listener.address),
    });
  });

  test('is for every interface when the host says so', async () => {
    await using listener = await listenSocket({ host: '0.0.0.0', port: 0 });
    assert.equal('host' in listener.address && listener.address.host, '0.0.0.0');
  });

  test('rejects a port in use, and names it', async () => {
    await using listener = await listenSocket(ANY_PORT);
    const port = portOfAddress(listener.address);
    await assert.rejects(listenSocket({ host: '127.0.0.1', port }), {
      name: 'QemuFileError',
      code: 'EADDRINUSE',
      operation: 'listen',
      message: new RegExp(`tcp:127.0.0.1:${port}`),
    });
  });

  test('frees the port at the close', async () => {
    const first = await listenSocket(ANY_PORT);
    await first.close();
    await using second = await listenSocket(first.address);
    assert.deepEqual(second.address, first.address);
  });

  test('rejects an invalid port and backlog, and an address of another machine', async () => {
    await rejectsWith(listenSocket({ host: '127.0.0.1', port: -1 }), 'EINVAL');
    await rejectsWith(listenSocket(ANY_PORT, { backlog: 0 }), 'EINVAL');
    // An address for documentation (RFC 5737), so never one of this machine; no packet is sent.
    await rejectsWith(listenSocket({ host: '192.0.2.1', port: 0 }), 'EADDRNOTAVAIL');
  });

  test('is canceled by a signal, before and during the wait', async () => {
    await rejectsWith(listenSocket(ANY_PORT, { signal: AbortSignal.abort() }), 'ECANCELED');
    const controller = new AbortController();
    const listening = listenSocket(ANY_PORT, { signal: controller.signal });
    controller.abort();
    await rejectsWith(listening, 'ECANCELED');
  });
});

describe('accepting', LIMITS, () => {
  test('returns connections in order, including those that arrived before the call', async () => {
    await using listener = await listenSocket(ANY_PORT);
    const near: net.Socket[] = [];
    for (const name of ['a', 'b', 'c']) {
      const socket = await connect(listener.address);
      socket.end(name);
      near.push(socket);
    }
    const received: string[] = [];
    for (let i = 0; i < 3; i++) {
      const far = await listener.accept();
      received.push(await receive(far));
      far.end();
    }
    assert.deepEqual(received, ['a', 'b', 'c']);
    for (const socket of near) socket.destroy();
  });

  test('serves pending calls in order', async () => {
    await using listener = await listenSocket(ANY_PORT);
    const waiting = [listener.accept(), listener.accept()];
    for (const name of ['a', 'b']) (await connect(listener.address)).end(name);
    const sockets = await Promise.all(waiting);
    assert.deepEqual(await Promise.all(sockets.map(receive)), ['a', 'b']);
    for (const socket of sockets) socket.destroy();
  });

  test('rejects with ECANCELED when its signal aborts, and drops no connection', async () => {
    await using listener = await listenSocket(ANY_PORT);
    const controller = new AbortController();
    const reason = new Error('changed my mind');
    const canceled = listener.accept({ signal: controller.signal });
    const served = listener.accept();
    controller.abort(reason);
    await assert.rejects(canceled, { code: 'ECANCELED', cause: reason });
    const near = await connect(listener.address);
    (await served).destroy();
    near.destroy();
    await rejectsWith(listener.accept({ signal: AbortSignal.abort() }), 'ECANCELED');
  });

  test('closes connections beyond the backlog, and reports them', async () => {
    const errors: QemuFileError[] = [];
    await using listener = await listenSocket(ANY_PORT, {
      backlog: 2,
      onConnectionError: (error) => errors.push(error),
    });
    const near: net.Socket[] = [];
    for (let i = 0; i < 3; i++) near.push(await connect(listener.address));
    await until(() => errors.length > 0, { what: 'a connection to be closed' });
    assert.equal(await receive(near[2] as net.Socket), '');
    assert.deepEqual(
      errors.map(({ code }) => code),
      ['ECONNABORTED'],
    );
    for (const far of [await listener.accept(), await listener.accept()]) far.destroy();
    for (const socket of near) socket.destroy();
  });

  test('keeps the bytes that the peer sent before', async () => {
    await using listener = await listenSocket(ANY_PORT);
    const near = await connect(listener.address);
    near.end('early bytes');
    const ops = socketOps(await listener.accept());
    assert.equal((await collect(() => readOnce(ops))).toString(), 'early bytes');
    await Promise.all([ops.close(), streamPeer(near).close()]);
  });

  test('returns a connection that outlives the listener', async () => {
    const listener = await listenSocket(ANY_PORT);
    const near = await connect(listener.address);
    const far = await listener.accept();
    await listener.close();
    far.end('still here');
    assert.equal(await receive(near), 'still here');
    near.destroy();
  });
});

describe('closing a listener', LIMITS, () => {
  test('rejects pending and later calls with EBADF', async () => {
    const listener = await listenSocket(ANY_PORT);
    const waiting = rejectsWith(listener.accept(), 'EBADF');
    await listener.close();
    await waiting;
    await rejectsWith(listener.accept(), 'EBADF');
    await listener.close();
  });

  test('destroys connections that were not accepted', async () => {
    const listener = await listenSocket(ANY_PORT);
    const near = [await connect(listener.address), await connect(listener.address)];
    // The system resets a connection that the listener has not seen yet.
    const orReset = ({ code }: NodeJS.ErrnoException) => (code === 'ECONNRESET' ? '' : code);
    const received = near.map((socket) => receive(socket).catch(orReset));
    (await listener.accept()).end('accepted');
    await listener.close();
    assert.deepEqual(await Promise.all(received), ['accepted', '']);
    for (const socket of near) socket.destroy();
  });

  test('happens at the end of its await using', async () => {
    let address: SocketTarget;
    {
      await using listener = await listenSocket(ANY_PORT);
      address = listener.address;
    }
    await rejectsWith(connectSocket(address), 'ECONNREFUSED');
  });
});

describe('listening at a path', LIMITS, () => {
  test('creates a socket of mode 0600, and removes it at the close', async () => {
    await using directory = makeTempDir();
    const path = directory.join('s');
    const listener = await listenSocket({ path });
    assert.equal(lstatSync(path).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(directory.path), ['s']);
    assert.deepEqual(listener.address, { path });
    (await connect(listener.address)).end('hello');
    const far = await listener.accept();
    assert.equal(await receive(far), 'hello');
    far.end();
    await listener.close();
    assert.deepEqual(readdirSync(directory.path), []);
  });

  test('binds where no other user can connect, and leaves the umask alone', async (t) => {
    await using directory = makeTempDir();
    const umask = t.mock.method(process, 'umask');
    const seen: { names: string[]; mode: number }[] = [];
    const original = Reflect.get(net.Server.prototype, 'listen') as () => net.Server;
    t.mock.method(net.Server.prototype, 'listen', function (this: net.Server, ...args: unknown[]) {
      // Bound and listening, with the mode according to the umask.
      this.prependOnceListener('listening', () => {
        const names = readdirSync(directory.path);
        const [name = ''] = names;
        seen.push({ names, mode: lstatSync(directory.join(name)).mode & 0o777 });
      });
      return Reflect.apply(original, this, args) as net.Server;
    });
    await using _listener = await listenSocket({ path: directory.join('s') });
    assert.equal(seen.length, 1);
    assert.equal(seen[0]?.names.length, 1);
    assert.notEqual(seen[0]?.names[0], 's');
    assert.equal(seen[0]?.mode, 0o700);
    assert.equal(umask.mock.callCount(), 0);
  });

  test('works where a directory is nearly as long as a path can be', async () => {
    await using directory = makeTempDir();
    const long = `${directory.path}/`.padEnd(105, 'd');
    mkdirSync(long);
    const path = `${long}/s`;
    assert.equal(path.length, 107);
    const listener = await listenSocket({ path });
    assert.equal(lstatSync(path).mode & 0o777, 0o600);
    (await connect({ path })).end('hello');
    assert.equal(await takeAll(await listener.accept()), 'hello');
    await listener.close();
    assert.deepEqual(readdirSync(long), []);
  });

  test('works on a file system without hard links, and replaces nothing there', async (t) => {
    await using directory = makeTempDir();
    const path = directory.join('s');
    t.mock.method(fs.promises, 'link', async () => {
      throw Object.assign(new Error('not permitted'), { code: 'EPERM' });
    });
    syncBuiltinESMExports();
    t.after(() => {
      t.mock.restoreAll();
      syncBuiltinESMExports();
    });
    await using _listener = await listenSocket({ path });
    assert.equal(lstatSync(path).mode & 0o777, 0o600);
    await rejectsWith(listenSocket({ path }), 'EADDRINUSE');
    assert.deepEqual(readdirSync(directory.path), ['s']);
  });

  test('does not remove a path that is no longer its socket', async () => {
    await using directory = makeTempDir();
    const path = directory.join('s');
    const listener = await listenSocket({ path });
    rmSync(path);
    writeFileSync(path, 'precious');
    await listener.close();
    assert.equal(readFileSync(path, 'utf8'), 'precious');
  });

  test('rejects a path that is empty or has a NUL', async () => {
    await rejectsWith(listenSocket({ path: '' }), 'EINVAL');
    await rejectsWith(listenSocket({ path: '\0abstract' }), 'EINVAL');
  });

  test('leaves a socket alone that a process listens on', async () => {
    await using directory = makeTempDir();
    const path = directory.join('s');
    await using listener = await listenSocket({ path });
    await rejectsWith(listenSocket({ path }), 'EADDRINUSE');
    (await connect({ path })).end('for the first');
    // The connection before it was the probe.
    const texts = [await takeAll(await listener.accept()), await takeAll(await listener.accept())];
    assert.deepEqual(texts, ['', 'for the first']);
  });

  test('replaces a socket that no process listens on', async () => {
    await using directory = makeTempDir();
    const path = directory.join('s');
    await leaveSocketOver(path);
    await using listener = await listenSocket({ path });
    (await connect({ path })).end('for the new one');
    assert.equal(await takeAll(await listener.accept()), 'for the new one');
  });

  test('does not remove a file that is not a socket', async () => {
    await using directory = makeTempDir();
    const file = directory.join('file');
    writeFileSync(file, 'precious');
    await rejectsWith(listenSocket({ path: file }), 'EEXIST');
    assert.equal(readFileSync(file, 'utf8'), 'precious');
    const link = directory.join('link');
    symlinkSync(directory.join('nowhere'), link);
    await rejectsWith(listenSocket({ path: link }), 'EEXIST', 'EADDRINUSE');
    assert.ok(lstatSync(link).isSymbolicLink());
  });

  test('rejects a path that the system would truncate', async () => {
    await using directory = makeTempDir();
    const longest = `${directory.path}/`.padEnd(107, 's');
    await (await listenSocket({ path: longest })).close();
    await rejectsWith(listenSocket({ path: `${longest}s` }), 'ENAMETOOLONG');
    assert.deepEqual(readdirSync(directory.path), []);
  });

  test('reports a directory that is not there', async () => {
    await using directory = makeTempDir();
    await rejectsWith(listenSocket({ path: directory.join('none/s') }), 'ENOENT');
  });
});

describe('listening with TLS', LIMITS, () => {
  test('accepts connections whose handshake is done', async () => {
    await using listener = await listenSocket(ANY_PORT, { tls: { cert, key } });
    const near = await connectSocket(listener.address, { tls: { ca } });
    near.end('secret');
    const far = await listener.accept();
    assert.ok(far instanceof tls.TLSSocket);
    assert.equal(far.allowHalfOpen, true);
    assert.equal(await receive(far), 'secret');
    far.end('answer');
    assert.equal(await receive(near), 'answer');
  });

  test('continues after a failed handshake, and reports it', async () => {
    const errors: QemuFileError[] = [];
    await using listener = await listenSocket(ANY_PORT, {
      tls: { cert, key },
      onConnectionError: (error) => errors.push(error),
    });
    const accepted = listener.accept();
    const plain = await connect(listener.address);
    plain.on('error', () => {}).write('GET / HTTP/1.1\r\n\r\n');
    await until(() => errors.length > 0, { what: 'the failure to be reported' });
    assert.deepEqual([errors[0]?.code, errors[0]?.operation], ['EPROTO', 'accept']);
    const near = await connectSocket(listener.address, { tls: { ca } });
    (await accepted).destroy();
    near.destroy();
    plain.destroy();
  });

  test('forgets a connection that breaks while it waits to be accepted', async () => {
    const errors: QemuFileError[] = [];
    await using listener = await listenSocket(ANY_PORT, {
      tls: { cert, key },
      onConnectionError: (error) => errors.push(error),
    });
    const raw = await connect(listener.address);
    const broken = tls.connect({ socket: raw, ca, servername: 'localhost' });
    // The session ticket comes once the listening side has done its part.
    await once(broken, 'session');
    raw.resetAndDestroy();
    await until(() => errors.length > 0, { what: 'the failure to be reported' });
    assert.equal(errors[0]?.code, 'ECONNRESET');
    const near = await connectSocket(listener.address, { tls: { ca } });
    near.end('the next one');
    assert.equal(await takeAll(await listener.accept()), 'the next one');
  });

  test('rejects a client certificate of an unknown authority', async () => {
    const options = { cert, key, requestCert: true, ca: otherCa, maxVersion: 'TLSv1.2' } as const;
    const errors: QemuFileError[] = [];
    await using listener = await listenSocket(ANY_PORT, {
      tls: options,
      onConnectionError: (error) => errors.push(error),
    });
    await assert.rejects(connectSocket(listener.address, { tls: { ca, cert, key } }));
    await until(() => errors.length > 0, { what: 'the failure to be reported' });
  });

  test('does not go below TLS 1.2, even where Node is configured to', async (t) => {
    const { DEFAULT_MIN_VERSION } = tls;
    t.after(() => {
      tls.DEFAULT_MIN_VERSION = DEFAULT_MIN_VERSION;
    });
    tls.DEFAULT_MIN_VERSION = 'TLSv1';
    const ciphers = 'DEFAULT@SECLEVEL=0';
    await using listener = await listenSocket(ANY_PORT, { tls: { cert, key, ciphers } });
    const old = { ca, ciphers, minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1' } as const;
    await rejectsWith(connectSocket(listener.address, { tls: old }), 'EPROTO', 'ECONNRESET');
  });

  test('destroys at its close the connections in their handshake, and no others', async () => {
    const listener = await listenSocket(ANY_PORT, { tls: { cert, key } });
    const silent = await connect(listener.address);
    const near = await connectSocket(listener.address, { tls: { ca } });
    const far = await listener.accept();
    await listener.close();
    assert.equal(await receive(silent), '');
    far.end('still here');
    assert.equal(await receive(near), 'still here');
    near.destroy();
    silent.destroy();
  });

  test('rejects invalid TLS options', async () => {
    const options = { cert: 'not a certificate', key };
    await rejectsWith(listenSocket(ANY_PORT, { tls: options }), 'EINVAL');
  });
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import tls from 'node:tls';
import { connectSocket, type SocketTarget } from '../../../adapters/socket/connect.ts';
import { listenSocket } from '../../../adapters/socket/listen.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { QemuFileError } from '../../../lib/contract/errors.ts';
import { collect, readOnce, rejectsWith } from '../../helpers/backend.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { certificates, leaveSocketOver } from '../../helpers/sockets.ts';
import { streamPeer } from '../../helpers/stream-peer.ts';
import { until } from '../../helpers/until.ts';

const LIMITS = { timeout: 20_000 };
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
  test('tells the port that the system chose, and gives connections that may be half open', async () => {
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

  test('is for every interface when that is asked for', async () => {
    await using listener = await listenSocket({ host: '0.0.0.0', port: 0 });
    assert.equal('host' in listener.address && listener.address.host, '0.0.0.0');
  });

  test('refuses a port in use, and says which', async () => {
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

  test('refuses a port, a backlog and an address that are none', async () => {
    await rejectsWith(listenSocket({ host: '127.0.0.1', port: -1 }), 'EINVAL');
    await rejectsWith(listenSocket(ANY_PORT, { backlog: 0 }), 'EINVAL');
    // An address of documentation (RFC 5737), so none of this machine; no packet is sent.
    await rejectsWith(listenSocket({ host: '192.0.2.1', port: 0 }), 'EADDRNOTAVAIL');
  });

  test('does not begin when its signal has fired before, and gives up when it fires', async () => {
    await rejectsWith(listenSocket(ANY_PORT, { signal: AbortSignal.abort() }), 'ECANCELED');
    const controller = new AbortController();
    const listening = listenSocket(ANY_PORT, { signal: controller.signal });
    controller.abort();
    await rejectsWith(listening, 'ECANCELED');
  });
});

describe('accepting', LIMITS, () => {
  test('gives connections in their order, those that came before it was asked too', async () => {
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

  test('serves those who wait in their order', async () => {
    await using listener = await listenSocket(ANY_PORT);
    const waiting = [listener.accept(), listener.accept()];
    for (const name of ['a', 'b']) (await connect(listener.address)).end(name);
    const sockets = await Promise.all(waiting);
    assert.deepEqual(await Promise.all(sockets.map(receive)), ['a', 'b']);
    for (const socket of sockets) socket.destroy();
  });

  test('ends with ECANCELED when its signal fires, and takes no connection for it', async () => {
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

  test('closes the connections beyond the bound, and says so', async () => {
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

  test('works with socketOps, whatever the peer sent before', async () => {
    await using listener = await listenSocket(ANY_PORT);
    const near = await connect(listener.address);
    near.end('early bytes');
    const ops = socketOps(await listener.accept());
    assert.equal((await collect(() => readOnce(ops))).toString(), 'early bytes');
    await Promise.all([ops.close(), streamPeer(near).close()]);
  });

  test('outlives the listener: a connection that was accepted stays', async () => {
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
  test('fails those who wait with EBADF, and who comes later', async () => {
    const listener = await listenSocket(ANY_PORT);
    const waiting = rejectsWith(listener.accept(), 'EBADF');
    await listener.close();
    await waiting;
    await rejectsWith(listener.accept(), 'EBADF');
    await listener.close();
  });

  test('destroys the connections that nobody accepted', async () => {
    const listener = await listenSocket(ANY_PORT);
    const near = [await connect(listener.address), await connect(listener.address)];
    (await listener.accept()).end('accepted');
    await listener.close();
    assert.deepEqual(await Promise.all(near.map(receive)), ['accepted', '']);
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
  test('makes a socket for its owner only, and removes it at the close', async () => {
    await using directory = makeTempDir();
    const path = directory.join('s');
    const umask = process.umask();
    const listener = await listenSocket({ path });
    assert.equal(lstatSync(path).mode & 0o777, 0o600);
    assert.equal(process.umask(), umask);
    assert.deepEqual(listener.address, { path });
    (await connect(listener.address)).end('hello');
    const far = await listener.accept();
    assert.equal(await receive(far), 'hello');
    far.end();
    await listener.close();
    assert.equal(existsSync(path), false);
  });

  test('leaves a socket alone that somebody listens on', async () => {
    await using directory = makeTempDir();
    const path = directory.join('s');
    await using listener = await listenSocket({ path });
    await rejectsWith(listenSocket({ path }), 'EADDRINUSE');
    (await connect({ path })).end('for the first');
    // What came before it was the question whether anybody listens.
    const texts = [await takeAll(await listener.accept()), await takeAll(await listener.accept())];
    assert.deepEqual(texts, ['', 'for the first']);
  });

  test('replaces a socket that is left over', async () => {
    await using directory = makeTempDir();
    const path = directory.join('s');
    await leaveSocketOver(path);
    await using listener = await listenSocket({ path });
    (await connect({ path })).end('for the new one');
    assert.equal(await takeAll(await listener.accept()), 'for the new one');
  });

  test('leaves alone what is not a socket', async () => {
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

  test('takes no path that the system would cut off', async () => {
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
  test('gives connections whose handshake is done', async () => {
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

  test('goes on waiting after a handshake that failed, and reports it', async () => {
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

  test('refuses a client whose certificate it does not know, when it asks for one', async () => {
    const options = { cert, key, requestCert: true, ca: otherCa, maxVersion: 'TLSv1.2' } as const;
    const errors: QemuFileError[] = [];
    await using listener = await listenSocket(ANY_PORT, {
      tls: options,
      onConnectionError: (error) => errors.push(error),
    });
    await assert.rejects(connectSocket(listener.address, { tls: { ca, cert, key } }));
    await until(() => errors.length > 0, { what: 'the failure to be reported' });
  });

  test('does not go below TLS 1.2, even where Node is told to', async (t) => {
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

  test('destroys at its close those who have not done their handshake, and no others', async () => {
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

  test('reports options that TLS does not know', async () => {
    const options = { cert: 'not a certificate', key };
    await rejectsWith(listenSocket(ANY_PORT, { tls: options }), 'EINVAL');
  });
});

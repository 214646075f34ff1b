import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { describe, test } from 'node:test';
import tls from 'node:tls';
import { Worker } from 'node:worker_threads';
import { connectSocket } from '../../../adapters/socket/connect.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { SocketTarget } from '../../../adapters/socket/socket-target.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { collect, rejectsWith } from '../../helpers/transports/backend.ts';
import { certificates, leaveSocketOver, portOf } from '../../helpers/transports/sockets.ts';
import { streamPeer } from '../../helpers/transports/stream-peer.ts';
import { until } from '../../helpers/until.ts';

const LIMITS = { timeout: 300_000 };
const { ca, otherCa, cert, key } = certificates;

/** A server with its address, and all connections it got. */
async function serve(server: net.Server, path?: string) {
  const connections: net.Socket[] = [];
  const errors: string[] = [];
  server.on('connection', (socket: net.Socket) => {
    connections.push(socket);
    socket.on('error', (error: NodeJS.ErrnoException) => errors.push(String(error.code)));
  });
  server.on('tlsClientError', (error: NodeJS.ErrnoException) => errors.push(String(error.code)));
  if (path === undefined) server.listen(0, '127.0.0.1');
  else server.listen(path);
  await once(server, 'listening');
  const target: SocketTarget =
    path === undefined ? { host: '127.0.0.1', port: portOf(server) } : { path };
  return {
    server,
    target,
    connections,
    errors,
    async [Symbol.asyncDispose]() {
      server.close();
      for (const socket of connections) socket.destroy();
    },
  };
}

/** An address without a listener. */
async function deafTarget(): Promise<{ host: string; port: number }> {
  await using served = await serve(net.createServer());
  return { host: '127.0.0.1', port: portOf(served.server) };
}

/** An address whose listener accepts no connection and whose backlog is full. */
async function fullTarget() {
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads');
     const server = require('node:net').createServer();
     server.listen({ host: '127.0.0.1', port: 0, backlog: 1 }, () => {
       parentPort.postMessage(server.address().port);
       // From here on this thread accepts nothing.
       Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
     });`,
    { eval: true },
  );
  const [port] = (await once(worker, 'message')) as [number];
  const fillers: net.Socket[] = [];
  // Linux completes one connection more than the backlog says.
  for (let i = 0; i < 2; i++) {
    const filler = net.connect(port, '127.0.0.1');
    await once(filler, 'connect');
    fillers.push(filler);
  }
  return {
    target: { host: '127.0.0.1', port },
    async [Symbol.asyncDispose]() {
      for (const filler of fillers) filler.destroy();
      await worker.terminate();
    },
  };
}

describe('connecting', LIMITS, () => {
  test('returns a half-open TCP socket, without listeners of its own', async () => {
    await using served = await serve(net.createServer({ allowHalfOpen: true }));
    const plain = net.connect({ port: portOf(served.server), host: '127.0.0.1' });
    await once(plain, 'connect');
    const socket = await connectSocket(served.target);
    assert.equal(socket.allowHalfOpen, true);
    for (const event of ['error', 'connect', 'close', 'data', 'end']) {
      assert.equal(socket.listenerCount(event), plain.listenerCount(event), event);
    }
    socket.destroy();
    plain.destroy();
  });

  test('connects to a unix socket', async () => {
    await using directory = makeTempDir();
    await using served = await serve(net.createServer(), directory.join('s'));
    const socket = await connectSocket(served.target);
    socket.end('hello');
    if (served.connections.length === 0) await once(served.server, 'connection');
    const [other] = served.connections;
    assert.ok(other);
    assert.equal((await collect(streamPeer(other).read)).toString(), 'hello');
  });

  test('connects to this machine for an empty host', async () => {
    await using served = await serve(net.createServer());
    const socket = await connectSocket({ host: '', port: portOf(served.server) });
    assert.equal(socket.remoteAddress, '127.0.0.1');
    socket.destroy();
  });

  test('is refused where no process listens, and names the address', async () => {
    const target = await deafTarget();
    await assert.rejects(connectSocket(target), {
      name: 'QemuFileError',
      code: 'ECONNREFUSED',
      operation: 'connect',
      message: new RegExp(`^ECONNREFUSED: connect: tcp:127.0.0.1:${target.port}: `),
    });
  });

  test('names the reason of every address of a name', async () => {
    const { port } = await deafTarget();
    await assert.rejects(connectSocket({ host: 'localhost', port }), {
      code: 'ECONNREFUSED',
      message: /ECONNREFUSED (127\.0\.0\.1|::1):/,
    });
  });

  test('reports a unix socket that does not exist, and one without a listener', async () => {
    await using directory = makeTempDir();
    await rejectsWith(connectSocket({ path: directory.join('none') }), 'ENOENT');
    await rejectsWith(connectSocket({ path: directory.join('s'.repeat(108)) }), 'ENAMETOOLONG');
    const path = directory.join('left-over');
    await leaveSocketOver(path);
    await rejectsWith(connectSocket({ path }), 'ECONNREFUSED');
  });

  test('rejects an invalid port', async () => {
    await rejectsWith(connectSocket({ host: '127.0.0.1', port: 65536 }), 'EINVAL');
  });

  test('rejects with ETIMEDOUT when the peer does not answer in time', async () => {
    await using full = await fullTarget();
    await assert.rejects(connectSocket(full.target, { timeoutMs: 20 }), {
      code: 'ETIMEDOUT',
      message: /did not answer in 20 ms/,
    });
  });

  test('rejects with ECANCELED when its signal aborts, with the reason as the cause', async () => {
    await using full = await fullTarget();
    const controller = new AbortController();
    const reason = new Error('changed my mind');
    const connecting = connectSocket(full.target, { signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(connecting, { code: 'ECANCELED', cause: reason });
  });

  test('does not begin when its signal is already aborted', async () => {
    await using served = await serve(net.createServer());
    await rejectsWith(connectSocket(served.target, { signal: AbortSignal.abort() }), 'ECANCELED');
    assert.equal(served.connections.length, 0);
  });

  test('has no effect on the socket when the signal aborts later, and leaves no timer', async () => {
    await using served = await serve(net.createServer());
    const controller = new AbortController();
    const timers = () =>
      process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    const options = { signal: controller.signal, timeoutMs: 60_000 };
    const socket = await connectSocket(served.target, options);
    assert.equal(timers(), before);
    controller.abort();
    assert.equal(socket.destroyed, false);
    socket.destroy();
  });
});

describe('connecting with TLS', LIMITS, () => {
  const accepting = (options: tls.TlsOptions = {}) =>
    tls.createServer({ cert, key, allowHalfOpen: true, ...options });

  test('returns a half-open socket whose peer is verified', async () => {
    await using served = await serve(accepting());
    const accepted = once(served.server, 'secureConnection') as Promise<[tls.TLSSocket]>;
    const socket = await connectSocket(served.target, { tls: { ca } });
    assert.ok(socket instanceof tls.TLSSocket && socket.authorized);
    assert.equal(socket.allowHalfOpen, true);
    const [other] = await accepted;
    const ops = socketOps(socket);
    await ops.writevBuffer([Buffer.from('secret')], 0);
    const closed = ops.close();
    const peer = streamPeer(other);
    assert.equal((await collect(peer.read)).toString(), 'secret');
    await peer.close();
    await closed;
  });

  test('verifies a name, and asks for it', async () => {
    await using served = await serve(accepting());
    const accepted = once(served.server, 'secureConnection') as Promise<[tls.TLSSocket]>;
    const port = portOf(served.server);
    const socket = await connectSocket({ host: 'localhost', port }, { tls: { ca } });
    const [other] = await accepted;
    assert.equal((other as { servername?: unknown }).servername, 'localhost');
    socket.destroy();
    const wrongName = connectSocket(served.target, { tls: { ca, servername: 'example.org' } });
    await assert.rejects(wrongName, { code: 'EPROTO', message: /altnames/ });
  });

  test('works over a unix socket', async () => {
    await using directory = makeTempDir();
    await using served = await serve(accepting(), directory.join('s'));
    const socket = await connectSocket(served.target, { tls: { ca, servername: 'localhost' } });
    assert.ok(socket instanceof tls.TLSSocket && socket.authorized);
    socket.destroy();
  });

  test('rejects a certificate of an unknown authority, and sends no byte of the stream', async () => {
    await using served = await serve(accepting());
    let received = 0;
    served.server.on('secureConnection', (socket: tls.TLSSocket) => {
      socket
        .on('error', () => {})
        .on('data', (chunk: Buffer) => {
          received += chunk.length;
        });
    });
    const wire: Buffer[] = [];
    await using recorder = await serve(recordingProxy(served.target, wire));
    for (const options of [{ ca: otherCa }, {}]) {
      await assert.rejects(connectSocket(recorder.target, { tls: options }), {
        name: 'QemuFileError',
        code: 'EPROTO',
        message: /^EPROTO: connect: tcp:127\.0\.0\.1:\d+: .*(verif|signed|issuer)/,
      });
    }
    assert.equal(received, 0);
    for (const connection of wire) checkTlsRecords(connection);
  });

  test('reports a peer that does not speak TLS', async () => {
    await using served = await serve(
      net.createServer((socket) => socket.on('error', () => {}).end('not TLS at all, sorry\n')),
    );
    await rejectsWith(connectSocket(served.target, { tls: { ca } }), 'EPROTO');
  });

  test('reports a peer that leaves during the handshake', async () => {
    await using served = await serve(net.createServer((socket) => socket.destroy()));
    await rejectsWith(connectSocket(served.target, { tls: { ca } }), 'ECONNRESET', 'EPIPE');
  });

  test('rejects with ETIMEDOUT when the handshake takes too long', async () => {
    await using served = await serve(net.createServer());
    const connecting = connectSocket(served.target, { tls: { ca }, timeoutMs: 50 });
    await rejectsWith(connecting, 'ETIMEDOUT');
    const other = await until(() => served.connections[0], { what: 'the connection' });
    // The connection is closed as well; the bytes before were the start of a handshake.
    await collect(streamPeer(other).read);
  });

  test('rejects with ECANCELED when its signal aborts during the handshake', async () => {
    await using served = await serve(net.createServer());
    const controller = new AbortController();
    const connecting = connectSocket(served.target, { tls: { ca }, signal: controller.signal });
    const failed = rejectsWith(connecting, 'ECANCELED');
    await once(served.server, 'connection');
    controller.abort();
    await failed;
  });

  test('does not go below TLS 1.2 even where Node is configured to, unless its options say so', async (t) => {
    const { DEFAULT_MIN_VERSION } = tls;
    t.after(() => {
      tls.DEFAULT_MIN_VERSION = DEFAULT_MIN_VERSION;
    });
    tls.DEFAULT_MIN_VERSION = 'TLSv1';
    // OpenSSL 3 has TLS 1.1 only where no level of security is asked for.
    const ciphers = 'DEFAULT@SECLEVEL=0';
    await using served = await serve(accepting({ maxVersion: 'TLSv1.1', ciphers }));
    const refused = connectSocket(served.target, { tls: { ca, ciphers } });
    await rejectsWith(refused, 'EPROTO', 'ECONNRESET');
    const told = { ca, ciphers, minVersion: 'TLSv1.1' } as const;
    const socket = await connectSocket(served.target, { tls: told });
    assert.equal((socket as tls.TLSSocket).getProtocol(), 'TLSv1.1');
    socket.destroy();
  });

  test('rejects invalid TLS options', async () => {
    await using served = await serve(accepting());
    const options = { ca, minVersion: 'TLSv9' as tls.SecureVersion };
    await rejectsWith(connectSocket(served.target, { tls: options }), 'EINVAL');
  });

  test('verifies the peer by a shared key, without certificates', async () => {
    const psk = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
    const common = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const;
    await using served = await serve(
      tls.createServer({
        ...common,
        pskCallback: (_socket, identity) => (identity === 'qemu' ? psk : null),
      }),
    );
    const withKey = (shared: Buffer) =>
      connectSocket(served.target, {
        tls: { ...common, pskCallback: () => ({ psk: shared, identity: 'qemu' }) },
      });
    (await withKey(psk)).destroy();
    await rejectsWith(withKey(Buffer.alloc(16)), 'EPROTO', 'ECONNRESET');
  });

  test('verifies the certificate when the shared key was not used', async () => {
    await using served = await serve(accepting({ maxVersion: 'TLSv1.2' }));
    const connecting = connectSocket(served.target, {
      tls: {
        ca,
        servername: 'example.org',
        pskCallback: () => ({ psk: Buffer.alloc(16), identity: 'qemu' }),
      },
    });
    await assert.rejects(connecting, { code: 'EPROTO', message: /altnames/ });
  });
});

/** A server that forwards connections and records the bytes of the connecting side. */
function recordingProxy(target: SocketTarget, wire: Buffer[]): net.Server {
  return net.createServer((near) => {
    const index = wire.push(Buffer.alloc(0)) - 1;
    const far = net.connect(target as net.TcpNetConnectOpts);
    near.on('data', (chunk: Buffer) => {
      wire[index] = Buffer.concat([wire[index] as Buffer, chunk]);
    });
    for (const socket of [near, far]) socket.on('error', () => {});
    near.pipe(far).pipe(near);
  });
}

/** Checks that bytes are nothing but TLS records: type, version 3.x, length, that many bytes. */
function checkTlsRecords(bytes: Buffer): void {
  assert.ok(bytes.length > 0);
  let at = 0;
  while (at < bytes.length) {
    const type = bytes.readUInt8(at);
    assert.ok(type >= 20 && type <= 23 && bytes.readUInt8(at + 1) === 3);
    at += 5 + bytes.readUInt16BE(at + 3);
  }
  assert.equal(at, bytes.length);
}

// Messages when TLS fails on either side, and the end of a connection over TLS.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import tls from 'node:tls';
import { connectSocket } from '../../../adapters/socket/connect.ts';
import { listenSocket } from '../../../adapters/socket/listen/listen.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { QemuFileError } from '../../../lib/contract/errors.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { collect, readOnce } from '../../helpers/transports/backend.ts';
import { makeCredentials, SHARED_KEY } from '../../helpers/transports/credentials.ts';
import { portOf } from '../../helpers/transports/sockets.ts';
import { streamPeer } from '../../helpers/transports/stream-peer.ts';
import { WireTap } from '../../helpers/transports/wire-tap.ts';
import { until } from '../../helpers/until.ts';

const LIMITS = { timeout: 300_000 };
const ANY_PORT = { host: '127.0.0.1', port: 0 };
const ALERT_RECORD = 21;

const dir = makeTempDir();
after(() => dir.remove());
const made = makeCredentials(dir.path);

const file = (path: string, name: string): Buffer => readFileSync(join(path, name));
const ca = file(made.good, 'ca-cert.pem');
const pairOf = (path: string, role: 'server' | 'client') => ({
  cert: file(path, `${role}-cert.pem`),
  key: file(path, `${role}-key.pem`),
});
const server = pairOf(made.good, 'server');
const client = pairOf(made.good, 'client');

const psk = (key: string, identity = 'qemu') => ({
  ciphers: 'PSK',
  maxVersion: 'TLSv1.2' as const,
  pskCallback: () => ({ psk: Buffer.from(key, 'hex'), identity }),
});
const pskServer: tls.TlsOptions = {
  ciphers: 'PSK',
  pskCallback: (_socket, identity) => (identity === 'qemu' ? Buffer.from(SHARED_KEY, 'hex') : null),
};

describe('a listening side says why it refuses', LIMITS, () => {
  const demanding: tls.TlsOptions = { ...server, ca, requestCert: true };
  const rows: { name: string; listens: tls.TlsOptions; by: tls.ConnectionOptions; says: RegExp }[] =
    [
      {
        name: 'a client without a certificate',
        listens: demanding,
        by: { ca },
        says: /^EPROTO: accept: tcp:127\.0\.0\.1:\d+: it sent no certificate of a trusted authority: give it one/,
      },
      {
        name: 'a client of another authority',
        listens: demanding,
        by: { ca, ...pairOf(made.stranger, 'client') },
        says: /^EPROTO: .*its certificate does not verify.*its authority is not trusted here/,
      },
      {
        name: 'a client whose certificate has expired',
        listens: demanding,
        by: { ca, ...pairOf(made.expired, 'client') },
        says: /^EPROTO: .*its certificate has expired: renew it/,
      },
      {
        name: 'a client with another key',
        listens: pskServer,
        by: psk('ff'.repeat(16)),
        says: /^EPROTO: .*the shared keys \(PSK\) differ/,
      },
      {
        name: 'a client whose user it does not know',
        listens: pskServer,
        by: psk(SHARED_KEY, 'nobody'),
        says: /^EPROTO: .*there is no shared key \(PSK\) for the user/,
      },
      {
        name: 'a client that has nothing in common with it',
        listens: server,
        by: psk(SHARED_KEY),
        says: /^EPROTO: .*both must use certificates, or both a shared key/,
      },
    ];
  for (const { name, listens, by, says } of rows) {
    test(name, async () => {
      const errors: QemuFileError[] = [];
      await using listener = await listenSocket(ANY_PORT, {
        tls: listens,
        onConnectionError: (error) => errors.push(error),
      });
      await connectSocket(listener.address, { tls: by }).then(
        (socket) => socket.on('error', () => {}).destroy(),
        () => {},
      );
      await until(() => errors.length > 0, { what: 'the failure to be reported' });
      assert.match(errors[0]?.message ?? '', says);
    });
  }

  test('a connection that is silent', async () => {
    const errors: QemuFileError[] = [];
    await using listener = await listenSocket(ANY_PORT, {
      tls: { ...server, handshakeTimeout: 20 },
      onConnectionError: (error) => errors.push(error),
    });
    const silent = net.connect(listener.address as net.TcpNetConnectOpts).on('error', () => {});
    await until(() => errors.length > 0, { what: 'the failure to be reported' });
    assert.equal(errors[0]?.code, 'ETIMEDOUT');
    assert.match(errors[0]?.message ?? '', /did not finish the TLS handshake in time/);
    silent.destroy();
  });
});

describe('a connecting side says why it refuses, or is refused', LIMITS, () => {
  async function serving(options: tls.TlsOptions) {
    const sockets: net.Socket[] = [];
    const listening = tls.createServer({ allowHalfOpen: true, ...options });
    listening.on('connection', (socket: net.Socket) => sockets.push(socket));
    listening.on('secureConnection', (socket) => socket.on('error', () => {}));
    listening.listen(0, '127.0.0.1');
    await once(listening, 'listening');
    return {
      target: { host: '127.0.0.1', port: portOf(listening) },
      async [Symbol.asyncDispose]() {
        listening.close();
        for (const socket of sockets) socket.destroy();
      },
    };
  }

  const rows: { name: string; serves: tls.TlsOptions; by: tls.ConnectionOptions; says: RegExp }[] =
    [
      {
        name: 'another name in the certificate',
        serves: pairOf(made.named, 'server'),
        by: { ca },
        says: /^EPROTO: connect: .*not for "127\.0\.0\.1" but for DNS:vm\.example.*TLS host name/,
      },
      {
        name: 'another authority',
        serves: pairOf(made.stranger, 'server'),
        by: { ca },
        says: /^EPROTO: .*its authority is not trusted here/,
      },
      {
        name: 'a certificate that has expired',
        serves: pairOf(made.expired, 'server'),
        by: { ca },
        says: /^EPROTO: .*its certificate has expired/,
      },
      {
        name: 'another key',
        serves: { ...pskServer, maxVersion: 'TLSv1.2' },
        by: psk('ff'.repeat(16)),
        says: /^EPROTO: .*the shared keys \(PSK\) differ/,
      },
      {
        name: 'nothing in common',
        serves: server,
        by: psk(SHARED_KEY),
        says: /^EPROTO: .*both must use certificates, or both a shared key/,
      },
    ];
  for (const { name, serves, by, says } of rows) {
    test(name, async () => {
      await using other = await serving(serves);
      await assert.rejects(connectSocket(other.target, { tls: by }), { message: says });
    });
  }

  test('a required certificate, which TLS 1.3 reports after the handshake', async () => {
    await using other = await serving({ ...server, ca, requestCert: true, minVersion: 'TLSv1.3' });
    const ops = socketOps(await connectSocket(other.target, { tls: { ca } }));
    await assert.rejects(async () => readOnce(ops), {
      code: 'EPROTO',
      message: /the peer requires a certificate: give this side one/,
    });
    await ops.close(new Error('it failed'));
  });

  test('an end that never does its handshake', async () => {
    // Read to their end, so that none stays open, even one that arrives after the test.
    const silent = net.createServer((socket) => socket.resume()).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const target = { host: '127.0.0.1', port: portOf(silent) };
    await assert.rejects(connectSocket(target, { tls: { ca }, handshakeTimeoutMs: 20 }), {
      code: 'ETIMEDOUT',
      message: /did not finish the TLS handshake in 20 ms/,
    });
    silent.close();
  });

  test('an end that leaves during the handshake', async () => {
    const leaving = net.createServer((socket) =>
      socket
        .on('error', () => {})
        .resume()
        .end(),
    );
    leaving.listen(0, '127.0.0.1');
    await once(leaving, 'listening');
    const target = { host: '127.0.0.1', port: portOf(leaving) };
    await assert.rejects(connectSocket(target, { tls: { ca } }), {
      code: 'ECONNRESET',
      message: /ended the connection during the TLS handshake: it may not speak TLS/,
    });
    leaving.close();
  });
});

describe('the end of a connection over TLS', LIMITS, () => {
  /** The types of the TLS records in some bytes. */
  function recordTypes(bytes: Buffer): number[] {
    const types: number[] = [];
    for (let at = 0; at + 5 <= bytes.length; at += 5 + bytes.readUInt16BE(at + 3)) {
      types.push(bytes.readUInt8(at));
    }
    return types;
  }

  for (const closeNotify of [true, false]) {
    test(`has ${closeNotify ? 'an' : 'no'} alert when closeNotify is ${closeNotify}`, async () => {
      await using listener = await listenSocket(ANY_PORT, { tls: server });
      assert.ok('port' in listener.address);
      await using wire = await WireTap.before(listener.address.port);
      // In TLS 1.2 the type of a record can be seen from outside.
      const near = await connectSocket(
        { host: '127.0.0.1', port: wire.port },
        { tls: { ca, ...client, maxVersion: 'TLSv1.2' } },
      );
      const peer = streamPeer(await listener.accept());
      const ops = socketOps(near, { closeNotify });
      await ops.writevBuffer([Buffer.from('question')], 0);
      await ops.shutDown(false, true);
      assert.equal((await collect(peer.read)).toString(), 'question');
      await assert.rejects(async () => ops.writevBuffer([Buffer.from('more')], 8), {
        code: 'EPIPE',
      });
      // The other direction goes on.
      await peer.write(Buffer.from('answer'));
      const closing = peer.close();
      assert.equal((await collect(() => readOnce(ops))).toString(), 'answer');
      await Promise.all([ops.close(), closing]);
      const types = recordTypes(wire.streams[0] ?? Buffer.alloc(0));
      assert.equal(types.at(-1) === ALERT_RECORD, closeNotify);
    });
  }

  test('is not an alert before the FIN', async () => {
    await using listener = await listenSocket(ANY_PORT, { tls: server });
    const near = await connectSocket(listener.address, { tls: { ca, ...client } });
    const far = await listener.accept();
    const ops = socketOps(near, { closeNotify: false });
    const reading = assert.rejects(async () => ops.getBuffer(Buffer.alloc(8), 0), {
      code: 'EPROTO',
    });
    // As node:tls reports the alert of a peer.
    const code = 'ERR_SSL_TLSV1_ALERT_DECODE_ERROR';
    near.destroy(
      Object.assign(new Error('alert'), { code, library: 'SSL routines', reason: 'alert' }),
    );
    await reading;
    await ops.close().catch(() => {});
    far.on('error', () => {}).destroy();
  });

  test('leaves nothing unread at the peer: a listening side sends only replies', async () => {
    await using listener = await listenSocket(ANY_PORT, { tls: server });
    assert.ok('port' in listener.address);
    await using wire = await WireTap.before(listener.address.port);
    const near = await connectSocket({ host: '127.0.0.1', port: wire.port }, { tls: { ca } });
    const [connection] = wire.connections;
    // The client's handshake ends with the last message of the listening side.
    const before = Buffer.concat(connection?.answered ?? []).length;
    near.write('bytes without an answer');
    const far = streamPeer(await listener.accept());
    assert.equal(String(await far.read()), 'bytes without an answer');
    assert.equal(Buffer.concat(connection?.answered ?? []).length, before);
    near.destroy();
    await far.close().catch(() => {});
  });
});

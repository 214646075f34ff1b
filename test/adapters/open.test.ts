// Opening by URI: each scheme from both sides, without leftovers.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { openFrom, openTo, type SocketTarget } from '../../adapters/index.ts';
import type { QemuFile } from '../../lib/index.ts';
import { pattern } from '../helpers/bytes.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { rejectsWith } from '../helpers/transports/backend.ts';
import { certificates, portOf } from '../helpers/transports/sockets.ts';

const bytes = pattern(200_000);

async function all(file: QemuFile): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of file) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Open a listening end; return its address and a promise of the file. */
async function listening(
  uri: string,
  options: Parameters<typeof openFrom>[1] = {},
): Promise<{ address: SocketTarget; opening: Promise<QemuFile> }> {
  let opening: Promise<QemuFile> | undefined;
  const address = await new Promise<SocketTarget>((resolve, reject) => {
    opening = openFrom(uri, { ...options, onListening: resolve });
    opening.catch(reject);
  });
  assert.ok(opening !== undefined);
  return { address, opening };
}

function uriOf(address: SocketTarget): string {
  return 'path' in address ? `unix:${address.path}` : `tcp:${address.host}:${address.port}`;
}

describe('openFrom and openTo', () => {
  for (const scheme of ['tcp', 'unix']) {
    test(`${scheme}: one listens for a single connection, the other connects, both ways`, async () => {
      await using dir = makeTempDir();
      const uri = scheme === 'tcp' ? 'tcp:127.0.0.1:0' : `unix:${dir.join('s')}`;
      const { address, opening } = await listening(uri);
      const to = await openTo(uriOf(address));
      const from = await opening;
      await assert.rejects(openTo(uriOf(address)), { name: 'QemuFileError' });
      to.end(bytes);
      from.end(bytes);
      assert.ok((await all(from)).equals(bytes));
      assert.ok((await all(to)).equals(bytes));
      await Promise.all([from.close(), to.close()]);
      assert.deepEqual(fs.readdirSync(dir.path), []);
    });
  }

  test('tcp: over TLS', async () => {
    const { cert, key, ca } = certificates;
    const { address, opening } = await listening('tcp:127.0.0.1:0', { tls: { cert, key } });
    const to = await openTo(uriOf(address), { tls: { ca, servername: 'localhost' } });
    const from = await opening;
    to.end(bytes);
    assert.ok((await all(from)).equals(bytes));
    await Promise.all([from.close(), to.close()]);
  });

  test('file: writes and reads, from an offset too', async () => {
    await using dir = makeTempDir();
    const path = dir.join('a:b');
    for (const uri of [path, `file:${path}`]) {
      const to = await openTo(uri);
      assert.equal(to.readable, false);
      to.end(bytes);
      await to.close();
      const from = await openFrom(uri);
      assert.equal(from.isWritable(), false);
      assert.ok((await all(from)).equals(bytes));
    }
    const to = await openTo(`file:${path},offset=1k`);
    to.end('new');
    await to.close();
    assert.equal(fs.statSync(path).size, 1027);
    assert.equal((await all(await openFrom(`file:${path},offset=0x400`))).toString(), 'new');
  });

  test('file: takes a FIFO', async () => {
    await using dir = makeTempDir();
    const path = dir.join('fifo');
    execFileSync('mkfifo', [path]);
    const [from, to] = await Promise.all([openFrom(path), openTo(`file:${path}`)]);
    to.end(bytes);
    assert.ok((await all(from)).equals(bytes));
    await to.close();
  });

  test('exec: reads the output of a command, and writes the input of one', async () => {
    await using dir = makeTempDir();
    const to = await openTo(`exec:cat > '${dir.join('out')}'`);
    to.end(bytes);
    await to.close();
    const from = await openFrom(`exec:cat '${dir.join('out')}'`);
    assert.ok((await all(from)).equals(bytes));
    await from.close();
  });

  test('fd: takes a descriptor of a file, from where it stands', async () => {
    await using dir = makeTempDir();
    const fd = fs.openSync(dir.join('f'), 'w+');
    const to = await openTo(`fd:${fd}`);
    to.end('QEVMrest');
    await to.close();
    const again = fs.openSync(dir.join('f'), 'r');
    fs.readSync(again, Buffer.alloc(4));
    const from = await openFrom(`fd:${again}`);
    assert.equal((await all(from)).toString(), 'rest');
    await from.close();
    assert.throws(() => fs.fstatSync(again), { code: 'EBADF' });
  });

  test('pass the options on to the file', async () => {
    await using dir = makeTempDir();
    const file = { digest: 'xxh64', maxBandwidth: 12345 } as const;
    const to = await openTo(dir.join('f'), { file });
    assert.equal(to.maxBandwidth, 12345);
    to.end('abc');
    await to.close();
    assert.equal(to.putDigest, '44bc2cf5ad770999');
  });

  test('take a URI that was parsed', async () => {
    await using dir = makeTempDir();
    const to = await openTo({ scheme: 'file', path: dir.join('f'), offset: 0 });
    await to.close();
    assert.ok(fs.existsSync(dir.join('f')));
  });
});

describe('openFrom and openTo fail', () => {
  test('is a QemuFileError with the code of the system', async () => {
    await using dir = makeTempDir();
    const server = net.createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const port = portOf(server);
    await rejectsWith(openFrom(`tcp:127.0.0.1:${port}`), 'EADDRINUSE');
    server.close();
    await once(server, 'close');
    await rejectsWith(openTo(`tcp:127.0.0.1:${port}`), 'ECONNREFUSED');
    await rejectsWith(openTo('tcp:127.0.0.1:0'), 'EINVAL');
    await rejectsWith(openTo(`unix:${dir.join('none')}`), 'ENOENT');
    await rejectsWith(openFrom(`unix:${dir.join('no/s')}`), 'ENOENT', 'EACCES');
    await rejectsWith(openFrom(dir.join('none')), 'ENOENT');
    await rejectsWith(openFrom(dir.path), 'EISDIR');
    await rejectsWith(openTo(dir.path), 'EISDIR');
    await rejectsWith(openTo(dir.join('no/f')), 'ENOENT');
    await rejectsWith(openFrom('fd:987654'), 'EBADF');
    await rejectsWith(openTo('fd:987654'), 'EBADF');
    await rejectsWith(openTo('foo:x'), 'EINVAL');
    await rejectsWith(openFrom('vsock:2:3'), 'ENOTSUP');
  });

  test('over TLS for an endpoint that is not a socket', async () => {
    await rejectsWith(openFrom('exec:true', { tls: {} }), 'EINVAL');
    await rejectsWith(openTo('file:/dev/null', { tls: {} }), 'EINVAL');
  });

  test('with invalid options of the file, and leave nothing open', async () => {
    await using dir = makeTempDir();
    const before = fs.readdirSync('/proc/self/fd').length;
    const file = { stagingSize: -1 };
    await assert.rejects(openTo(dir.join('f'), { file }), RangeError);
    assert.deepEqual(fs.readdirSync(dir.path), []);
    assert.equal(fs.readdirSync('/proc/self/fd').length, before);
  });
});

describe('waiting', () => {
  test('for a connection ends by the signal, and the address is free again', async () => {
    await using dir = makeTempDir();
    for (const uri of ['tcp:127.0.0.1:0', `unix:${dir.join('s')}`]) {
      const abort = new AbortController();
      const { address, opening } = await listening(uri, { signal: abort.signal });
      abort.abort();
      await rejectsWith(opening, 'ECANCELED');
      await rejectsWith(openTo(uriOf(address)), 'ECONNREFUSED', 'ENOENT');
    }
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('for a connection ends when the time is up', async () => {
    await rejectsWith(openFrom('tcp:127.0.0.1:0', { timeoutMs: 20 }), 'ETIMEDOUT');
  });

  test('for a TLS handshake ends when the time is up', async () => {
    const server = net.createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const connected = once(server, 'connection') as Promise<[net.Socket]>;
    const opening = openTo(`tcp:127.0.0.1:${portOf(server)}`, { tls: {}, timeoutMs: 50 });
    await rejectsWith(opening, 'ETIMEDOUT');
    const [socket] = await connected;
    socket.on('error', () => {}).destroy();
    server.close();
  });

  test('for the reader of a FIFO ends by the signal', async () => {
    await using dir = makeTempDir();
    execFileSync('mkfifo', [dir.join('fifo')]);
    const abort = new AbortController();
    const opening = openTo(dir.join('fifo'), { signal: abort.signal });
    setImmediate(() => abort.abort());
    await rejectsWith(opening, 'ECANCELED');
  });

  test('does not begin when the signal was aborted before', async () => {
    await using dir = makeTempDir();
    const signal = AbortSignal.abort();
    const uris = ['tcp:127.0.0.1:1', `unix:${dir.join('s')}`, dir.join('f'), 'exec:true', '-'];
    for (const uri of uris) {
      await rejectsWith(openFrom(uri, { signal }), 'ECANCELED');
      await rejectsWith(openTo(uri, { signal }), 'ECANCELED');
    }
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('does not affect an open file when the signal aborts later', async () => {
    await using dir = makeTempDir();
    const abort = new AbortController();
    const to = await openTo(dir.join('f'), { signal: abort.signal });
    abort.abort();
    to.end('abc');
    await to.close();
    assert.equal(fs.readFileSync(dir.join('f'), 'utf8'), 'abc');
  });
});

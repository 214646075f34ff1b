// The floor of a relay in plain Node: one connection, or a file, to another connection, through one buffer.
//
//   node --import tsx plain-relay.ts FROM TO      unix:PATH, tcp:PORT, tls:PORT, or a file (FROM only)
import { openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { connect, createServer, type ListenOptions, type NetConnectOpts, Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';

const BUFFER_BYTES = 256 * 1024;
const [from = '', to = ''] = process.argv.slice(2);
const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);

/** A socket's handle, of which Node has no public name. */
type Handle = ConstructorParameters<typeof Socket>[0] & { fd: number };
const handleOf = (socket: Socket): Handle => (socket as unknown as { _handle: Handle })._handle;

function addressOf(uri: string): ListenOptions & NetConnectOpts {
  const [scheme, place = ''] = uri.split(':');
  const address = scheme === 'unix' ? { path: place } : { port: Number(place), host: '127.0.0.1' };
  return address as ListenOptions & NetConnectOpts;
}

/** Write as much as the kernel takes at once, and the rest with the socket; return whether it was all taken. */
function write(out: Socket, bytes: Uint8Array, onRest: () => void): boolean {
  let done = 0;
  try {
    done = writeSync(handleOf(out).fd, bytes);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
  }
  if (done === bytes.length) return true;
  out.write(bytes.subarray(done), onRest);
  return false;
}

function moveFile(fd: number, out: Socket): void {
  const next = (): void => {
    for (;;) {
      const bytes = readSync(fd, buffer, 0, BUFFER_BYTES, null);
      if (bytes === 0) return void out.end();
      if (!write(out, buffer.subarray(0, bytes), next)) return;
    }
  };
  next();
}

/** libuv reads into the buffer itself, which is what `onread` of a socket is for. */
function moveSocket(accepted: Socket, out: Socket): void {
  const handle = handleOf(accepted);
  (accepted as unknown as { _handle: null })._handle = null;
  const resume = (): void => void input.resume();
  const callback = (bytes: number, view: Uint8Array): boolean => {
    if (!write(out, view.subarray(0, bytes), resume)) input.pause();
    return true;
  };
  const options = { handle, allowHalfOpen: true, onread: { buffer, callback } };
  const input = new Socket(options);
  input.on('end', () => {
    out.end();
    input.destroy();
  });
  resume();
}

function listenTls(out: Socket): void {
  const pem = (name: string): Buffer =>
    readFileSync(new URL(`../../test/fixtures/tls/${name}`, import.meta.url));
  const options = { key: pem('server-key.pem'), cert: pem('server.pem') };
  const server = createTlsServer(options, (input) => {
    server.close();
    input.pipe(out);
  }).listen(addressOf(from));
}

const isTls = to.startsWith('tls:');
const out = isTls
  ? connectTls({ ...addressOf(to), rejectUnauthorized: false })
  : connect(addressOf(to));
out.resume();
out.once(isTls ? 'secureConnect' : 'connect', () => {
  if (from.startsWith('tls:')) return listenTls(out);
  if (from.startsWith('/')) return moveFile(openSync(from, 'r'), out);
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => {
    server.close();
    moveSocket(socket, out);
  }).listen(addressOf(from));
});

// The floor of a relay in plain Node: one connection, or a file, to another connection, through one buffer.
//
//   node plain-relay.mjs FROM TO      unix:PATH, tcp:PORT, tls:PORT, or a file (FROM only)
import { openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { connect, createServer, Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';

const BUFFER_BYTES = 256 * 1024;
const [from = '', to = ''] = process.argv.slice(2);
const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);

function addressOf(uri) {
  const [scheme, place] = uri.split(':');
  return scheme === 'unix' ? { path: place } : { port: Number(place), host: '127.0.0.1' };
}

/** Write as much as the kernel takes at once, and the rest with the socket; return whether it was all taken. */
function write(out, bytes, onRest) {
  let done = 0;
  try {
    // Node has no public name of a socket's descriptor.
    done = writeSync(out._handle.fd, bytes);
  } catch (error) {
    if (error.code !== 'EAGAIN') throw error;
  }
  if (done === bytes.length) return true;
  out.write(bytes.subarray(done), onRest);
  return false;
}

function moveFile(fd, out) {
  const next = () => {
    for (;;) {
      const bytes = readSync(fd, buffer, 0, BUFFER_BYTES, null);
      if (bytes === 0) {
        out.end();
        return;
      }
      if (!write(out, buffer.subarray(0, bytes), next)) return;
    }
  };
  next();
}

/** libuv reads into the buffer itself: a socket can be made so with `onread`, and an accepted one made anew. */
function moveSocket(accepted, out) {
  const handle = accepted._handle;
  accepted._handle = null;
  const resume = () => input.resume();
  const callback = (bytes, view) => {
    if (!write(out, view.subarray(0, bytes), resume)) input.pause();
    return true;
  };
  const input = new Socket({ handle, allowHalfOpen: true, onread: { buffer, callback } });
  input.on('end', () => {
    out.end();
    input.destroy();
  });
  resume();
}

function moveTls(out) {
  const pem = (name) => readFileSync(new URL(`../../test/fixtures/tls/${name}`, import.meta.url));
  const options = { key: pem('server-key.pem'), cert: pem('server.pem') };
  const server = createTlsServer(options, (input) => {
    server.close();
    input.pipe(out);
  }).listen(addressOf(from));
}

function moveConnection(out) {
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => {
    server.close();
    moveSocket(socket, out);
  }).listen(addressOf(from));
}

const isTls = to.startsWith('tls:');
const out = isTls
  ? connectTls({ ...addressOf(to), rejectUnauthorized: false })
  : connect(addressOf(to));
out.resume();
out.once(isTls ? 'secureConnect' : 'connect', () => {
  if (from.startsWith('/')) moveFile(openSync(from, 'r'), out);
  else if (from.startsWith('tls:')) moveTls(out);
  else moveConnection(out);
});

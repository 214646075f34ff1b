// The floor of a relay in plain Node: connections, or a file, to other connections, through one buffer for each.
//
//   node plain-relay.mjs FROM TO [CONNECTIONS | pipe]      unix:PATH, tcp:PORT, tls:PORT, or a file (FROM only)
import { openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';

const BUFFER_BYTES = 256 * 1024;
const [from = '', to = '', how = '1'] = process.argv.slice(2);

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
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
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

/** With an empty buffer, libuv only says that there is something to read. Node has no public way to learn that. */
function moveSocket(input, out) {
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  const handle = input._handle;
  let isWriting = false;
  const onRest = () => {
    isWriting = false;
    handle.readStart();
  };
  handle.useUserBuffer(Buffer.alloc(0));
  handle.onread = () => {
    if (isWriting) {
      handle.readStop();
      return;
    }
    const bytes = readSync(handle.fd, buffer, 0, BUFFER_BYTES, null);
    if (bytes === 0) {
      out.end();
      input.destroy();
    } else {
      isWriting = !write(out, buffer.subarray(0, bytes), onRest);
    }
  };
  handle.readStart();
}

function moveTls(out) {
  const pem = (name) =>
    readFileSync(new URL(`../../../test/fixtures/tls/${name}`, import.meta.url));
  const options = { key: pem('server-key.pem'), cert: pem('server.pem') };
  const server = createTlsServer(options, (input) => {
    server.close();
    input.pipe(out);
  }).listen(addressOf(from));
}

/** Make a connection for each of the connections that come. */
function moveConnections(count) {
  let left = count;
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (input) => {
    left -= 1;
    if (left === 0) server.close();
    const out = connect(addressOf(to));
    out.resume();
    out.once('connect', () => {
      if (how === 'pipe') input.pipe(out);
      else moveSocket(input, out);
    });
  }).listen(addressOf(from));
}

if (to.startsWith('tls:')) {
  const out = connectTls({ ...addressOf(to), rejectUnauthorized: false });
  out.resume();
  out.once('secureConnect', () => moveTls(out));
} else if (from.startsWith('/')) {
  const out = connect(addressOf(to));
  out.resume();
  out.once('connect', () => moveFile(openSync(from, 'r'), out));
} else {
  moveConnections(how === 'pipe' ? 1 : Number(how));
}

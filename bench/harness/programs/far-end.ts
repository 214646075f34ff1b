// The process of a far end: listens on a unix socket, on TCP and on TLS. A sink drops what it receives and
// ends when its peer does; a confirming one answers with its number of bytes; a source sends whole records.
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { RECORD, recordsIn } from '../data/ram-records.ts';
import type { Addresses, Arrival } from '../ends.ts';
import { pathOf } from '../paths.ts';

const [role = 'sink', path = '', records = '0'] = process.argv.slice(2);
const block = recordsIn(256 * 1024);
const total = Number(records) * RECORD;

function drop(socket: Socket): void {
  let bytes = 0;
  let start = 0;
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk) => {
    if (bytes === 0) start = performance.now();
    bytes += chunk.length;
    if (role === 'confirming-sink') confirm(socket, bytes);
  });
  socket.on('end', () => {
    const now = performance.now();
    const endedAtMs = performance.timeOrigin + now;
    const arrival: Arrival = { bytes, seconds: (now - start) / 1000, endedAtMs };
    process.send?.(arrival);
    socket.end();
  });
}

function confirm(socket: Socket, bytes: number): void {
  const answer = Buffer.alloc(8);
  answer.writeBigUInt64BE(BigInt(bytes));
  socket.write(answer);
}

function send(socket: Socket): void {
  let left = total;
  socket.on('error', () => socket.destroy());
  socket.resume();
  const pump = (): void => {
    while (left > 0) {
      const part = left >= block.length ? block : block.subarray(0, left);
      left -= part.length;
      if (!socket.write(part)) {
        socket.once('drain', pump);
        return;
      }
    }
    socket.end();
  };
  pump();
}

const serve = role === 'source' ? send : drop;
const pem = (name: string): Buffer => readFileSync(pathOf(`test/fixtures/tls/${name}`));
const options = { allowHalfOpen: true };
const unix = createServer(options, serve).listen(path);
const tcp = createServer(options, serve).listen(0, '127.0.0.1');
const tls = createTlsServer(
  { ...options, key: pem('server-key.pem'), cert: pem('server.pem'), minVersion: 'TLSv1.3' },
  serve,
).listen(0, '127.0.0.1');

let waiting = 3;
for (const server of [unix, tcp, tls]) {
  server.on('listening', () => {
    waiting -= 1;
    if (waiting > 0) return;

    const addresses: Addresses = {
      unix: path,
      tcp: (tcp.address() as AddressInfo).port,
      tls: (tls.address() as AddressInfo).port,
    };
    process.send?.(addresses);
  });
}
process.on('disconnect', () => process.exit());

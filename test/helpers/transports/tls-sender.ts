import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import tls from 'node:tls';

/** Return the credentials in a directory, as `node:tls` takes them. */
export function credentialsIn(path: string, role: 'server' | 'client'): tls.SecureContextOptions {
  const read = (name: string): Buffer => fs.readFileSync(join(path, name));
  return {
    ca: read('ca-cert.pem'),
    cert: read(`${role}-cert.pem`),
    key: read(`${role}-key.pem`),
  };
}

/** Send bytes to a TLS server at a path, with the credentials in a directory. */
export function sendOverTls(path: string, directory: string, bytes: Uint8Array): tls.TLSSocket {
  const socket = tls.connect({
    path,
    servername: 'localhost',
    ...credentialsIn(directory, 'client'),
  });
  socket.on('error', () => {});
  socket.end(bytes);
  return socket;
}

/** Send bytes without TLS to a server at a path, and wait until it has closed the connection. */
export async function sendPlain(path: string, bytes: Uint8Array): Promise<void> {
  const socket = net.createConnection(path).on('error', () => {});
  socket.end(bytes);
  await once(socket, 'close');
}

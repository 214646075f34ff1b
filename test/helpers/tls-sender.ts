import fs from 'node:fs';
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

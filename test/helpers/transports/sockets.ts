import { once } from 'node:events';
import { readFileSync, renameSync } from 'node:fs';
import net from 'node:net';
import tls from 'node:tls';

const FIXTURES = new URL('../../fixtures/tls/', import.meta.url);

/** The certificates of test/fixtures/tls, as `node:tls` takes them. */
export const certificates: Record<'ca' | 'otherCa' | 'cert' | 'key', Buffer> = {
  ca: readFileSync(new URL('ca.pem', FIXTURES)),
  otherCa: readFileSync(new URL('other-ca.pem', FIXTURES)),
  cert: readFileSync(new URL('server.pem', FIXTURES)),
  key: readFileSync(new URL('server-key.pem', FIXTURES)),
};

/**
 * Connect two plain sockets without the code under test.
 *
 * @param path - Path of a unix socket; without it, TCP on this machine.
 * @param allowHalfOpen - Option of the connecting socket, which is the first of the result.
 */
export async function plainSockets(
  path?: string,
  allowHalfOpen = true,
): Promise<[net.Socket, net.Socket]> {
  const server = net.createServer({ allowHalfOpen: true });
  server.listen(path === undefined ? { host: '127.0.0.1', port: 0 } : { path });
  await once(server, 'listening');
  const to = path === undefined ? { host: '127.0.0.1', port: portOf(server) } : { path };
  const accepted = once(server, 'connection') as Promise<[net.Socket]>;
  const socket = net.connect({ ...to, allowHalfOpen });
  await once(socket, 'connect');
  const [other] = await accepted;
  server.close();
  return [socket, other];
}

/** Connect two TLS sockets over TCP, the connecting one first, without the code under test. */
export async function tlsSockets(): Promise<[tls.TLSSocket, tls.TLSSocket]> {
  const [near, far] = await plainSockets();
  const options = { isServer: true, cert: certificates.cert, key: certificates.key };
  const server = new tls.TLSSocket(far, options);
  const client = tls.connect({ socket: near, ca: certificates.ca, servername: 'localhost' });
  await Promise.all([once(server, 'secure'), once(client, 'secureConnect')]);
  return [client, server];
}

/** Make a unix socket whose server ended without removing it. */
export async function leaveSocketOver(path: string): Promise<void> {
  const server = net.createServer().listen(`${path}.first`);
  await once(server, 'listening');
  // Closing removes only the name that the socket was created with.
  renameSync(`${path}.first`, path);
  server.close();
  await once(server, 'close');
}

/** Return the port of a TCP server. */
export function portOf(server: net.Server): number {
  return (server.address() as net.AddressInfo).port;
}

/** Return a TCP port of 127.0.0.1 on which nothing listens. */
export async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const port = portOf(server);
  server.close();
  return port;
}

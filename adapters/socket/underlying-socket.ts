import type { Duplex } from 'node:stream';

/**
 * Return the socket that a TLS socket was made over; undefined for other streams, and for a TLS socket that
 * made its own connection. Node has no public way to it, and cannot reset a TLS socket itself:
 * https://nodejs.org/api/net.html#socketresetanddestroy is for TCP handles only. Node 20 to 26 keep the socket
 * in `_parent`.
 */
export function underlyingSocket(socket: Duplex): Duplex | undefined {
  if (!('encrypted' in socket)) return undefined;
  const parent = (socket as { _parent?: unknown })._parent;
  return typeof parent === 'object' && parent !== null ? (parent as Duplex) : undefined;
}

import type { Duplex } from 'node:stream';

/**
 * Gives the socket that a TLS socket was made over. There is no public way to it, and a TLS socket cannot
 * be reset itself: https://nodejs.org/api/net.html#socketresetanddestroy is for TCP handles only.
 *
 * @param socket - Any stream; `undefined` comes back for what is not TLS, or was not made over a socket.
 */
export function underlyingSocket(socket: Duplex): Duplex | undefined {
  if (!('encrypted' in socket)) return undefined;
  const parent = (socket as { _parent?: unknown })._parent;
  return typeof parent === 'object' && parent !== null ? (parent as Duplex) : undefined;
}

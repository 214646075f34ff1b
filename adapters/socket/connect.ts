import net from 'node:net';
import type tls from 'node:tls';
import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import { waitFor, waitForPromise } from '../../lib/contract/wait-for.ts';
import { noop } from '../../lib/util/noop.ts';
import { loadTls } from './load-tls.ts';
import { networkError } from './network-error.ts';
import { checkSocketPath } from './socket-path.ts';
import { describeTarget, type SocketTarget } from './socket-target.ts';

/** How `connectSocket` behaves. */
export interface ConnectOptions {
  /** Ends the attempt with `ECANCELED`. */
  signal?: AbortSignal | undefined;
  /** Milliseconds for the whole attempt, including the TLS handshake. Default: the system's own limit. */
  timeoutMs?: number | undefined;
  /** Milliseconds for the TLS handshake. Default 10000. */
  handshakeTimeoutMs?: number | undefined;
  /**
   * Encrypt the connection, with these options of `tls.connect`. The peer's certificate is verified
   * against `servername` (default: the host), unless the options say otherwise. With a `pskCallback` both
   * ends need a PSK cipher in `ciphers` (such as `'PSK'`), and no certificate. `minVersion` is
   * `'TLSv1.2'` by default.
   */
  tls?: tls.ConnectionOptions | undefined;
}

/** The same limit as on the listening side. */
const HANDSHAKE_MS = 10_000;

/** The address for an empty host. */
const THIS_MACHINE = '127.0.0.1';

/**
 * Connect to a TCP or unix socket, with half-open allowed and without Nagle's delay.
 *
 * @param target - The address. For TLS over a unix socket, set `tls.servername` to the expected name.
 * @param options - `signal`, `timeoutMs`, `handshakeTimeoutMs`, `tls`.
 * @returns A connected `net.Socket`, or a `tls.TLSSocket` after its handshake, for `socketOps`.
 * @throws {QemuFileError} `ECONNREFUSED`, `ENOENT`, `EACCES` or `ENAMETOOLONG` (of a path); `ETIMEDOUT`;
 *   `ECANCELED` by the signal; `EPROTO` when TLS failed or the certificate names another peer; `EINVAL` for
 *   an invalid target or TLS option; or the system's own code.
 *
 * @example
 * ```js
 * const socket = await connectSocket({ host: 'localhost', port: 4444 }, { timeoutMs: 5000 });
 * const file = new QemuFile(socketOps(socket));
 * ```
 */
export async function connectSocket(
  target: SocketTarget,
  options: ConnectOptions = {},
): Promise<net.Socket | tls.TLSSocket> {
  const { signal, timeoutMs } = options;
  if (signal?.aborted) throw abortError(signal, 'connect');
  const where = describeTarget(target);
  const sockets = [connectPlain(target)];
  try {
    return await waitForPromise(connect(sockets, target, options), {
      signal,
      timeoutMs,
      operation: 'connect',
      timeoutReason: () => `${where} did not answer in ${timeoutMs} ms`,
    });
  } catch (error) {
    for (const socket of sockets) socket.on('error', noop).destroy();
    throw error;
  }
}

/** Connect the first of `sockets`; a TLS socket over it is added as the second. */
async function connect(
  sockets: net.Socket[],
  target: SocketTarget,
  options: ConnectOptions,
): Promise<net.Socket | tls.TLSSocket> {
  const where = describeTarget(target);
  const [socket] = sockets as [net.Socket];
  await eventOf(socket, 'connect', where);
  if (options.tls === undefined) return socket;
  const { handshakeTimeoutMs = HANDSHAKE_MS } = options;
  const secure = startTls(tlsOptions(socket, target, options.tls), where);
  sockets.push(secure);
  await eventOf(secure, 'secureConnect', where, handshakeTimeoutMs);
  return secure;
}

function connectPlain(target: SocketTarget): net.Socket {
  if ('path' in target) checkSocketPath(target.path, 'connect');
  const common = { allowHalfOpen: true };
  try {
    if ('path' in target) return net.connect({ ...common, path: target.path });
    const host = target.host === '' ? THIS_MACHINE : target.host;
    return net.connect({ ...common, host, port: target.port, noDelay: true });
  } catch (error) {
    // Node throws only for an invalid target.
    throw new QemuFileError('EINVAL', `not a valid address: ${describeTarget(target)}`, {
      operation: 'connect',
      cause: error,
    });
  }
}

function tlsOptions(
  socket: net.Socket,
  target: SocketTarget,
  given: tls.ConnectionOptions,
): tls.ConnectionOptions {
  const host = 'path' in target ? '' : target.host;
  // RFC 6066: a server name must not be an address.
  const name = host === '' || net.isIP(host) !== 0 ? {} : { servername: host };
  const options: tls.ConnectionOptions = {
    minVersion: 'TLSv1.2',
    // The name that the certificate is checked against where there is no server name.
    host: host === '' ? 'localhost' : host,
    ...name,
    ...given,
    socket,
  };
  if (given.pskCallback !== undefined && given.checkServerIdentity === undefined) {
    options.checkServerIdentity = (hostname, certificate) =>
      // Without a certificate, the shared key has proved the peer's identity.
      Object.keys(certificate).length === 0
        ? undefined
        : loadTls().checkServerIdentity(hostname, certificate);
  }
  return options;
}

function startTls(options: tls.ConnectionOptions, where: string): tls.TLSSocket {
  try {
    return loadTls().connect(options);
  } catch (error) {
    throw new QemuFileError('EINVAL', `${where}: invalid TLS options: ${String(error)}`, {
      operation: 'connect',
      cause: error,
    });
  }
}

/** Wait for an event of a socket. An error, or that another wait has destroyed the socket, ends the wait. */
function eventOf(
  socket: net.Socket,
  event: 'connect' | 'secureConnect',
  where: string,
  timeoutMs?: number,
): Promise<void> {
  return waitFor<void>(
    (resolve, reject) => {
      const onEvent = () => resolve();
      const onError = (error: Error) => reject(networkError(error, 'connect', where));
      const onClose = () => onError(new Error('the socket was closed'));
      socket.once(event, onEvent).once('error', onError).once('close', onClose);
      return () => socket.off(event, onEvent).off('error', onError).off('close', onClose);
    },
    {
      timeoutMs,
      operation: 'connect',
      timeoutReason: () => `${where} did not finish the TLS handshake in ${timeoutMs} ms`,
    },
  );
}

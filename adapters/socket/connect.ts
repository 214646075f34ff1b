import net from 'node:net';
import tls from 'node:tls';
import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import { noop } from '../../lib/util/noop.ts';
import { networkError } from './network-error.ts';

/** An address on the network, or the path of a unix socket. */
export type SocketTarget =
  | {
      /** Name or number; an empty one means this machine (127.0.0.1). */
      host: string;
      /** 0 … 65535; 0, on the listening side, lets the system choose. */
      port: number;
    }
  | {
      /** Path of a unix socket, at most 107 bytes long on Linux. */
      path: string;
    };

/** How `connectSocket` behaves. */
export interface ConnectOptions {
  /** Ends the attempt with `ECANCELED`. */
  signal?: AbortSignal | undefined;
  /** Milliseconds for the whole attempt, the TLS handshake included. Default: as the system has it. */
  timeoutMs?: number | undefined;
  /** Milliseconds for the TLS handshake. Default 10000. */
  handshakeTimeoutMs?: number | undefined;
  /**
   * Encrypts the connection, with these options of `tls.connect`. The other end's certificate is
   * verified, against the name in `servername` (default: the host), unless they say otherwise. With
   * a `pskCallback` both ends need a PSK cipher in `ciphers` (such as `'PSK'`), and no certificate.
   * `minVersion` is `'TLSv1.2'` unless given.
   */
  tls?: tls.ConnectionOptions | undefined;
}

/** As long as the listening side waits. */
const HANDSHAKE_MS = 10_000;

/** Longest path of a unix socket, in bytes; Node may cut off what is longer, which is another path then. */
const MAX_PATH = process.platform === 'darwin' ? 103 : 107;

/** What is connected to when the host is left empty. */
const THIS_MACHINE = '127.0.0.1';

/**
 * Connects to a listening TCP or unix socket, half-open allowed and without Nagle's delay.
 *
 * @param target - Where to; with TLS over a unix socket, `tls.servername` should say whom to expect.
 * @param options - `signal`, `timeoutMs`, `handshakeTimeoutMs`, `tls`.
 * @returns A connected `net.Socket`, or a `tls.TLSSocket` after its handshake; pass it to `socketOps`.
 * @throws {QemuFileError} `ECONNREFUSED`, `ENOENT`, `EACCES` or `ENAMETOOLONG` (of a path), `ETIMEDOUT`, `ECANCELED` by the
 *   signal, `EPROTO` when TLS failed or the other end is not whom its certificate must name, or
 *   whatever errno the system gave. `EINVAL` for a bad target or bad TLS options.
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
  const { signal } = options;
  if (signal?.aborted) throw abortError(signal, 'connect');
  const where = describeTarget(target);
  const socket = connectPlain(target);
  let current: net.Socket = socket;
  let giveUp: (error: QemuFileError) => void = () => {};
  const gaveUp = new Promise<never>((_resolve, reject) => {
    giveUp = reject;
  });
  const onAbort = () => giveUp(abortError(signal as AbortSignal, 'connect'));
  let handshakeTimer: NodeJS.Timeout | undefined;
  const timer =
    options.timeoutMs === undefined
      ? undefined
      : setTimeout(() => giveUp(timeoutError(where, options.timeoutMs)), options.timeoutMs);
  signal?.addEventListener('abort', onAbort);
  try {
    await Promise.race([ready(socket, 'connect', where), gaveUp]);
    if (options.tls !== undefined) {
      const { handshakeTimeoutMs = HANDSHAKE_MS } = options;
      handshakeTimer = setTimeout(
        () => giveUp(timeoutError(where, handshakeTimeoutMs, 'did not finish the TLS handshake')),
        handshakeTimeoutMs,
      );
      current = startTls(tlsOptions(socket, target, options.tls), where);
      await Promise.race([ready(current, 'secureConnect', where), gaveUp]);
    }
    return current;
  } catch (error) {
    for (const each of [current, socket]) each.on('error', noop).destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    clearTimeout(handshakeTimer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/** Gives a target as a URI shows it: `tcp:localhost:4444`, `tcp:[::1]:4444`, `unix:/run/vm.sock`. */
export function describeTarget(target: SocketTarget): string {
  if ('path' in target) return `unix:${target.path}`;
  const host = target.host.includes(':') ? `[${target.host}]` : target.host;
  return `tcp:${host}:${target.port}`;
}

/**
 * Makes sure that a path is none that would be cut off.
 *
 * @throws {QemuFileError} `ENAMETOOLONG`.
 */
export function checkSocketPath(path: string, operation: string): void {
  if (Buffer.byteLength(path) <= MAX_PATH) return;
  const reason = `unix:${path}: the path of a unix socket has at most ${MAX_PATH} bytes`;
  throw new QemuFileError('ENAMETOOLONG', reason, { operation });
}

function connectPlain(target: SocketTarget): net.Socket {
  if ('path' in target) checkSocketPath(target.path, 'connect');
  const common = { allowHalfOpen: true };
  try {
    if ('path' in target) return net.connect({ ...common, path: target.path });
    const host = target.host === '' ? THIS_MACHINE : target.host;
    return net.connect({ ...common, host, port: target.port, noDelay: true });
  } catch (error) {
    // Only what Node finds wrong with the target itself is thrown.
    throw new QemuFileError('EINVAL', `not a place to connect to: ${describeTarget(target)}`, {
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
  // A server name must not be a number: RFC 6066.
  const name = host === '' || net.isIP(host) !== 0 ? {} : { servername: host };
  const options: tls.ConnectionOptions = {
    minVersion: 'TLSv1.2',
    // What the certificate is checked against where there is no server name.
    host: host === '' ? 'localhost' : host,
    ...name,
    ...given,
    socket,
  };
  if (given.pskCallback !== undefined && given.checkServerIdentity === undefined) {
    options.checkServerIdentity = (hostname, certificate) =>
      // Without a certificate it was the shared key that proved who answers.
      Object.keys(certificate).length === 0
        ? undefined
        : tls.checkServerIdentity(hostname, certificate);
  }
  return options;
}

function startTls(options: tls.ConnectionOptions, where: string): tls.TLSSocket {
  try {
    return tls.connect(options);
  } catch (error) {
    throw new QemuFileError('EINVAL', `${where}: the TLS options are wrong: ${String(error)}`, {
      operation: 'connect',
      cause: error,
    });
  }
}

function ready(socket: net.Socket, event: string, where: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = () => {
      socket.off('error', failed);
      resolve();
    };
    const failed = (error: Error) => {
      socket.off(event, done);
      reject(networkError(error, 'connect', where));
    };
    socket.once(event, done);
    socket.once('error', failed);
  });
}

function timeoutError(
  where: string,
  timeoutMs: number | undefined,
  what: string = 'did not answer',
): QemuFileError {
  return new QemuFileError('ETIMEDOUT', `${where} ${what} in ${timeoutMs} ms`, {
    operation: 'connect',
  });
}

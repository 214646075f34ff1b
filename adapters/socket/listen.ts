import net from 'node:net';
import tls from 'node:tls';
import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import { destroyStream } from '../stream/destroy-stream.ts';
import { unverifiedReason } from '../stream/tls-reason.ts';
import { startListening } from './bind.ts';
import { describeTarget, type SocketTarget } from './connect.ts';
import { networkError } from './network-error.ts';
import { underlyingSocket } from './underlying-socket.ts';
import { WaitQueue } from './wait-queue.ts';

/** How `listenSocket` behaves. */
export interface ListenOptions {
  /** Gives up with `ECANCELED`, if it fires before the socket listens. */
  signal?: AbortSignal | undefined;
  /**
   * Connections that may wait for `accept()`: as many in the process, as many more in the kernel.
   * Those beyond are closed. With TLS as many handshakes may go on at a time besides: for one more
   * that which has sent least is dropped, the oldest of those. Default 16.
   */
  backlog?: number | undefined;
  /**
   * Encrypts the connections, with these options of `tls.createServer`; unless given, `minVersion` and
   * `maxVersion` are `'TLSv1.2'` and `handshakeTimeout` is 10000. A connection can be accepted once its
   * handshake is done.
   *
   * With TLS 1.3 Node sends session tickets after the handshake. A QEMU without return path never reads
   * them, and a socket that is closed with unread bytes is reset: the end of the stream can be lost.
   */
  tls?: tls.TlsOptions | undefined;
  /** Called with each connection that failed before it could be accepted; waiting goes on. */
  onConnectionError?: ((error: QemuFileError) => void) | undefined;
}

/** How a connection is accepted. */
export interface AcceptOptions {
  /** Gives up with `ECANCELED`. */
  signal?: AbortSignal | undefined;
  /**
   * A connection of this listener that a further channel is wanted for, such as QEMU's for postcopy
   * preemption, which sends nothing for a long time. To what `admit` gave: a connection from the same
   * address (ports aside) that came after this one is let in at once, whatever it sends; any other
   * as usual. Other listeners look at nothing anyway.
   */
  alongside?: net.Socket | undefined;
}

/** A socket that listens. */
export interface Listener extends AsyncDisposable {
  /** Where it listens, with the port that the system chose. */
  readonly address: SocketTarget;
  /**
   * Gives the next connection, paused; pass it to `socketOps` before anything else is waited for, so that
   * somebody listens when it breaks. Several may wait at once.
   *
   * @throws {QemuFileError} `ECANCELED` by the signal, `EBADF` when the listener is or gets closed,
   *   `EINVAL` for an `alongside` that `admit` does not know.
   */
  accept(options?: AcceptOptions): Promise<net.Socket | tls.TLSSocket>;
  /** Stops listening, removes a unix socket's path, and destroys connections nobody accepted. */
  close(): Promise<void>;
}

const BACKLOG = 16;
/** See the option `tls`. */
const MAX_VERSION = 'TLSv1.2';
/** Node's own default is two minutes. */
const HANDSHAKE_MS = 10_000;

/**
 * Listens on a TCP or unix socket, half-open allowed and without Nagle's delay.
 *
 * An empty host means this machine only (127.0.0.1), where QEMU's means every interface: say `0.0.0.0`
 * or `::` for that. A unix socket is made with mode 0600; one that is left over and that nobody listens
 * on is replaced, anything else at its path is left alone.
 *
 * @param target - Where to listen.
 * @param options - `signal`, `backlog`, `tls`, `onConnectionError`.
 * @throws {QemuFileError} `EADDRINUSE` (a port in use; a path that is in use or no socket), `EACCES`,
 *   `EADDRNOTAVAIL`, `ENOENT` (no such directory), `ENAMETOOLONG` (of a path), `ECANCELED` by the signal, or whatever errno the
 *   system gave. `EINVAL` for a bad target, backlog or TLS option.
 *
 * @example
 * ```js
 * await using listener = await listenSocket({ host: '', port: 0 });
 * console.log(listener.address.port);
 * const file = new QemuFile(socketOps(await listener.accept()));
 * ```
 */
export async function listenSocket(
  target: SocketTarget,
  options: ListenOptions = {},
): Promise<Listener> {
  const { signal, backlog = BACKLOG } = options;
  if (signal?.aborted) throw abortError(signal, 'listen');
  if (!Number.isInteger(backlog) || backlog < 1) {
    throw new QemuFileError('EINVAL', `backlog must be an integer of 1 or more: ${backlog}`, {
      operation: 'listen',
    });
  }
  const server = createServer(options.tls);
  const queue = new ConnectionQueue(server, describeTarget(target), options, backlog);
  const address = await startListening(server, target, backlog);
  if (signal?.aborted) {
    await queue.close();
    throw abortError(signal, 'listen');
  }
  return queue.listener(address);
}

function createServer(options: tls.TlsOptions | undefined): net.Server {
  const common = { allowHalfOpen: true, noDelay: true };
  if (options === undefined) return net.createServer({ ...common, pauseOnConnect: true });
  try {
    return tls.createServer({
      minVersion: 'TLSv1.2',
      maxVersion: MAX_VERSION,
      handshakeTimeout: HANDSHAKE_MS,
      ...options,
      ...common,
    });
  } catch (error) {
    throw new QemuFileError('EINVAL', `the TLS options are wrong: ${String(error)}`, {
      operation: 'listen',
      cause: error,
    });
  }
}

/** Matches the connections that come with the calls of `accept` that wait for them. */
class ConnectionQueue {
  readonly #server: net.Server;
  readonly #where: string;
  readonly #onConnectionError: (error: QemuFileError) => void;
  readonly #bound: number;
  readonly #waiters = new WaitQueue<net.Socket>();
  readonly #ready = new Map<net.Socket, (error: unknown) => void>();
  /** TCP connections whose TLS handshake is not done, the oldest first. */
  readonly #raw = new Set<net.Socket>();
  /** Those of them that made room for another. */
  readonly #displaced = new WeakSet<net.Socket>();
  /** Where they come from; a socket that is closed no longer knows. */
  readonly #peers = new WeakMap<net.Socket, string>();
  #closed: QemuFileError | undefined;
  #ending: Promise<void> | undefined;

  constructor(server: net.Server, where: string, options: ListenOptions, bound: number) {
    this.#server = server;
    this.#where = where;
    this.#onConnectionError = options.onConnectionError ?? (() => {});
    this.#bound = bound;
    if (options.tls === undefined) {
      server.on('connection', (socket: net.Socket) => this.#add(socket));
      return;
    }
    server.on('connection', (socket: net.Socket) => this.#addRaw(socket));
    server.on('secureConnection', (socket: tls.TLSSocket) => {
      this.#raw.delete(underlyingSocket(socket) as net.Socket);
      this.#add(socket.pause());
    });
    server.on('tlsClientError', (error: Error, socket: tls.TLSSocket) => {
      const raw = underlyingSocket(socket) as net.Socket;
      // Node leaves those open whose time is up.
      if (!raw.destroyed) void destroyStream(raw);
      if (!this.#displaced.has(raw)) this.#report(this.#handshakeError(error, socket));
    });
  }

  listener(address: SocketTarget): Listener {
    this.#server.on('error', (error) => {
      void this.#end(networkError(error, 'accept', describeTarget(address)));
    });
    const close = () => this.close();
    return {
      address,
      accept: (options) => this.#accept(options?.signal),
      close,
      [Symbol.asyncDispose]: close,
    };
  }

  close(): Promise<void> {
    return this.#end(new QemuFileError('EBADF', 'the listener is closed', { operation: 'accept' }));
  }

  async #accept(signal: AbortSignal | undefined): Promise<net.Socket> {
    if (signal?.aborted) throw abortError(signal, 'accept');
    if (this.#closed !== undefined) throw this.#closed;
    for (const [socket, onGone] of this.#ready) {
      this.#ready.delete(socket);
      socket.off('error', onGone).off('close', onGone);
      return socket;
    }
    return this.#waiters.wait(undefined, signal);
  }

  #add(socket: net.Socket): void {
    const waiter = this.#waiters.first();
    if (waiter !== undefined) {
      waiter.give(socket);
      return;
    }
    if (this.#closed !== undefined || this.#ready.size >= this.#bound) {
      void destroyStream(socket);
      this.#report(
        new QemuFileError('ECONNABORTED', `${this.#bound} connections wait for accept() already`, {
          operation: 'accept',
        }),
      );
      return;
    }
    const onGone = (error: unknown) => {
      this.#ready.delete(socket);
      if (error instanceof Error) this.#report(error);
    };
    socket.on('error', onGone).on('close', onGone);
    this.#ready.set(socket, onGone);
  }

  #addRaw(socket: net.Socket): void {
    if (this.#closed !== undefined) {
      void destroyStream(socket);
      return;
    }
    if (this.#raw.size >= this.#bound) this.#makeRoom();
    const { remoteAddress: host, remotePort: port } = socket;
    if (host !== undefined && port !== undefined) {
      this.#peers.set(socket, describeTarget({ host, port }));
    }
    this.#raw.add(socket);
    socket.on('close', () => this.#raw.delete(socket));
  }

  /** Who means it has sent the hundreds of bytes that a handshake begins with. */
  #makeRoom(): void {
    let [least] = this.#raw;
    if (least === undefined) return;
    for (const socket of this.#raw) if (socket.bytesRead < least.bytesRead) least = socket;
    this.#raw.delete(least);
    this.#displaced.add(least);
    void destroyStream(least);
    const reason = `${this.#where}: newer connections came before its handshake was done`;
    this.#report(new QemuFileError('ECONNABORTED', reason, { operation: 'accept' }));
  }

  /** Node tells of a certificate that it does not trust only that the connection was ended. */
  #handshakeError(error: Error, socket: tls.TLSSocket): QemuFileError {
    const unverified: unknown = socket.authorizationError;
    const reason = typeof unverified === 'string' ? unverifiedReason(unverified) : undefined;
    const peer = this.#peers.get(underlyingSocket(socket) as net.Socket);
    const where = peer ?? this.#where;
    if (reason === undefined) return networkError(error, 'accept', where);
    return new QemuFileError('EPROTO', `${where}: ${reason}`, {
      operation: 'accept',
      cause: error,
    });
  }

  #report(error: Error): void {
    if (this.#closed !== undefined) return;
    const isOurs = error instanceof QemuFileError;
    this.#onConnectionError(isOurs ? error : networkError(error, 'accept', this.#where));
  }

  #end(error: QemuFileError): Promise<void> {
    this.#closed ??= error;
    this.#ending ??= this.#destroyAll(error);
    return this.#ending;
  }

  async #destroyAll(error: QemuFileError): Promise<void> {
    // Not waited for: 'close' comes when the connections that were accepted have closed too.
    this.#server.close();
    this.#waiters.failAll(error);
    const unwanted = [...this.#ready.keys(), ...this.#raw];
    this.#ready.clear();
    await Promise.all(unwanted.map(destroyStream));
  }
}

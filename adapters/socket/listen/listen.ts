import net from 'node:net';
import type tls from 'node:tls';
import { abortError, QemuFileError } from '../../../lib/contract/errors.ts';
import { noop } from '../../../lib/util/noop.ts';
import { destroyStream } from '../../stream/destroy-stream.ts';
import { unverifiedReason } from '../../stream/tls-reason.ts';
import { loadTls } from '../load-tls.ts';
import { networkError } from '../network-error.ts';
import { describeTarget, type SocketTarget } from '../socket-target.ts';
import { underlyingSocket } from '../underlying-socket.ts';
import { type BoundAddress, startListening } from './bind.ts';
import { WaitQueue } from './wait-queue.ts';

/** How `listenSocket` behaves. */
export interface ListenOptions {
  /** Ends the call with `ECANCELED`, if it aborts before the socket listens. */
  signal?: AbortSignal | undefined;
  /**
   * Greatest number of connections that wait for `accept()`, in the process, and again in the kernel. The
   * listener closes further ones. With TLS, as many handshakes go on at the same time; one more evicts the
   * connection that has sent least, the oldest of those. Default 16.
   */
  backlog?: number | undefined;
  /**
   * Encrypt the connections, with these options of `tls.createServer`. `minVersion` and `maxVersion` are
   * `'TLSv1.2'` by default, and `handshakeTimeout` is 10000. A connection can be accepted once its handshake
   * is done.
   *
   * With TLS 1.3, Node sends session tickets after the handshake. QEMU without a return path never reads
   * them, and the kernel resets a socket that is closed with unread bytes: the end of the stream can be lost.
   */
  tls?: tls.TlsOptions | undefined;
  /** Called with each connection that failed before it could be accepted. The listener goes on. */
  onConnectionError?: ((error: QemuFileError) => void) | undefined;
}

/** How a connection is accepted. */
export interface AcceptOptions {
  /** Ends the call with `ECANCELED`. */
  signal?: AbortSignal | undefined;
  /**
   * An accepted connection of this listener that has further channels, such as QEMU's for postcopy
   * preemption, which sends nothing for a long time. A listener made by `admit` then accepts a connection
   * that came after this one and from the same address (ports aside) at once, whatever it sends, and others
   * as usual. Other listeners accept every connection anyway.
   */
  alongside?: net.Socket | undefined;
}

/** A listening socket. */
export interface Listener extends AsyncDisposable {
  /** Where it listens, with the port that the system chose. */
  readonly address: SocketTarget;
  /**
   * Return the next connection, paused. Pass it to `socketOps` before the next `await`, so that it has an
   * error listener. Several calls can wait at the same time, and are served in order.
   *
   * @throws {QemuFileError} `ECANCELED` by the signal, `EBADF` when the listener is closed, `EINVAL` for an
   *   `alongside` that this listener did not accept.
   */
  accept(options?: AcceptOptions): Promise<net.Socket | tls.TLSSocket>;
  /** Stop listening, remove a unix socket's path, and destroy connections that were not accepted. */
  close(): Promise<void>;
}

const BACKLOG = 16;
/** See the option `tls`. */
const MAX_VERSION = 'TLSv1.2';
/** Node's own default is two minutes. */
const HANDSHAKE_MS = 10_000;

/**
 * Listen on a TCP or unix socket, with half-open allowed and without Nagle's delay.
 *
 * An empty host means this machine only (127.0.0.1), where QEMU listens on every interface: pass `0.0.0.0`
 * or `::` for that. A unix socket has mode 0600 from the first moment. It replaces a socket that no process
 * listens on any more, and nothing else.
 *
 * @param target - Where to listen.
 * @param options - `signal`, `backlog`, `tls`, `onConnectionError`.
 * @throws {QemuFileError} `EADDRINUSE` for a port or path in use; `EEXIST` for a path that is not a socket;
 *   `EACCES`, `EADDRNOTAVAIL`, `ENOENT` (no such directory), `ENAMETOOLONG` (of a path), or the system's own
 *   code; `ECANCELED` by the signal; `EINVAL` for an invalid target, backlog or TLS option.
 *
 * @example
 * ```js
 * await using listener = await listenSocket({ host: '', port: 0 });
 * console.log(describeTarget(listener.address)); // tcp:127.0.0.1: and the port
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
  const listener = queue.listener(await startListening(server, target, backlog));
  if (signal?.aborted) {
    await listener.close();
    throw abortError(signal, 'listen');
  }
  return listener;
}

function createServer(options: tls.TlsOptions | undefined): net.Server {
  const common = { allowHalfOpen: true, noDelay: true };
  if (options === undefined) return net.createServer({ ...common, pauseOnConnect: true });
  try {
    return loadTls().createServer({
      minVersion: 'TLSv1.2',
      maxVersion: MAX_VERSION,
      handshakeTimeout: HANDSHAKE_MS,
      ...options,
      ...common,
    });
  } catch (error) {
    throw new QemuFileError('EINVAL', `invalid TLS options: ${String(error)}`, {
      operation: 'listen',
      cause: error,
    });
  }
}

/** Matches arriving connections with pending calls of `accept()`. */
class ConnectionQueue {
  readonly #server: net.Server;
  readonly #where: string;
  readonly #onConnectionError: (error: QemuFileError) => void;
  readonly #maxWaiting: number;
  readonly #waiters = new WaitQueue<net.Socket>();
  /** Connections that wait for `accept()`, with their listener for `'error'` and `'close'`. */
  readonly #ready = new Map<net.Socket, (error: unknown) => void>();
  /** TCP connections whose TLS handshake is not done, the oldest first. */
  readonly #handshaking = new Set<net.Socket>();
  /** Connections that were evicted during their handshake. */
  readonly #evicted = new WeakSet<net.Socket>();
  /** Addresses of peers; Node forgets them when a socket closes. */
  readonly #peers = new WeakMap<net.Socket, string>();
  #bound: BoundAddress | undefined;
  #closed: QemuFileError | undefined;
  #closing: Promise<void> | undefined;

  constructor(server: net.Server, where: string, options: ListenOptions, maxWaiting: number) {
    this.#server = server;
    this.#where = where;
    this.#onConnectionError = options.onConnectionError ?? noop;
    this.#maxWaiting = maxWaiting;
    if (options.tls === undefined) {
      server.on('connection', (socket: net.Socket) => this.#add(socket));
      return;
    }
    server.on('connection', (socket: net.Socket) => this.#addHandshaking(socket));
    server.on('secureConnection', (socket: tls.TLSSocket) => {
      this.#handshaking.delete(underlyingSocket(socket) as net.Socket);
      this.#add(socket.pause());
    });
    server.on('tlsClientError', (error: Error, socket: tls.TLSSocket) => {
      const raw = underlyingSocket(socket) as net.Socket;
      // Node leaves a socket open whose handshake timed out.
      if (!raw.destroyed) void destroyStream(raw);
      if (!this.#evicted.has(raw)) this.#report(this.#handshakeError(error, socket));
    });
  }

  listener(bound: BoundAddress): Listener {
    const { address } = bound;
    this.#bound = bound;
    this.#server.on('error', (error) => {
      void this.#close(networkError(error, 'accept', describeTarget(address)));
    });
    const close = () =>
      this.#close(new QemuFileError('EBADF', 'the listener is closed', { operation: 'accept' }));
    return {
      address,
      accept: (options) => this.#accept(options?.signal),
      close,
      [Symbol.asyncDispose]: close,
    };
  }

  async #accept(signal: AbortSignal | undefined): Promise<net.Socket> {
    if (signal?.aborted) throw abortError(signal, 'accept');
    if (this.#closed !== undefined) throw this.#closed;
    for (const [socket, onClosed] of this.#ready) {
      this.#ready.delete(socket);
      socket.off('error', onClosed).off('close', onClosed);
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
    if (this.#closed !== undefined || this.#ready.size >= this.#maxWaiting) {
      void destroyStream(socket);
      const reason = `closed a connection: ${this.#maxWaiting} wait for accept() already`;
      this.#report(new QemuFileError('ECONNABORTED', reason, { operation: 'accept' }));
      return;
    }
    const onClosed = (error: unknown) => {
      this.#ready.delete(socket);
      if (error instanceof Error) this.#report(error);
    };
    socket.on('error', onClosed).on('close', onClosed);
    this.#ready.set(socket, onClosed);
  }

  #addHandshaking(socket: net.Socket): void {
    if (this.#closed !== undefined) {
      void destroyStream(socket);
      return;
    }
    if (this.#handshaking.size >= this.#maxWaiting) this.#evict();
    const { remoteAddress: host, remotePort: port } = socket;
    if (host !== undefined && port !== undefined) {
      this.#peers.set(socket, describeTarget({ host, port }));
    }
    this.#handshaking.add(socket);
    socket.on('close', () => this.#handshaking.delete(socket));
  }

  /** Close the connection that has sent least. A genuine client has sent its ClientHello, hundreds of bytes. */
  #evict(): void {
    let [least] = this.#handshaking;
    if (least === undefined) return;
    for (const socket of this.#handshaking) {
      if (socket.bytesRead < least.bytesRead) least = socket;
    }
    this.#handshaking.delete(least);
    this.#evicted.add(least);
    void destroyStream(least);
    const reason = `${this.#where}: closed a connection in its TLS handshake for newer ones`;
    this.#report(new QemuFileError('ECONNABORTED', reason, { operation: 'accept' }));
  }

  /** Node's error for a certificate that it does not trust says only that the connection ended. */
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

  #close(error: QemuFileError): Promise<void> {
    this.#closed ??= error;
    this.#closing ??= this.#destroyAll(error);
    return this.#closing;
  }

  async #destroyAll(error: QemuFileError): Promise<void> {
    this.#waiters.failAll(error);
    // Before the server closes: the path must not lead to a socket without a listener.
    await this.#bound?.removePath();
    // Its 'close' event is not waited for, because accepted connections delay it until they close.
    this.#server.close();
    const unwanted = [...this.#ready.keys(), ...this.#handshaking];
    this.#ready.clear();
    await Promise.all(unwanted.map(destroyStream));
  }
}

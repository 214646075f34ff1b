import type net from 'node:net';
import { checkMethods } from '../../../lib/contract/argument-error.ts';
import { abortError, QemuFileError } from '../../../lib/contract/errors.ts';
import { MAX_TIMER_MS } from '../../../lib/contract/wait-for.ts';
import { noop } from '../../../lib/util/noop.ts';
import { destroyStream } from '../../stream/destroy-stream.ts';
import type { AcceptOptions, Listener } from './listen.ts';
import { PendingConnection } from './pending-connection.ts';
import { WaitQueue } from './wait-queue.ts';

/** Verdict on the first bytes of a connection; `'more'` means that a decision needs further bytes. */
export type Verdict = 'accept' | 'reject' | 'more';

/** How `admit` chooses connections. */
export interface AdmissionOptions {
  /**
   * Classify a connection by its first bytes. Called again as further bytes arrive, with at most 4096;
   * `'more'` for that many is a rejection. Default: accept a connection that has sent anything.
   */
  classify?: ((start: Buffer) => Verdict) | undefined;
  /** Milliseconds from connecting until `classify` must have accepted, 1 … 2^31-1. Default 10000. */
  firstByteMs?: number | undefined;
  /**
   * Greatest number of connections that are not classified yet. One more evicts the oldest that has sent
   * nothing. As many accepted connections may wait for `accept()`. Default 64.
   */
  maxPending?: number | undefined;
  /** Called with each connection that is rejected. The listener closes it and goes on listening. */
  onRejected?: ((rejection: Rejection) => void) | undefined;
}

/** Why a connection is rejected. */
export type RejectionReason =
  /** `classify` rejected its first bytes. */
  | 'unrecognised'
  /** The first bytes did not arrive in time. */
  | 'timeout'
  /** A newer connection needed its place among the unclassified ones. */
  | 'evicted'
  /** `classify` accepted it, but too many accepted connections wait for `accept()`. */
  | 'queue-full'
  /** The peer ended or broke it before `accept()` returned it. */
  | 'closed';

/** A connection that was rejected. */
export interface Rejection {
  readonly reason: RejectionReason;
  /** Address and port of the peer; undefined for unix sockets. */
  readonly peer: string | undefined;
  /** The first bytes that it sent, at most 64. */
  readonly start: Buffer;
  /** The error that broke the connection, if there was one. */
  readonly error: Error | undefined;
}

/** Default of `maxPending`. */
export const MAX_PENDING_CONNECTIONS = 64;

const FIRST_BYTE_MS = 10_000;
/** Greatest number of bytes that `classify` is called with. */
const MAX_START_BYTES = 4096;
/** Greatest number of bytes in a `Rejection`. */
const MAX_REPORTED_BYTES = 64;

/**
 * Accept only connections whose first bytes arrive in time and are recognised, so that port scanners and
 * idle or slow clients cannot take the place of the expected peer, nor use up memory and descriptors. This
 * does not authenticate the peer: for that, require client certificates (option `tls` of `listenSocket`).
 *
 * The bytes read for the decision are put back: `accept()` returns the socket paused, before its first
 * byte. Node reads at most 64 KiB of each connection meanwhile.
 *
 * @param listener - With or without TLS. The returned listener owns it from now on.
 * @param options - `classify`, `firstByteMs`, `maxPending`, `onRejected`.
 * @throws {QemuFileError} `EINVAL` if `firstByteMs` or `maxPending` is out of range.
 *
 * @example
 * ```js
 * const listener = admit(await listenSocket({ host: '0.0.0.0', port: 4444 }), {
 *   classify(start) {
 *     if (start.length < 4) return 'more';
 *     return start.toString('latin1', 0, 4) === 'QEVM' ? 'accept' : 'reject';
 *   },
 * });
 * const file = new QemuFile(socketOps(await listener.accept()));
 * ```
 */
export function admit(listener: Listener, options: AdmissionOptions = {}): Listener {
  checkMethods('admit', 'listener', LISTENER, listener);
  const admission = new Admission(listener, options);
  const close = () => admission.close();
  return {
    address: listener.address,
    accept: (acceptOptions) => admission.accept(acceptOptions),
    close,
    [Symbol.asyncDispose]: close,
  };
}

const LISTENER = { methods: ['accept', 'close'], allowed: 'the result of listenSocket' };

class Admission {
  readonly #listener: Listener;
  readonly #classify: (start: Buffer) => Verdict;
  readonly #firstByteMs: number;
  readonly #maxPending: number;
  readonly #onRejected: (rejection: Rejection) => void;
  /** Connections that are not classified yet, the oldest first. */
  readonly #pending = new Set<PendingConnection>();
  /** Accepted connections that wait for `accept()`. */
  readonly #ready = new Set<PendingConnection>();
  /** The condition is the connection that a caller wants a further channel of, if any. */
  readonly #waiters = new WaitQueue<net.Socket, PendingConnection | undefined>();
  /** Connections that `accept()` has returned. */
  readonly #accepted = new WeakMap<net.Socket, PendingConnection>();
  #count = 0;
  #closed: QemuFileError | undefined;
  #closing: Promise<void> | undefined;

  constructor(listener: Listener, options: AdmissionOptions) {
    this.#listener = listener;
    this.#classify = options.classify ?? (() => 'accept');
    this.#firstByteMs = checkInteger('firstByteMs', options.firstByteMs ?? FIRST_BYTE_MS);
    this.#maxPending = checkInteger('maxPending', options.maxPending ?? MAX_PENDING_CONNECTIONS);
    this.#onRejected = options.onRejected ?? noop;
    void this.#run();
  }

  async accept({ signal, alongside }: AcceptOptions = {}): Promise<net.Socket> {
    if (signal?.aborted) throw abortError(signal, 'accept');
    if (this.#closed !== undefined) throw this.#closed;
    const main = alongside && this.#accepted.get(alongside);
    if (alongside !== undefined && main === undefined) {
      throw new QemuFileError('EINVAL', '"alongside" did not come from this listener', {
        operation: 'accept',
      });
    }
    const [ready] = this.#ready;
    const connection = ready ?? this.#findAlongside(main);
    if (connection !== undefined) return this.#release(connection);
    return this.#waiters.wait(main, signal);
  }

  close(): Promise<void> {
    return this.#close(
      new QemuFileError('EBADF', 'the listener is closed', { operation: 'accept' }),
    );
  }

  async #run(): Promise<void> {
    try {
      for (;;) this.#add(await this.#listener.accept());
    } catch (error) {
      await this.#close(error as QemuFileError);
    }
  }

  #add(socket: net.Socket): void {
    if (this.#closed !== undefined) {
      void destroyStream(socket);
      return;
    }
    this.#count += 1;
    const connection = new PendingConnection(socket, this.#count, {
      onBytes: (each) => this.#judge(each),
      onTimeout: (each) => this.#reject(each, 'timeout'),
      onClosed: (each, error) => this.#reject(each, 'closed', error),
    });
    const waiter = this.#waiters.first((main) => isFurtherChannel(connection, main));
    if (waiter !== undefined) {
      waiter.give(this.#release(connection));
      return;
    }
    if (this.#pending.size >= this.#maxPending) this.#evict();
    this.#pending.add(connection);
    connection.read(this.#firstByteMs);
  }

  /** Reject the least promising connection. QEMU sends its header at once, so that is the oldest silent one. */
  #evict(): void {
    let oldest: PendingConnection | undefined;
    for (const connection of this.#pending) {
      oldest ??= connection;
      if (connection.start.length > 0) continue;
      oldest = connection;
      break;
    }
    if (oldest !== undefined) this.#reject(oldest, 'evicted');
  }

  #judge(connection: PendingConnection): void {
    const start = connection.start.subarray(0, MAX_START_BYTES);
    const verdict = this.#classify(start);
    if (verdict === 'accept') this.#admit(connection);
    else if (verdict === 'reject' || start.length === MAX_START_BYTES) {
      this.#reject(connection, 'unrecognised');
    }
  }

  #admit(connection: PendingConnection): void {
    const waiter = this.#waiters.first();
    if (waiter !== undefined) {
      waiter.give(this.#release(connection));
      return;
    }
    if (this.#ready.size >= this.#maxPending) {
      this.#reject(connection, 'queue-full');
      return;
    }
    connection.pause();
    this.#pending.delete(connection);
    this.#ready.add(connection);
  }

  #findAlongside(main: PendingConnection | undefined): PendingConnection | undefined {
    for (const connection of this.#pending) {
      if (isFurtherChannel(connection, main)) return connection;
    }
    return undefined;
  }

  #release(connection: PendingConnection): net.Socket {
    this.#forget(connection);
    const socket = connection.release();
    this.#accepted.set(socket, connection);
    return socket;
  }

  #reject(connection: PendingConnection, reason: RejectionReason, error?: Error): void {
    const start = Buffer.from(connection.start.subarray(0, MAX_REPORTED_BYTES));
    this.#forget(connection);
    void destroyStream(connection.detach());
    this.#onRejected({ reason, peer: connection.peer, start, error });
  }

  #forget(connection: PendingConnection): void {
    this.#pending.delete(connection);
    this.#ready.delete(connection);
  }

  #close(error: QemuFileError): Promise<void> {
    this.#closed ??= error;
    this.#closing ??= this.#destroyAll(error);
    return this.#closing;
  }

  async #destroyAll(error: QemuFileError): Promise<void> {
    this.#waiters.failAll(error);
    const unwanted = [...this.#pending, ...this.#ready];
    this.#pending.clear();
    this.#ready.clear();
    await Promise.all([
      this.#listener.close(),
      ...unwanted.map((connection) => destroyStream(connection.detach())),
    ]);
  }
}

/** Return whether a connection can be a further channel of `main`: it is newer and from the same address. */
function isFurtherChannel(
  connection: PendingConnection,
  main: PendingConnection | undefined,
): boolean {
  return main !== undefined && connection.order > main.order && connection.hasAddressOf(main);
}

function checkInteger(name: string, value: number): number {
  if (Number.isInteger(value) && value >= 1 && value <= MAX_TIMER_MS) return value;
  const reason = `${name} must be an integer from 1 to ${MAX_TIMER_MS}: ${value}`;
  throw new QemuFileError('EINVAL', reason, { operation: 'admit' });
}

import type net from 'node:net';
import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import { destroyStream } from '../stream/destroy-stream.ts';
import type { AcceptOptions, Listener } from './listen.ts';
import { PendingConnection } from './pending-connection.ts';
import { type Waiter, waitAmong } from './wait-queue.ts';

/** What the first bytes of a connection say about it: `'more'` is that there are too few of them. */
export type Verdict = 'yes' | 'no' | 'more';

/** How `admit` chooses. */
export interface AdmissionOptions {
  /**
   * Decides by its first bytes whether a connection is let in. It is asked again as more of them come,
   * with at most 4096, when `'more'` is as good as `'no'`. Default: whatever sends anything is.
   */
  welcomes?: ((start: Buffer) => Verdict) | undefined;
  /** Milliseconds that a connection has for the first bytes that are wanted. Default 10000. */
  firstByteMs?: number | undefined;
  /**
   * Connections that may be there at a time without having shown what they are; when one more comes, the
   * oldest that has sent nothing makes room. As many may wait for `accept()` that are let in. Default 64.
   */
  maxCandidates?: number | undefined;
  /** Called with each connection that is not let in; it is closed, and waiting goes on. */
  onRefused?: ((refusal: Rejection) => void) | undefined;
}

/** Why a connection is not let in. */
export type RejectionReason =
  /** Its first bytes are not welcome. */
  | 'unwelcome'
  /** It did not send them in time. */
  | 'late'
  /** It made room for a newer one. */
  | 'displaced'
  /** It would be welcome, but too many wait for `accept()`. */
  | 'crowded'
  /** It ended or broke before it was accepted. */
  | 'gone';

/** A connection that is not let in. */
export interface Rejection {
  readonly why: RejectionReason;
  /** Address and port of its other end; undefined for unix sockets, which have none. */
  readonly peer: string | undefined;
  /** What it had sent, at most 64 bytes of that. */
  readonly start: Buffer;
  /** What it broke with, if it did. */
  readonly error: Error | undefined;
}

/** How many connections are looked at, if nobody says otherwise. */
export const MAX_PENDING_CONNECTIONS = 64;

const FIRST_BYTE_MS = 10_000;
const MAX_TIMER_MS = 2 ** 31 - 1;
/** What a decision may want to see. */
const MAX_START = 4096;
const MAX_REPORTED = 64;

/**
 * Lets in through a listener only who says in time what is expected: port scanners, crowds of silent
 * connections and such as send a byte now and then cannot take the place of the one that is waited for,
 * nor this process's memory and descriptors. Whoever sends what is welcome is let in: it is TLS with
 * certificates of the clients that tells who they are.
 *
 * What was read for the decision is given back to the socket: `accept()` gives it paused, at its first
 * byte. Node reads up to 64 KiB of a connection at once, and no more of one that waits.
 *
 * @param listener - Plain or with TLS; the returned one's from then on.
 * @param options - `welcomes`, `firstByteMs`, `maxCandidates`, `onRefused`.
 * @throws {QemuFileError} `EINVAL` for a time or a number that is none.
 *
 * @example
 * ```js
 * const listener = admit(await listenSocket({ host: '0.0.0.0', port: 4444 }), {
 *   welcomes: (start) => (start.length < 4 ? 'more' : start.toString('latin1', 0, 4) === 'QEVM' ? 'yes' : 'no'),
 * });
 * const file = new QemuFile(socketOps(await listener.accept()));
 * ```
 */
export function admit(listener: Listener, options: AdmissionOptions = {}): Listener {
  const admission = new Admission(listener, options);
  const close = () => admission.close();
  return {
    address: listener.address,
    accept: (wish) => admission.accept(wish),
    close,
    [Symbol.asyncDispose]: close,
  };
}

class Admission {
  readonly #listener: Listener;
  readonly #welcomes: (start: Buffer) => Verdict;
  readonly #firstByteMs: number;
  readonly #bound: number;
  readonly #onRefused: (refusal: Rejection) => void;
  /** Those that have not shown what they are, the oldest first. */
  readonly #candidates = new Set<PendingConnection>();
  /** Those that are let in and wait for `accept()`. */
  readonly #ready = new Set<PendingConnection>();
  /** Those whose wish is a connection may be given a further channel of it before that has sent anything. */
  readonly #waiters = new Set<Waiter<net.Socket, PendingConnection | undefined>>();
  /** What is still known of those that were accepted. */
  readonly #accepted = new WeakMap<net.Socket, PendingConnection>();
  #count = 0;
  #closed: QemuFileError | undefined;
  #ending: Promise<void> | undefined;

  constructor(listener: Listener, options: AdmissionOptions) {
    this.#listener = listener;
    this.#welcomes = options.welcomes ?? (() => 'yes');
    this.#firstByteMs = integerOf('firstByteMs', options.firstByteMs ?? FIRST_BYTE_MS);
    this.#bound = integerOf('maxCandidates', options.maxCandidates ?? MAX_PENDING_CONNECTIONS);
    this.#onRefused = options.onRefused ?? (() => {});
    void this.#run();
  }

  async accept({ signal, alongside }: AcceptOptions = {}): Promise<net.Socket> {
    if (signal?.aborted) throw abortError(signal, 'accept');
    if (this.#closed !== undefined) throw this.#closed;
    const first = alongside && this.#accepted.get(alongside);
    if (alongside !== undefined && first === undefined) {
      throw new QemuFileError('EINVAL', '"alongside" did not come from this listener', {
        operation: 'accept',
      });
    }
    const [ready] = this.#ready;
    const candidate = ready ?? this.#findAlongside(first);
    if (candidate !== undefined) return this.#give(candidate);
    return waitAmong(this.#waiters, first, signal);
  }

  close(): Promise<void> {
    return this.#end(new QemuFileError('EBADF', 'the listener is closed', { operation: 'accept' }));
  }

  async #run(): Promise<void> {
    try {
      for (;;) this.#consider(await this.#listener.accept());
    } catch (error) {
      await this.#end(error as QemuFileError);
    }
  }

  #consider(socket: net.Socket): void {
    if (this.#closed !== undefined) {
      void destroyStream(socket);
      return;
    }
    this.#count += 1;
    const candidate = new PendingConnection(socket, this.#count, {
      start: (each) => this.#judge(each),
      late: (each) => this.#refuse(each, 'late'),
      gone: (each, error) => this.#refuse(each, 'gone', error),
    });
    for (const waiter of this.#waiters) {
      if (waiter.wish === undefined || !isAlongside(candidate, waiter.wish)) continue;
      waiter.give(this.#give(candidate));
      return;
    }
    if (this.#candidates.size >= this.#bound) this.#makeRoom();
    this.#candidates.add(candidate);
    candidate.read(this.#firstByteMs);
  }

  /** Drops the one that is least likely to be waited for: a QEMU sends its header at once. */
  #makeRoom(): void {
    let oldest: PendingConnection | undefined;
    for (const candidate of this.#candidates) {
      oldest ??= candidate;
      if (candidate.start.length > 0) continue;
      oldest = candidate;
      break;
    }
    if (oldest !== undefined) this.#refuse(oldest, 'displaced');
  }

  #judge(candidate: PendingConnection): void {
    const start = candidate.start.subarray(0, MAX_START);
    const welcome = this.#welcomes(start);
    if (welcome === 'yes') this.#admit(candidate);
    else if (welcome === 'no' || start.length === MAX_START) this.#refuse(candidate, 'unwelcome');
  }

  #admit(candidate: PendingConnection): void {
    for (const waiter of this.#waiters) {
      waiter.give(this.#give(candidate));
      return;
    }
    if (this.#ready.size >= this.#bound) {
      this.#refuse(candidate, 'crowded');
      return;
    }
    candidate.hold();
    this.#candidates.delete(candidate);
    this.#ready.add(candidate);
  }

  #findAlongside(first: PendingConnection | undefined): PendingConnection | undefined {
    if (first === undefined) return undefined;
    for (const candidate of this.#candidates) if (isAlongside(candidate, first)) return candidate;
    return undefined;
  }

  #give(candidate: PendingConnection): net.Socket {
    this.#forget(candidate);
    const socket = candidate.release();
    this.#accepted.set(socket, candidate);
    return socket;
  }

  #refuse(candidate: PendingConnection, why: RejectionReason, error?: Error): void {
    const start = Buffer.from(candidate.start.subarray(0, MAX_REPORTED));
    this.#forget(candidate);
    void destroyStream(candidate.abandon());
    this.#onRefused({ why, peer: candidate.peer, start, error });
  }

  #forget(candidate: PendingConnection): void {
    this.#candidates.delete(candidate);
    this.#ready.delete(candidate);
  }

  #end(error: QemuFileError): Promise<void> {
    this.#closed ??= error;
    this.#ending ??= this.#destroyAll(error);
    return this.#ending;
  }

  async #destroyAll(error: QemuFileError): Promise<void> {
    for (const waiter of this.#waiters) waiter.fail(error);
    const unwanted = [...this.#candidates, ...this.#ready];
    this.#candidates.clear();
    this.#ready.clear();
    await Promise.all([
      this.#listener.close(),
      ...unwanted.map((candidate) => destroyStream(candidate.abandon())),
    ]);
  }
}

/** What came from elsewhere, or was there before, is no channel of the same migration. */
function isAlongside(candidate: PendingConnection, first: PendingConnection): boolean {
  return candidate.order > first.order && candidate.hasAddressOf(first);
}

function integerOf(name: string, value: number): number {
  if (Number.isInteger(value) && value >= 1 && value <= MAX_TIMER_MS) return value;
  const reason = `${name} must be an integer from 1 to ${MAX_TIMER_MS}: ${value}`;
  throw new QemuFileError('EINVAL', reason, { operation: 'admit' });
}

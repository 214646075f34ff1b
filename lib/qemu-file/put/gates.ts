import { markHandled } from '../../contract/backend-result.ts';
import type { QemuFileError } from '../../contract/errors.ts';
import { type WaitLimits, waitFor } from '../../contract/wait-for.ts';
import type { RateLimiter } from './rate-limiter.ts';

/*
 * The two gates that make a producer wait.
 *
 *   budget     the rate limit of the window is used up
 *   transport  the backend has not taken as much as the high-water mark
 *
 * `shut` only looks. `ask()` also registers the producer: it is told by `drain` when both gates are open.
 * From then on the transport gate opens at half of the mark, so that the transport has work while the
 * producer wakes up.
 */

export type Gate = 'budget' | 'transport';

/** The bytes that the gates look at, and the way to make them leave. */
export interface GatedBytes {
  /** Bytes put that the backend has not taken. */
  readonly pending: number;
  /** Stream offset after the last byte put. */
  readonly putPosition: number;
  flush(): void;
}

/** Reports of the gates to the file. */
export interface GatesHost {
  /** A producer was told to wait. */
  throttled(gate: Gate): void;
  /** Both gates are open after a producer was told to wait. */
  drained(): void;
}

interface DrainWaiter {
  resolve(): void;
  reject(error: QemuFileError): void;
}

export class Gates {
  readonly highWaterMark: number;
  readonly #bytes: GatedBytes;
  readonly #limiter: RateLimiter;
  readonly #host: GatesHost;
  /** `asked`: a producer waits for 'drain'; `due`: 'drain' is emitted at the end of the tick. */
  #drain: 'unasked' | 'asked' | 'due' = 'unasked';
  /** Whether a producer found the transport gate shut: then it opens at half of the mark. */
  #isTransportShut = false;
  readonly #waiters = new Set<DrainWaiter>();
  #error: QemuFileError | null = null;

  constructor(bytes: GatedBytes, limiter: RateLimiter, highWaterMark: number, host: GatesHost) {
    this.#bytes = bytes;
    this.#limiter = limiter;
    this.highWaterMark = highWaterMark;
    this.#host = host;
  }

  /** The gate that is shut, null while both are open. Reading it changes nothing. */
  get shut(): Gate | null {
    const { pending, putPosition } = this.#bytes;
    if (pending >= this.highWaterMark) return 'transport';
    if (this.#isTransportShut && pending > this.highWaterMark / 2) return 'transport';
    return this.#limiter.exceeded(putPosition, pending) ? 'budget' : null;
  }

  /** Whether a producer was told to wait, and has to go on waiting. Reading it changes nothing. */
  get isProducerWaiting(): boolean {
    return this.#drain !== 'unasked' && this.shut !== null;
  }

  /** Return whether a gate is shut; then 'drain' follows. */
  ask(): boolean {
    const gate = this.shut;
    if (gate === null) return false;
    if (gate === 'transport') this.#isTransportShut = true;
    if (this.#drain === 'unasked') {
      this.#drain = 'asked';
      this.#host.throttled(gate);
    }
    return true;
  }

  /** Wait until both gates are open. */
  wait({ signal }: Pick<WaitLimits, 'signal'>): Promise<void> {
    if (this.#error !== null) return markHandled(Promise.reject(this.#error));
    const wait = waitFor<void>(
      (resolve, reject) => {
        if (!this.ask()) return resolve();
        const waiter = { resolve, reject };
        this.#waiters.add(waiter);
        return () => this.#waiters.delete(waiter);
      },
      { signal, operation: 'drain' },
    );
    return markHandled(wait);
  }

  /** Make bytes leave if nothing but that opens the gate that is shut. Call this after bytes were queued. */
  sendIfShut(): void {
    const gate = this.shut;
    if (gate === 'transport' || (gate === 'budget' && this.#limiter.bandwidth > 0)) {
      this.#bytes.flush();
    }
  }

  /** Let a waiting producer go on if both gates are open. Call this when a gate may have opened. */
  update(): void {
    if (this.#drain !== 'asked') return;
    if (this.shut !== null) {
      this.sendIfShut();
      return;
    }
    this.#drain = 'due';
    process.nextTick(this.#emitDrain);
  }

  /** Fail all waits, now and later. */
  stop(error: QemuFileError): void {
    this.#error ??= error;
    for (const waiter of this.#waiters) waiter.reject(this.#error);
  }

  readonly #emitDrain = (): void => {
    if (this.#error !== null) return;
    if (this.shut !== null) {
      this.#drain = 'asked';
      this.sendIfShut();
      return;
    }
    this.#drain = 'unasked';
    this.#isTransportShut = false;
    for (const waiter of this.#waiters) waiter.resolve();
    this.#host.drained();
  };
}

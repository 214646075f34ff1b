import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { Backoff, isTransient, sleepSync } from '../shared/backoff.ts';
import type { Failure } from '../stream/stream-failure.ts';
import type { CallsInFlight } from './calls-in-flight.ts';

/** How `fs` reports the result of a call that ran in the thread pool. */
export type CallDone = (error: unknown, bytes: number) => void;

/** The effect of a successful system call on its operation. */
export type Progress =
  /** The operation is complete. */
  | 'done'
  /** Make the next call now. */
  | 'more'
  /** The descriptor is not ready: make the next call after a delay. */
  | 'retry';

/** The system calls of one kind of operation. */
export interface FdCalls {
  /** Start the next call in the thread pool. */
  start(done: CallDone): void;
  /** Make the next call on the calling thread. @returns The bytes that it moved. */
  callSync(): number;
  /** Account for a call that succeeded and moved `bytes` bytes. */
  advance(bytes: number): Progress;
  /** Account for a call that failed for good. @returns The failure to report. */
  fail(error: unknown): Failure;
  /** The value that the operation resolves with once it is done. */
  result(): number;
  /** Drop the references to memory of the caller. */
  release(): void;
}

/**
 * An operation on a descriptor that may take several system calls: retries after a delay while the
 * descriptor is not ready, can be stopped, and refuses to start while an earlier one is pending.
 */
export class FdOperation {
  /** Offset in the stream of the next byte, for errors. */
  position = 0;
  readonly #name: string;
  readonly #inFlight: CallsInFlight;
  readonly #calls: FdCalls;
  readonly #backoff = new Backoff();
  #failure: Failure | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  #resolve: ((result: number) => void) | undefined;
  #reject: ((error: QemuFileError) => void) | undefined;

  /**
   * @param name - Public name of the operation that errors name.
   * @param inFlight - Counts the calls on the descriptor.
   * @param calls - The system calls.
   */
  constructor(name: string, inFlight: CallsInFlight, calls: FdCalls) {
    this.#name = name;
    this.#inFlight = inFlight;
    this.#calls = calls;
  }

  /** True while the operation has not settled. */
  get isPending(): boolean {
    return this.#resolve !== undefined;
  }

  /**
   * Check that an operation can start, and prepare it.
   *
   * @param position - Offset in the stream of its first byte.
   * @throws {QemuFileError} The latched failure; `EBUSY` while an earlier operation is pending.
   */
  begin(position: number): void {
    if (this.#failure !== undefined) throw this.#failure(this.#name, position);
    if (this.isPending) {
      throw new QemuFileError('EBUSY', 'the previous call has not settled yet', {
        operation: this.#name,
        position,
      });
    }
    this.position = position;
    this.#backoff.reset();
  }

  /** Run the calls in the thread pool. */
  run(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#call();
    });
  }

  /** Run the calls on the calling thread. */
  runSync(): number {
    try {
      for (;;) {
        const next = this.#callSync();
        if (next === 'done') return this.#calls.result();
        if (typeof next === 'function') throw next(this.#name, this.position);
        if (next === 'retry') sleepSync(this.#backoff.next());
      }
    } finally {
      this.#calls.release();
    }
  }

  /** Fail all later operations. @returns The failure that was latched first. */
  latch(failure: Failure): Failure {
    this.#failure ??= failure;
    return this.#failure;
  }

  /**
   * Fail all later operations, and the pending one if it waits for the descriptor to be ready. While a call is
   * running in the thread pool, the operation settles when the call returns, with success if it is then done.
   *
   * @param failure - What they fail with.
   * @param atOnce - Fail the pending one even while its call is running.
   */
  stop(failure: Failure, atOnce = false): void {
    const first = this.latch(failure);
    if (this.#retryTimer !== undefined || atOnce) this.#fail(first);
  }

  readonly #call = (): void => {
    this.#retryTimer = undefined;
    this.#inFlight.begin();
    try {
      this.#calls.start(this.#onCalled);
    } catch (error) {
      this.#onCalled(error, 0);
    }
  };

  readonly #onCalled: CallDone = (error, bytes) => {
    this.#settle(error, bytes);
    // Last, so that this operation has settled when a waiter for the end of all calls wakes.
    this.#inFlight.end();
  };

  #callSync(): Progress | Failure {
    let bytes: number;
    try {
      bytes = this.#calls.callSync();
    } catch (error) {
      return this.#advance(error, 0);
    }
    return this.#advance(undefined, bytes);
  }

  #settle(error: unknown, bytes: number): void {
    const resolve = this.#resolve;
    if (resolve === undefined) return;
    const next = this.#advance(error, bytes);
    if (next === 'done') {
      const result = this.#calls.result();
      this.#end();
      resolve(result);
    } else if (typeof next === 'function') {
      this.#fail(next);
    } else if (next === 'more') {
      this.#call();
    } else {
      this.#retryTimer = setTimeout(this.#call, this.#backoff.next());
    }
  }

  /** Account for one call. @returns What to do next, or the failure that ends the operation. */
  #advance(error: unknown, bytes: number): Progress | Failure {
    let next: Progress = 'retry';
    if (error === undefined || error === null) {
      next = this.#calls.advance(bytes);
      if (next === 'done') return next;
      if (next === 'more') this.#backoff.reset();
    } else if (!isTransient(error)) {
      return this.#calls.fail(error);
    }
    return this.#failure ?? next;
  }

  #fail(failure: Failure): void {
    clearTimeout(this.#retryTimer);
    const reject = this.#reject;
    this.#end();
    reject?.(failure(this.#name, this.position));
  }

  #end(): void {
    this.#retryTimer = undefined;
    this.#resolve = undefined;
    this.#reject = undefined;
    this.#calls.release();
  }
}

/** The failure of a system call, with the system's own code. */
export function systemFailure(error: unknown): Failure {
  return (operation, position) => toQemuFileError(error, { operation, position });
}

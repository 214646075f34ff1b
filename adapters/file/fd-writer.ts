import fs from 'node:fs';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { Backoff, isTransient, sleepSync } from '../shared/backoff.ts';
import type { Failure } from '../stream/stream-failure.ts';
import type { CallsInFlight } from './calls-in-flight.ts';

/** Calls in a row that may write nothing, without an error, before that counts as one. */
const MAX_EMPTY_WRITES = 8;

/** What `#advance` gives when all is written. */
const WRITTEN = -1;

/**
 * Whole writes to a descriptor, one batch at a time: goes on after a short write with the tail, waits
 * and tries again when the descriptor is not ready, and gives up on one that takes nothing.
 * A failed batch fails all later ones, since how much of it arrived is unknown to whoever sent it.
 */
export class FdWriter {
  /** Where the next byte goes; `null` leaves it to the descriptor's own offset. */
  offset: number | null;
  /** Whether batches are written on the calling thread, which then waits for them. */
  blocking = false;

  readonly #fd: number;
  readonly #calls: CallsInFlight;
  readonly #operation: string;
  readonly #backoff = new Backoff();
  #failure: Failure | undefined;
  #rest: readonly Uint8Array[] = [];
  #total = 0;
  #done = 0;
  #position = 0;
  #emptyWrites = 0;
  #timer: NodeJS.Timeout | undefined;
  #resolve: ((total: number) => void) | undefined;
  #reject: ((error: QemuFileError) => void) | undefined;

  /**
   * @param fd - An open descriptor.
   * @param calls - Told of every call on it.
   * @param offset - Where the first byte goes; `null` leaves it to the descriptor's own offset.
   * @param operation - Named in errors. Default `writevBuffer`.
   */
  constructor(fd: number, calls: CallsInFlight, offset: number | null, operation = 'writevBuffer') {
    this.#fd = fd;
    this.#calls = calls;
    this.offset = offset;
    this.#operation = operation;
  }

  /** True while a batch is not answered. */
  get pending(): boolean {
    return this.#resolve !== undefined;
  }

  /** What the batch that failed, or `stop()`, fails all later ones with. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /**
   * Writes a batch whole.
   *
   * @param buffers - Bytes in order; not to be changed before the answer.
   * @param position - Offset of the first byte in the stream, for the error message.
   * @returns Their number of bytes; at once in blocking mode.
   */
  writev(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    if (this.#failure !== undefined) throw this.#failure(this.#operation, position);
    if (this.pending) throw this.#error('EBUSY', 'an earlier batch is not written yet', position);
    let total = 0;
    for (const buffer of buffers) total += buffer.length;
    if (total === 0) return 0;
    this.#rest = buffers;
    this.#total = total;
    this.#done = 0;
    this.#position = position;
    this.#emptyWrites = 0;
    this.#backoff.reset();
    if (this.blocking) return this.#writeNow();
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#call();
    });
  }

  /**
   * Fails later batches, and one that waits for the descriptor to be ready. One that a thread works on
   * is answered when that returns: with success when it is whole by then.
   *
   * @param failure - What they fail with.
   * @param atOnce - Fails that one too, without waiting for the thread.
   */
  stop(failure: Failure, atOnce = false): void {
    this.#failure ??= failure;
    if (this.#timer !== undefined || atOnce) this.#fail(this.#failure);
  }

  #call(): void {
    this.#timer = undefined;
    this.#calls.begin();
    try {
      fs.writev(this.#fd, this.#rest, this.offset, this.#onCalled);
    } catch (error) {
      this.#onCalled(error, 0);
    }
  }

  readonly #onCalled = (error: unknown, written: number): void => {
    this.#answer(error, written);
    // Last, so that whoever waits for the end of all calls finds this one answered.
    this.#calls.end();
  };

  #answer(error: unknown, written: number): void {
    const resolve = this.#resolve;
    if (resolve === undefined) return;
    const wait = this.#advance(error, written);
    if (wait === WRITTEN) {
      this.#forget();
      resolve(this.#total);
    } else if (this.#failure !== undefined) {
      this.#fail(this.#failure);
    } else if (wait === 0) {
      this.#call();
    } else {
      this.#timer = setTimeout(() => this.#call(), wait);
    }
  }

  #writeNow(): number {
    for (;;) {
      let error: unknown;
      let written = 0;
      try {
        written = fs.writevSync(this.#fd, this.#rest, this.offset ?? undefined);
      } catch (thrown) {
        error = thrown;
      }
      const wait = this.#advance(error, written);
      if (wait === WRITTEN) return this.#total;
      if (this.#failure !== undefined) throw this.#failure(this.#operation, this.#reached);
      if (wait > 0) sleepSync(wait);
    }
  }

  /** Takes the outcome of one call; gives how long to wait before the next, or `WRITTEN`. */
  #advance(error: unknown, written: number): number {
    if (error !== undefined && error !== null) {
      if (isTransient(error)) return this.#backoff.next();
      this.#failure ??= (operation, position) => toQemuFileError(error, { operation, position });
      return 0;
    }
    if (written === 0) {
      this.#emptyWrites += 1;
      if (this.#emptyWrites >= MAX_EMPTY_WRITES) {
        this.#failure ??= (operation, position) =>
          new QemuFileError('EIO', 'the descriptor takes no bytes', { operation, position });
      }
      return this.#backoff.next();
    }
    this.#emptyWrites = 0;
    this.#backoff.reset();
    this.#done += written;
    if (this.offset !== null) this.offset += written;
    if (this.#done >= this.#total) return WRITTEN;
    this.#rest = tail(this.#rest, written);
    return 0;
  }

  #fail(failure: Failure): void {
    clearTimeout(this.#timer);
    const reject = this.#reject;
    this.#forget();
    reject?.(failure(this.#operation, this.#reached));
  }

  get #reached(): number {
    return this.#position + this.#done;
  }

  #forget(): void {
    this.#timer = undefined;
    this.#rest = [];
    this.#resolve = undefined;
    this.#reject = undefined;
  }

  #error(code: string, reason: string, position: number): QemuFileError {
    return new QemuFileError(code, reason, { operation: this.#operation, position });
  }
}

/** What is left of a list of buffers after its first `taken` bytes; copies none of them. */
function tail(buffers: readonly Uint8Array[], taken: number): Uint8Array[] {
  let skip = taken;
  let first = 0;
  while (first < buffers.length && skip >= (buffers[first]?.length ?? 0)) {
    skip -= buffers[first]?.length ?? 0;
    first += 1;
  }
  const rest = buffers.slice(first);
  if (skip > 0 && rest[0] !== undefined) rest[0] = rest[0].subarray(skip);
  return rest;
}

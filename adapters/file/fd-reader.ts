import fs from 'node:fs';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { Backoff, isTransient, sleepSync } from '../shared/backoff.ts';
import type { Failure } from '../stream/stream-failure.ts';
import type { CallsInFlight } from './calls-in-flight.ts';

/**
 * Reads from a descriptor, one at a time: waits and tries again while the descriptor is not ready.
 */
export class FdReader {
  /** Where the next byte comes from; `null` leaves it to the descriptor's own offset. */
  offset: number | null;
  /** Whether reads happen on the calling thread, which then waits for them. */
  blocking = false;

  readonly #fd: number;
  readonly #calls: CallsInFlight;
  readonly #operation: string;
  readonly #backoff = new Backoff();
  #failure: Failure | undefined;
  #buffer: Uint8Array | undefined;
  #position = 0;
  #timer: NodeJS.Timeout | undefined;
  #resolve: ((length: number) => void) | undefined;
  #reject: ((error: QemuFileError) => void) | undefined;

  /**
   * @param fd - An open descriptor.
   * @param calls - Told of every call on it.
   * @param offset - Where the first byte comes from; `null` leaves it to the descriptor's own offset.
   * @param operation - Named in errors. Default `getBuffer`.
   */
  constructor(fd: number, calls: CallsInFlight, offset: number | null, operation = 'getBuffer') {
    this.#fd = fd;
    this.#calls = calls;
    this.offset = offset;
    this.#operation = operation;
  }

  /** True while a read is not answered. */
  get pending(): boolean {
    return this.#resolve !== undefined;
  }

  /**
   * Reads once.
   *
   * @param buffer - Where to put bytes, from its start; not to be touched before the answer.
   * @param position - Offset of the first byte in the stream, for the error message.
   * @returns How many came, 0 at the end; at once in blocking mode.
   */
  read(buffer: Uint8Array, position: number): MaybePromise<number> {
    if (this.#failure !== undefined) throw this.#failure(this.#operation, position);
    if (this.pending) {
      throw new QemuFileError('EBUSY', 'another read waits already', {
        operation: this.#operation,
        position,
      });
    }
    if (buffer.length === 0) return 0;
    this.#position = position;
    this.#backoff.reset();
    if (this.blocking) return this.#readNow(buffer);
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#buffer = buffer;
      this.#call();
    });
  }

  /**
   * Fails later reads, and one that waits for the descriptor to be ready. One that a thread works on
   * is answered when that returns.
   *
   * @param failure - What they fail with.
   * @param atOnce - Fails that one too, without waiting for the thread.
   */
  stop(failure: Failure, atOnce = false): void {
    this.#failure ??= failure;
    if (this.#timer !== undefined || atOnce) this.#fail(this.#failure);
  }

  #call(): void {
    const buffer = this.#buffer;
    if (buffer === undefined) return;
    this.#timer = undefined;
    this.#calls.begin();
    try {
      fs.read(this.#fd, buffer, 0, buffer.length, this.offset, this.#onCalled);
    } catch (error) {
      this.#onCalled(error, 0);
    }
  }

  readonly #onCalled = (error: unknown, length: number): void => {
    this.#answer(error, length);
    // Last, so that whoever waits for the end of all calls finds this one answered.
    this.#calls.end();
  };

  #answer(error: unknown, length: number): void {
    const resolve = this.#resolve;
    if (resolve === undefined) return;
    if (error === undefined || error === null) {
      this.#forget();
      if (this.offset !== null) this.offset += length;
      resolve(length);
    } else if (!isTransient(error)) {
      this.#fail((operation, position) => toQemuFileError(error, { operation, position }));
    } else if (this.#failure !== undefined) {
      this.#fail(this.#failure);
    } else {
      this.#timer = setTimeout(() => this.#call(), this.#backoff.next());
    }
  }

  #readNow(buffer: Uint8Array): number {
    for (;;) {
      try {
        const length = fs.readSync(this.#fd, buffer, 0, buffer.length, this.offset);
        if (this.offset !== null) this.offset += length;
        return length;
      } catch (error) {
        if (!isTransient(error)) {
          throw toQemuFileError(error, { operation: this.#operation, position: this.#position });
        }
        sleepSync(this.#backoff.next());
      }
    }
  }

  #fail(failure: Failure): void {
    clearTimeout(this.#timer);
    const reject = this.#reject;
    this.#forget();
    reject?.(failure(this.#operation, this.#position));
  }

  #forget(): void {
    this.#timer = undefined;
    this.#buffer = undefined;
    this.#resolve = undefined;
    this.#reject = undefined;
  }
}

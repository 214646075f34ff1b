import { backendError } from '../../contract/backend-result.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../contract/ops.ts';
import { HalfDigest } from '../../util/digest.ts';
import { Fifo } from '../../util/fifo.ts';
import { noop } from '../../util/noop.ts';
import { totalLength } from '../../util/total-length.ts';
import type { BudgetWaiter } from './bandwidth-budget.ts';
import { type Batch, splitOff } from './batch.ts';
import type { RateLimiter } from './rate-limiter.ts';

/*
 * The sender passes batches to the backend, one at a time, as fast as the budget allows.
 *
 *                 ┌────────── taken ──────────┐
 *                 ▼                           │
 *   idle ──► sending ──(promise returned)──► inFlight
 *    ▲            │
 *    └────────────┴──(no budget)──► awaitingBudget      any ──(an error)──► stopped
 *
 * `sending` lasts while the backend answers synchronously; a release callback that puts and flushes then
 * adds to the running loop instead of recursing.
 */

type SenderState = 'idle' | 'sending' | 'inFlight' | 'awaitingBudget' | 'stopped';

/** The owner of the sender. */
export interface SenderHost {
  /** Cut and return what should leave now; null if there is nothing. */
  nextBatch(): Batch | null;
  /** Release the buffers of a batch: the backend does not use them any more. */
  release(batch: Batch): void;
  /** The backend took a batch of `buffers` that began at `position`. */
  taken(position: number, bytes: number, buffers: number): void;
  /** Latch a failure. */
  failed(error: QemuFileError): void;
}

/** A caller that waits until the backend took a number of bytes. */
interface TakenWaiter {
  target: number;
  done(error: QemuFileError | null): void;
}

export const DETACHED = 'a buffer put by reference was detached or resized before it was sent';

export class Sender {
  readonly #ops: QemuFileOps;
  readonly #limiter: RateLimiter;
  readonly #digest: HalfDigest;
  readonly #host: SenderHost;
  #state: SenderState = 'idle';
  readonly #queue: Fifo<Batch> = new Fifo();
  #inFlight: Batch | null = null;
  /** Bytes in the queue and in flight. */
  #queuedBytes = 0;
  /** Offset in the stream of the first byte that the backend has not taken. @see QEMU `QEMUFile.pos` */
  #position = 0;
  /** Bytes taken in all. Unlike the position, only taking changes it. */
  #taken = 0;
  readonly #budgetWaiter: { wanted: number; wake: () => void };
  /** In the order of their targets. */
  readonly #waiters: TakenWaiter[] = [];
  #error: QemuFileError | null = null;

  constructor(ops: QemuFileOps, limiter: RateLimiter, hasDigest: boolean, host: SenderHost) {
    this.#ops = ops;
    this.#limiter = limiter;
    this.#digest = new HalfDigest(hasDigest);
    this.#host = host;
    this.#budgetWaiter = { wanted: 0, wake: this.#onBudget } satisfies BudgetWaiter;
  }

  get position(): number {
    return this.#position;
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get taken(): number {
    return this.#taken;
  }

  /** Running XXH64 of the bytes taken, as 16 hexadecimal digits; null without the option. */
  get digest(): string | null {
    return this.#digest.hex;
  }

  /** Move the position without moving bytes. */
  skipPosition(bytes: number): void {
    this.#position += bytes;
  }

  enqueue(batch: Batch): void {
    this.#queue.push(batch);
    this.#queuedBytes += batch.bytes;
  }

  /** Pass batches to the backend until it, or the budget, has to be waited for. */
  send(): void {
    if (this.#state !== 'idle') return;
    this.#state = 'sending';
    try {
      while (this.#sendNext());
    } finally {
      if (this.#state === 'sending') this.#state = 'idle';
    }
  }

  /** Ask the budget anew, because its limit changed, and send. */
  retry(): void {
    this.#cancelBudgetWait();
    this.send();
  }

  /**
   * Call `done` once the backend took `target` bytes in all, at once if it did.
   *
   * @returns A function that cancels the call.
   */
  whenTaken(target: number, done: (error: QemuFileError | null) => void): () => void {
    if (this.#error !== null || this.#taken >= target) {
      done(this.#error);
      return noop;
    }
    const waiters = this.#waiters;
    let at = waiters.length;
    while (at > 0 && (waiters[at - 1] as TakenWaiter).target > target) at -= 1;
    const waiter = { target, done };
    waiters.splice(at, 0, waiter);
    return () => {
      const place = waiters.indexOf(waiter);
      if (place >= 0) waiters.splice(place, 1);
    };
  }

  /** Count bytes that went to another file as taken. */
  countAsTaken(bytes: number): void {
    this.#taken += bytes;
    this.#callWaiters();
  }

  /** Stop for good: drop the queue and fail all waits. A batch in flight stays in use until it settles. */
  stop(error: QemuFileError): void {
    this.#error = error;
    this.#cancelBudgetWait();
    this.#limiter.noteWaiting(false);
    this.#state = 'stopped';
    const dropped = this.#queue.takeAll();
    this.#queuedBytes = this.#inFlight === null ? 0 : this.#inFlight.bytes;
    for (const batch of dropped) this.#host.release(batch);
    for (const waiter of this.#waiters.splice(0)) waiter.done(error);
  }

  /** Send one batch; return whether the next can follow at once. */
  #sendNext(): boolean {
    if (!this.#digest.ready(this.#onDigestLoaded, this.#onDigestFailed)) return false;
    const batch = this.#takeBatch();
    if (batch === null) return false;
    this.#give(batch);
    return this.#state === 'sending';
  }

  /** Return the next batch, or as much of it as the budget allows; null if nothing can be sent now. */
  #takeBatch(): Batch | null {
    if (this.#queue.length === 0) {
      const next = this.#host.nextBatch();
      if (next === null) return null;
      this.enqueue(next);
    }
    const batch = this.#queue.first as Batch;
    const allowed = this.#limiter.budget.allowance(batch.bytes);
    const isLimited = allowed < batch.bytes;
    if (isLimited && allowed === 0) {
      this.#state = 'awaitingBudget';
      this.#limiter.noteWaiting(true);
      this.#budgetWaiter.wanted = batch.bytes;
      this.#limiter.budget.wait(this.#budgetWaiter);
      return null;
    }
    this.#limiter.noteWaiting(false);
    // A batch with a detached buffer is not split: later bytes must not leave in its place.
    if (isLimited && totalLength(batch.entries) === batch.bytes) return splitOff(batch, allowed);
    this.#queue.shift();
    return batch;
  }

  /** Pass one batch to the backend. */
  #give(batch: Batch): void {
    this.#inFlight = batch;
    if (totalLength(batch.entries) !== batch.bytes) {
      this.#settle(Number.NaN, new QemuFileError('EFAULT', DETACHED, this.#context()));
      return;
    }
    if (batch.bytes === 0) {
      this.#settle(0, undefined);
      return;
    }
    this.#limiter.spend(batch.bytes);
    let answer: MaybePromise<number>;
    try {
      answer = (this.#ops.writevBuffer as NonNullable<QemuFileOps['writevBuffer']>)(
        batch.entries,
        this.#position,
      );
    } catch (error) {
      this.#onFailed(error);
      return;
    }
    if (typeof answer !== 'object' || answer === null) {
      this.#settle(answer, undefined);
      return;
    }
    if (this.#state === 'sending') this.#state = 'inFlight';
    Promise.resolve(answer).then(this.#onTaken, this.#onFailed);
  }

  readonly #onTaken = (count: number): void => {
    this.#settle(count, undefined);
    this.send();
  };

  readonly #onFailed = (error: unknown): void => {
    this.#settle(Number.NaN, error ?? new Error('the backend failed without a reason'));
  };

  /** Account for the backend's answer about the batch in flight. */
  #settle(count: number, error: unknown): void {
    const batch = this.#inFlight;
    if (batch === null) return;
    if (this.#state === 'inFlight') this.#state = 'idle';
    this.#inFlight = null;
    this.#queuedBytes -= batch.bytes;
    if (this.#state === 'stopped') {
      this.#host.release(batch);
      return;
    }
    if (error === undefined && count === batch.bytes) {
      const position = this.#position;
      this.#position += batch.bytes;
      this.#taken += batch.bytes;
      if (this.#digest.isEnabled) {
        for (const entry of batch.entries) this.#digest.update(entry);
      }
      if (batch.bytes > 0) this.#limiter.taken(batch.bytes);
      this.#host.release(batch);
      this.#callWaiters();
      this.#host.taken(position, batch.bytes, batch.entries.length);
      return;
    }
    const context = this.#context();
    const failure =
      error === undefined
        ? backendError(count, `where ${batch.bytes} bytes were to be written`, context)
        : toQemuFileError(error, context);
    this.#host.release(batch);
    this.#host.failed(failure);
  }

  /** Call the callbacks of bytes that the backend took. */
  #callWaiters(): void {
    while (this.#waiters[0] !== undefined && this.#waiters[0].target <= this.#taken) {
      this.#waiters.shift()?.done(null);
    }
  }

  readonly #onBudget = (): void => {
    if (this.#state === 'awaitingBudget') this.#state = 'idle';
    this.send();
  };

  #cancelBudgetWait(): void {
    if (this.#state !== 'awaitingBudget') return;
    this.#limiter.budget.leave(this.#budgetWaiter);
    this.#state = 'idle';
  }

  readonly #onDigestLoaded = (): void => this.send();

  readonly #onDigestFailed = (error: unknown): void => {
    this.#host.failed(toQemuFileError(error, { operation: 'loadDigest' }));
  };

  #context(): { operation: string; position: number } {
    return { operation: 'writevBuffer', position: this.#position };
  }
}

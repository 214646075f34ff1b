import { backendError } from '../../contract/backend-result.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../contract/ops.ts';
import { HalfDigest } from '../../util/digest.ts';
import { totalLength } from '../../util/total-length.ts';
import type { BandwidthBudget, BudgetWaiter } from './bandwidth-budget.ts';
import { type Batch, splitOff } from './batch.ts';
import { type Gate, Gates } from './gates.ts';
import { GatherList } from './gather-list.ts';
import { RateLimiter } from './rate-limiter.ts';

/*
 * The put half: cuts the gather list into batches and has the backend take one at a time.
 *
 *   puts ─► gather list ─cut─► queue ─► in flight ─► taken (or failed)
 *
 * While a batch is in flight, a flush does not cut another: what has been put by the time the backend
 * is free leaves together.
 */

/** What the put half tells the file it belongs to. */
export interface PutHost {
  /** A failure to latch. */
  putFailed(error: QemuFileError): void;
  /** The backend took a batch of `buffers` that began at `position`. */
  batchTaken(position: number, bytes: number, buffers: number): void;
  /** A gate is shut, and a producer was told to wait. */
  throttled(gate: Gate): void;
  /** Both gates are open after a producer was told to wait. */
  drained(): void;
}

/** Settings of the put half, all decided. */
export interface PutSettings {
  writable: boolean;
  stagingSize: number;
  copyLimit: number;
  gatherEntries: number;
  highWaterMark: number;
  maxPendingBytes: number;
  autoFlush: boolean;
  digest: boolean;
  budget: BandwidthBudget;
}

/** Someone who waits until a number of bytes has been taken. */
interface Waiter {
  target: number;
  done(error: QemuFileError | null): void;
}

const DETACHED = 'a buffer put by reference was detached or resized before it was sent';

export class PutHalf extends GatherList {
  readonly limiter: RateLimiter;
  readonly gates: Gates;
  readonly #ops: QemuFileOps;
  readonly #settings: PutSettings;
  readonly #host: PutHost;

  /** Offset in the stream of the first byte that the backend has not taken. @see QEMU `QEMUFile.pos` */
  #position = 0;
  /** Bytes taken in all; unlike the position nothing but taking changes it. */
  #taken = 0;
  /** Bytes in the queue and in flight. */
  #queued = 0;
  readonly #queue: Batch[] = [];
  #inFlight: Batch | null = null;
  /** Whether `#send` is running: what a release puts waits for its loop, without recursion. */
  #sending = false;
  #flushWanted = false;
  #tickScheduled = false;
  #held = 0;
  /** Set while the budget is waited for. */
  #turn: BudgetWaiter | null = null;
  readonly #waiters: Waiter[] = [];
  #error: QemuFileError | null = null;
  readonly #digest: HalfDigest;
  /** Why puts are a mistake of the caller, if they are. */
  #closedBecause: string | null = null;

  constructor(ops: QemuFileOps, settings: PutSettings, host: PutHost) {
    super(settings.stagingSize, settings.gatherEntries, settings.copyLimit);
    this.#ops = ops;
    this.#settings = settings;
    this.#host = host;
    this.limiter = new RateLimiter(settings.budget);
    this.gates = new Gates(this, this.limiter, settings.highWaterMark, host);
    this.#digest = new HalfDigest(settings.digest);
    if (!settings.writable) this.#closedBecause = 'the file is not writable';
  }

  /** Bytes put and not yet taken by the backend. */
  get pending(): number {
    return this.#queued + this.gathered;
  }

  /** Stream offset after the last byte that was put. */
  get putPosition(): number {
    return this.#position + this.pending;
  }

  /** Running XXH64 of what was taken, as 16 hex digits; null without the option. */
  get digest(): string | null {
    return this.#digest.hex;
  }

  /** `hold`s without a `release`. */
  get held(): number {
    return this.#held;
  }

  /** Moves the position without moving bytes. @see QEMU `qemu_update_position` */
  skipPosition(bytes: number): void {
    this.#position += bytes;
    this.limiter.discount(bytes);
  }

  /** Has everything put so far leave as soon as the backend is free. */
  flush(): void {
    if (!this.#ops.writevBuffer) return;
    if (this.cuttable) this.#flushWanted = true;
    this.#send();
  }

  /** Bytes put in all: what `taken` will be when everything put so far has left. */
  get accepted(): number {
    return this.#taken + this.pending;
  }

  /** Calls back once the backend took `target` bytes in all, at once if it did. */
  whenTaken(target: number, done: (error: QemuFileError | null) => void): void {
    if (this.#error !== null || this.#taken >= target) {
      done(this.#error);
      return;
    }
    let at = this.#waiters.length;
    while (at > 0 && (this.#waiters[at - 1] as Waiter).target > target) at -= 1;
    this.#waiters.splice(at, 0, { target, done });
  }

  /** Makes later puts a mistake, and has everything put so far leave. */
  end(): void {
    this.#closedBecause = 'the file was ended or closed';
    this.#held = 0;
    this.flush();
    this.room = 0;
  }

  /** Holds back flushes at the end of a tick until as many `release`s. @see Node `writable.cork` */
  hold(): void {
    this.#held += 1;
  }

  release(): void {
    if (this.#held === 0) return;
    this.#held -= 1;
    if (this.#held === 0) this.flush();
  }

  /** Ends all puts: what waits is dropped, whoever waits is told. */
  stop(error: QemuFileError): void {
    if (this.#error !== null) return;
    this.#error = error;
    this.room = 0;
    this.#leaveQueue();
    this.limiter.held(false);
    this.gates.stop(error);
    const dropped = [...this.#queue.splice(0), this.cut()];
    this.#queued = this.#inFlight === null ? 0 : this.#inFlight.bytes;
    for (const batch of dropped) this.#releaseBatch(batch);
    for (const waiter of this.#waiters.splice(0)) waiter.done(error);
  }

  /** Makes `bytes` fit the staging area in one piece; false if they cannot, or puts have stopped. */
  reserve(bytes: number): boolean {
    this.#checkOpen();
    if (bytes > this.stagingLeft && this.gathered > 0) this.cutFull();
    return this.#error === null && bytes <= this.stagingLeft;
  }

  /** Copies here what another half has gathered, and empties it. @see QEMU `qemu_put_qemu_file` */
  adopt(source: PutHalf): number {
    this.#checkOpen();
    const batch = source.cut();
    if (totalLength(batch.entries) === batch.bytes) {
      for (const entry of batch.entries) this.copy(entry);
    } else {
      this.#host.putFailed(this.#failure('EFAULT', DETACHED));
    }
    source.#moved(batch);
    return batch.bytes;
  }

  /** Sends again what the limiter held back; for a limit that changed. */
  limitChanged(): void {
    this.#leaveQueue();
    this.gates.sendIfShut();
    this.#send();
    this.gates.update();
  }

  override reference(bytes: Uint8Array, onRelease?: () => void): void {
    super.reference(bytes, onRelease);
    if (this.pending >= this.gates.highWaterMark) this.flush();
  }

  protected override admit(): boolean {
    return this.room === 0 ? this.makeRoom(0) : !this.#overrun();
  }

  protected override refused(onRelease: () => void): void {
    this.#release(onRelease);
  }

  protected override makeRoom(bytes: number): boolean {
    this.#checkOpen();
    if (this.#error !== null || this.#overrun()) return false;
    if (bytes > this.stagingLeft) {
      if (!this.#ops.writevBuffer) {
        this.#host.putFailed(
          this.#failure('ENOBUFS', 'the staging area of a file without backend is full'),
        );
        return false;
      }
      this.cutFull();
      if (this.#error !== null) return false;
    }
    if (!this.#tickScheduled && this.#ops.writevBuffer) {
      this.#tickScheduled = true;
      process.nextTick(this.#endOfTick);
    }
    this.open();
    return true;
  }

  protected override cutFull(): void {
    if (!this.#ops.writevBuffer) return;
    const batch = this.cut();
    this.#queue.push(batch);
    this.#queued += batch.bytes;
    this.#flushWanted = false;
    this.#send();
  }

  /** Throws if a put is a mistake of the caller. */
  #checkOpen(): void {
    if (this.#closedBecause !== null) {
      throw new QemuFileError('EBADF', this.#closedBecause, { operation: 'put' });
    }
  }

  /** Whether too much waits for the backend to put any more; then that is latched. */
  #overrun(): boolean {
    const most = this.#settings.maxPendingBytes;
    if (this.pending <= most) return false;
    this.#host.putFailed(
      this.#failure('ENOBUFS', `more than maxPendingBytes (${most}) wait for the backend`),
    );
    return true;
  }

  readonly #endOfTick = (): void => {
    this.#tickScheduled = false;
    if (this.#held === 0 && this.#settings.autoFlush) this.flush();
    else this.gates.sendIfShut();
    // The next put of what is left unflushed schedules another look at the gates.
    if (this.gathered > 0) this.room = 0;
  };

  /** Hands batches to the backend until it has to be waited for. */
  #send(): void {
    if (this.#sending) return;
    this.#sending = true;
    try {
      while (this.#inFlight === null && this.#turn === null && this.#error === null) {
        if (!this.#digest.ready(this.#resume, this.#digestFailed)) return;
        const batch = this.#nextBatch();
        if (batch === null) return;
        this.#hand(batch);
      }
    } finally {
      this.#sending = false;
    }
  }

  readonly #resume = (): void => this.#send();

  readonly #digestFailed = (error: unknown): void => {
    this.#host.putFailed(toQemuFileError(error, { operation: 'loadDigest' }));
  };

  /** Hands one batch to the backend. */
  #hand(batch: Batch): void {
    this.#inFlight = batch;
    if (totalLength(batch.entries) !== batch.bytes) {
      this.#settle(Number.NaN, new QemuFileError('EFAULT', DETACHED, this.#context()));
      return;
    }
    if (batch.bytes === 0) {
      this.#settle(0, undefined);
      return;
    }
    this.limiter.spend(batch.bytes);
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
    if (typeof answer !== 'object' || answer === null) this.#settle(answer, undefined);
    else Promise.resolve(answer).then(this.#onTaken, this.#onFailed);
  }

  readonly #onTaken = (count: number): void => {
    this.#settle(count, undefined);
    this.#send();
  };

  readonly #onFailed = (error: unknown): void => {
    this.#settle(Number.NaN, error ?? new Error('the backend failed without saying why'));
  };

  /** The next thing to send, no larger than the limiter allows; null if there is nothing to do now. */
  #nextBatch(): Batch | null {
    if (this.#queue.length === 0) {
      if (!this.#flushWanted || !this.cuttable) return null;
      const batch = this.cut();
      this.#flushWanted = false;
      this.#queued += batch.bytes;
      this.#queue.push(batch);
    }
    const batch = this.#queue[0] as Batch;
    const allowed = this.limiter.budget.allowance(batch.bytes);
    const limited = allowed < batch.bytes;
    if (limited && allowed === 0) {
      this.limiter.held(true);
      this.#turn = { wanted: batch.bytes, wake: this.#onTurn };
      this.limiter.budget.wait(this.#turn);
      return null;
    }
    this.limiter.held(false);
    // A batch with a detached buffer is not split: what follows must not leave in its place.
    if (limited && totalLength(batch.entries) === batch.bytes) return splitOff(batch, allowed);
    this.#queue.shift();
    return batch;
  }

  readonly #onTurn = (): void => {
    this.#turn = null;
    this.#send();
  };

  #leaveQueue(): void {
    if (this.#turn !== null) this.limiter.budget.leave(this.#turn);
    this.#turn = null;
  }

  /** Accounts for the backend's answer to the batch in flight. */
  #settle(count: number, error: unknown): void {
    const batch = this.#inFlight;
    if (batch === null) return;
    this.#inFlight = null;
    this.#queued -= batch.bytes;
    if (error === undefined && count === batch.bytes && this.#error === null) {
      const position = this.#position;
      this.#position += batch.bytes;
      this.#taken += batch.bytes;
      for (const entry of batch.entries) this.#digest.update(entry);
      if (batch.bytes > 0) this.limiter.taken(batch.bytes);
      this.#releaseBatch(batch);
      this.#tellWaiters();
      this.#host.batchTaken(position, batch.bytes, batch.entries.length);
      this.gates.update();
      return;
    }
    const context = this.#context();
    const failure =
      error === undefined
        ? backendError(count, `where ${batch.bytes} bytes were to be written`, context)
        : toQemuFileError(error, context);
    this.#releaseBatch(batch);
    this.#host.putFailed(failure);
  }

  #context(): { operation: string; position: number } {
    return { operation: 'writevBuffer', position: this.#position };
  }

  #failure(code: string, reason: string): QemuFileError {
    return new QemuFileError(code, reason, { operation: 'put', position: this.putPosition });
  }

  /** Ends with what went to another file: whoever waits for it waits no longer. */
  #moved(batch: Batch): void {
    this.#taken += batch.bytes;
    this.#releaseBatch(batch);
    this.#tellWaiters();
  }

  #tellWaiters(): void {
    while (this.#waiters[0] !== undefined && this.#waiters[0].target <= this.#taken) {
      this.#waiters.shift()?.done(null);
    }
  }

  #releaseBatch(batch: Batch): void {
    this.recycle(batch);
    for (const release of batch.releases.splice(0)) this.#release(release);
  }

  #release(release: () => void): void {
    try {
      release();
    } catch (error) {
      const context = { operation: 'onRelease', position: this.#position };
      this.#host.putFailed(toQemuFileError(error, context));
    }
  }
}

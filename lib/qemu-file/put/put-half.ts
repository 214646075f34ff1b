import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { QemuFileOps } from '../../contract/ops.ts';
import { waitFor } from '../../contract/wait-for.ts';
import { totalLength } from '../../util/total-length.ts';
import type { BandwidthBudget } from './bandwidth-budget.ts';
import type { Batch } from './batch.ts';
import { type Gate, Gates } from './gates.ts';
import { GatherList } from './gather-list.ts';
import { RateLimiter } from './rate-limiter.ts';
import { DETACHED, Sender } from './sender.ts';
import { Staging } from './staging.ts';

/*
 * The put half: decides when the gathered bytes leave.
 *
 *   putBe32 ─────────► staging ─┐
 *   putBufferAsync ─────────────┴─► gather list ─cut─► sender ─► writevBuffer
 *
 * A batch is cut when the staging block or the gather list is full, and when a flush is wanted and the
 * sender is free. While a batch is in flight, a flush cuts no other: what is put until the backend has
 * answered leaves together.
 */

/** The file that a put half belongs to. */
export interface PutHost {
  /** Latch a failure. */
  putFailed(error: QemuFileError): void;
  /** The backend took a batch of `buffers` that began at `position`. */
  batchTaken(position: number, bytes: number, buffers: number): void;
  /** A gate is shut, and a producer was told to wait. */
  throttled(gate: Gate): void;
  /** Both gates are open after a producer was told to wait. */
  drained(): void;
}

/** Settings of the put half, all resolved. */
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

/** Least number of staging blocks that a file keeps. */
const MIN_SPARE_BLOCKS = 4;

/** Whether puts are accepted: not on a file without a put half, nor after `end()`. */
type PutState = 'open' | 'notWritable' | 'ended';

const REFUSALS: Readonly<Record<Exclude<PutState, 'open'>, string>> = {
  notWritable: 'the file is not writable',
  ended: 'the file was ended or closed',
};

export class PutHalf {
  readonly staging: Staging;
  readonly limiter: RateLimiter;
  readonly gates: Gates;
  readonly #gather: GatherList;
  readonly #sender: Sender;
  readonly #host: PutHost;
  readonly #canSend: boolean;
  readonly #autoFlush: boolean;
  readonly #maxPendingBytes: number;
  #state: PutState;
  #error: QemuFileError | null = null;
  #isFlushWanted = false;
  #isTickScheduled = false;
  #corked = 0;

  constructor(ops: QemuFileOps, settings: PutSettings, host: PutHost) {
    const { stagingSize, gatherEntries, copyLimit, digest, highWaterMark } = settings;
    this.#host = host;
    this.#canSend = ops.writevBuffer !== undefined;
    this.#autoFlush = settings.autoFlush;
    this.#maxPendingBytes = settings.maxPendingBytes;
    this.#state = settings.writable ? 'open' : 'notWritable';
    const callbacks = {
      makeRoom: (bytes: number) => this.#makeRoom(bytes),
      cutFull: () => this.#cutFull(),
      canQueue: () => this.#canQueue(),
      notQueued: (onRelease: () => void) => this.#callRelease(onRelease),
    };
    // A producer puts some more before it looks at the gate.
    const maxSpare = Math.max(MIN_SPARE_BLOCKS, Math.ceil((2 * highWaterMark) / stagingSize));
    this.staging = new Staging(stagingSize, maxSpare, callbacks);
    this.#gather = new GatherList(this.staging, gatherEntries, copyLimit, callbacks);
    this.limiter = new RateLimiter(settings.budget);
    this.#sender = new Sender(ops, this.limiter, digest, {
      nextBatch: () => this.#nextBatch(),
      release: (batch) => this.#release(batch),
      taken: (position, bytes, buffers) => {
        host.batchTaken(position, bytes, buffers);
        this.gates.update();
      },
      failed: (error) => host.putFailed(error),
    });
    this.gates = new Gates(this, this.limiter, highWaterMark, host);
  }

  /** Bytes put that the backend has not taken. */
  get pending(): number {
    return this.#sender.queuedBytes + this.#gather.bytes;
  }

  /** Stream offset after the last byte that the backend took. @see QEMU `QEMUFile.pos` */
  get sentPosition(): number {
    return this.#sender.position;
  }

  /** Bytes put in all: bytes taken and bytes pending. */
  get totalPut(): number {
    return this.#sender.taken + this.pending;
  }

  /** Stream offset after the last byte put. */
  get putPosition(): number {
    return this.#sender.position + this.pending;
  }

  /** Running XXH64 of the bytes taken, as 16 hexadecimal digits; null without the option. */
  get digest(): string | null {
    return this.#sender.digest;
  }

  /** Number of `cork()`s without an `uncork()`. */
  get corked(): number {
    return this.#corked;
  }

  /** Queue bytes by reference; `onRelease` runs once the backend took them, or failed. */
  reference(bytes: Uint8Array, onRelease?: () => void): void {
    this.#gather.reference(bytes, onRelease);
    // Nothing but sending opens the transport gate.
    if (this.pending >= this.gates.highWaterMark) this.flush();
  }

  /** Move the position without moving bytes. @see QEMU `qemu_update_position` */
  skipPosition(bytes: number): void {
    this.#sender.skipPosition(bytes);
    this.limiter.discount(bytes);
  }

  /** Make everything put so far leave as soon as the backend is free. */
  flush(): void {
    if (!this.#canSend) return;
    if (this.#gather.isCuttable) this.#isFlushWanted = true;
    this.#sender.send();
  }

  /** Send everything put so far, and wait until the backend took it. */
  flushed(signal: AbortSignal | undefined): Promise<void> {
    this.flush();
    return waitFor<void>(
      (resolve, reject) =>
        this.whenTaken(this.totalPut, (error) => {
          if (error === null) resolve();
          else reject(error);
        }),
      { signal, operation: 'flush' },
    );
  }

  /**
   * Call `done` once the backend took `target` bytes in all, at once if it did.
   *
   * @returns A function that cancels the call.
   */
  whenTaken(target: number, done: (error: QemuFileError | null) => void): () => void {
    return this.#sender.whenTaken(target, done);
  }

  /** Make everything put so far leave, and refuse later puts. */
  end(): void {
    if (this.#state === 'open') this.#state = 'ended';
    this.#corked = 0;
    this.flush();
    this.staging.closeBlock();
  }

  /** Suspend the flush at the end of a tick until the last `uncork()`. @see Node `writable.cork` */
  cork(): void {
    this.#corked += 1;
  }

  uncork(): void {
    if (this.#corked === 0) return;
    this.#corked -= 1;
    if (this.#corked === 0) this.flush();
  }

  /** End all puts: drop what waits, and fail whatever is awaited. */
  stop(error: QemuFileError): void {
    if (this.#error !== null) return;
    this.#error = error;
    if (this.#gather.isCuttable) this.#sender.enqueue(this.#gather.cut());
    this.staging.closeBlock();
    this.gates.stop(error);
    this.#sender.stop(error);
  }

  /** Make `bytes` fit the staging block in one piece; return false if they cannot, or puts have stopped. */
  reserve(bytes: number): boolean {
    this.#checkOpen();
    if (bytes > this.staging.left && this.#gather.bytes > 0) this.#cutFull();
    return this.#error === null && bytes <= this.staging.left;
  }

  /** Copy what another half has gathered, and empty that half. @see QEMU `qemu_put_qemu_file` */
  adopt(source: PutHalf): number {
    this.#checkOpen();
    const batch = source.#gather.cut();
    if (totalLength(batch.entries) === batch.bytes) {
      for (const entry of batch.entries) this.staging.copy(entry);
    } else {
      this.#host.putFailed(this.#putError('EFAULT', DETACHED));
    }
    source.#release(batch);
    source.#sender.countAsTaken(batch.bytes);
    return batch.bytes;
  }

  /** Apply a rate limit that changed to what waits. */
  limitChanged(): void {
    this.gates.sendIfShut();
    this.#sender.retry();
    this.gates.update();
  }

  #canQueue(): boolean {
    return this.staging.isOpen ? !this.#latchOverrun() : this.#makeRoom(0);
  }

  #makeRoom(bytes: number): boolean {
    this.#checkOpen();
    if (this.#error !== null || this.#latchOverrun()) return false;
    if (bytes > this.staging.left) {
      if (!this.#canSend) {
        const reason = 'the staging area of a file without a backend is full';
        this.#host.putFailed(this.#putError('ENOBUFS', reason));
        return false;
      }
      this.#cutFull();
      if (this.#error !== null) return false;
    }
    if (!this.#isTickScheduled && this.#canSend) {
      this.#isTickScheduled = true;
      process.nextTick(this.#endOfTick);
    }
    this.staging.openBlock();
    return true;
  }

  #cutFull(): void {
    if (!this.#canSend) return;
    this.#sender.enqueue(this.#gather.cut());
    this.#isFlushWanted = false;
    this.#sender.send();
  }

  #nextBatch(): Batch | null {
    if (!this.#isFlushWanted || !this.#gather.isCuttable) return null;
    this.#isFlushWanted = false;
    return this.#gather.cut();
  }

  readonly #endOfTick = (): void => {
    this.#isTickScheduled = false;
    if (this.#corked === 0 && this.#autoFlush) this.flush();
    else this.gates.sendIfShut();
    // The next put of an unflushed batch schedules another look at the gates.
    if (this.#gather.bytes > 0) this.staging.closeBlock();
  };

  /** Throw if a put is a mistake of the caller. */
  #checkOpen(): void {
    if (this.#state === 'open') return;
    throw new QemuFileError('EBADF', REFUSALS[this.#state], { operation: 'put' });
  }

  /** Return whether too much waits for the backend to put any more; that is latched. */
  #latchOverrun(): boolean {
    const max = this.#maxPendingBytes;
    if (this.pending <= max) return false;
    const reason = `more than maxPendingBytes (${max}) wait for the backend`;
    this.#host.putFailed(this.#putError('ENOBUFS', reason));
    return true;
  }

  /** Recycle the memory of a batch and run its releases. */
  #release(batch: Batch): void {
    if (batch.block !== null) this.staging.recycleBlock(batch.block);
    batch.block = null;
    for (const onRelease of batch.releases.splice(0)) this.#callRelease(onRelease);
  }

  #callRelease(onRelease: () => void): void {
    try {
      onRelease();
    } catch (error) {
      const context = { operation: 'onRelease', position: this.#sender.position };
      this.#host.putFailed(toQemuFileError(error, context));
    }
  }

  #putError(code: string, reason: string): QemuFileError {
    return new QemuFileError(code, reason, { operation: 'put', position: this.putPosition });
  }
}

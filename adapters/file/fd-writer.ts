import fs from 'node:fs';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { totalLength } from '../../lib/util/total-length.ts';
import { type Failure, failure } from '../stream/stream-failure.ts';
import type { CallsInFlight } from './calls-in-flight.ts';
import { type CallDone, FdOperation, type Progress, systemFailure } from './fd-operation.ts';
import { ZeroRuns } from './zero-runs.ts';

/** Consecutive calls that may write nothing without an error. One more fails the batch. */
const MAX_EMPTY_WRITES = 8;

const NOTHING_WRITTEN = failure('EIO', 'the descriptor accepts no bytes');

/** A new file whose zeros are left out. Its length on disk is set when it is complete. */
export interface SparseFile {
  /** End of the file in bytes, with the zeros that were left out. The file is empty from here on. */
  end: number;
}

/**
 * Writes whole batches to a descriptor, one batch at a time: after a short write it continues with the rest,
 * and it fails when a descriptor keeps accepting nothing. A failed batch fails all later ones, because the
 * caller cannot know how much of the failed one was written.
 *
 * In a sparse file it moves its offset over runs of zeros instead of writing them, and writes the runs of data
 * between them one after another.
 */
export class FdWriter {
  /** File offset of the next byte; `null` uses the descriptor's own offset. */
  offset: number | null;
  /** True to write on the calling thread, which blocks until the batch is written. */
  isBlocking = false;

  readonly #fd: number;
  readonly #operation: FdOperation;
  readonly #sparse: SparseFile | undefined;
  readonly #zeroRuns: ZeroRuns | undefined;
  #rest: readonly Uint8Array[] = [];
  #total = 0;
  #done = 0;
  /** Bytes of the current run of data that are not written yet, and the index of that run. */
  #runLeft = 0;
  #run = 0;
  #emptyWrites = 0;

  /**
   * @param fd - An open descriptor.
   * @param inFlight - Counts the calls on it.
   * @param offset - File offset of the first byte; `null` uses the descriptor's own offset.
   * @param operation - Public name of the operation that errors name. Default `writevBuffer`.
   * @param sparse - The file, if zeros are to be left out. Needs an `offset`.
   */
  constructor(
    fd: number,
    inFlight: CallsInFlight,
    offset: number | null,
    operation = 'writevBuffer',
    sparse?: SparseFile,
  ) {
    this.#fd = fd;
    this.offset = offset;
    this.#sparse = sparse;
    this.#zeroRuns = sparse && new ZeroRuns();
    this.#operation = new FdOperation(operation, inFlight, {
      start: (done) => this.#start(done),
      callSync: () => this.#callSync(),
      advance: (written) => this.#advance(written),
      fail: (error) => this.#operation.latch(systemFailure(error)),
      result: () => this.#total,
      release: () => {
        this.#rest = [];
      },
    });
  }

  /** True while a batch has not settled. */
  get isPending(): boolean {
    return this.#operation.isPending;
  }

  /**
   * Write a whole batch.
   *
   * @param buffers - Bytes in order. The caller must not change them until the write settles.
   * @param position - Offset of the first byte in the stream, for the error message.
   * @returns The number of bytes in the batch; synchronously in blocking mode.
   */
  writev(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    this.#operation.begin(position);
    const total = totalLength(buffers);
    if (total === 0) return 0;
    this.#rest = buffers;
    this.#total = total;
    this.#done = 0;
    this.#emptyWrites = 0;
    if (!this.#findRuns()) {
      this.#rest = [];
      return total;
    }
    return this.isBlocking ? this.#operation.runSync() : this.#operation.run();
  }

  /**
   * Fail later batches, and the pending one as `FdOperation.stop` does.
   *
   * @param failure - The error that they fail with.
   * @param atOnce - Fail the pending batch even while its call is running.
   */
  stop(failure: Failure, atOnce = false): void {
    this.#operation.stop(failure, atOnce);
  }

  #start(done: CallDone): void {
    fs.writev(this.#fd, this.#currentRun(), this.offset, done);
  }

  #callSync(): number {
    return fs.writevSync(this.#fd, this.#currentRun(), this.offset ?? undefined);
  }

  #advance(written: number): Progress {
    if (written === 0) {
      this.#emptyWrites += 1;
      if (this.#emptyWrites >= MAX_EMPTY_WRITES) this.#operation.latch(NOTHING_WRITTEN);
      return 'retry';
    }
    this.#emptyWrites = 0;
    this.#runLeft -= written;
    this.#advanceBy(written);
    if (this.#runLeft > 0) return 'more';
    return this.#nextRun() ? 'more' : 'done';
  }

  /** Find the first run of data in a batch. @returns False if the batch has none. */
  #findRuns(): boolean {
    this.#run = 0;
    if (this.#zeroRuns === undefined || this.#sparse === undefined) {
      this.#runLeft = this.#total;
      return true;
    }
    this.#zeroRuns.scan(this.#rest, this.offset ?? 0, this.#sparse.end);
    this.#runLeft = this.#zeroRuns.lengths[0] ?? 0;
    return this.#runLeft > 0 || this.#nextRun();
  }

  /** Move over a run of zeros to the next run of data. @returns False if no more data follows. */
  #nextRun(): boolean {
    const lengths = this.#zeroRuns?.lengths ?? [];
    this.#advanceBy(lengths[this.#run + 1] ?? 0);
    this.#run += 2;
    this.#runLeft = lengths[this.#run] ?? 0;
    return this.#runLeft > 0;
  }

  #currentRun(): readonly Uint8Array[] {
    const isLast = this.#runLeft === this.#total - this.#done;
    return isLast ? this.#rest : takeFirst(this.#rest, this.#runLeft);
  }

  #advanceBy(bytes: number): void {
    this.#done += bytes;
    this.#operation.position += bytes;
    if (this.offset !== null) this.offset += bytes;
    if (this.#sparse !== undefined) this.#sparse.end = Math.max(this.#sparse.end, this.offset ?? 0);
    if (this.#done < this.#total) this.#rest = dropFirst(this.#rest, bytes);
  }
}

/** Return the first `bytes` bytes of a list of buffers. Copies no bytes. */
function takeFirst(buffers: readonly Uint8Array[], bytes: number): Uint8Array[] {
  const first: Uint8Array[] = [];
  let left = bytes;
  for (const buffer of buffers) {
    if (left === 0) break;
    const part = buffer.length <= left ? buffer : buffer.subarray(0, left);
    first.push(part);
    left -= part.length;
  }
  return first;
}

/** Return a list of buffers without its first `bytes` bytes. Copies no bytes. */
function dropFirst(buffers: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let skip = bytes;
  let first = 0;
  while (first < buffers.length && skip >= (buffers[first]?.length ?? 0)) {
    skip -= buffers[first]?.length ?? 0;
    first += 1;
  }
  const rest = buffers.slice(first);
  if (skip > 0 && rest[0] !== undefined) rest[0] = rest[0].subarray(skip);
  return rest;
}

import fs from 'node:fs';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import type { Failure } from '../stream/stream-failure.ts';
import type { CallsInFlight } from './calls-in-flight.ts';
import { type CallDone, FdOperation, type Progress, systemFailure } from './fd-operation.ts';

const EMPTY = new Uint8Array(0);

/** Reads from a descriptor, one read at a time. */
export class FdReader {
  /** File offset of the next byte; `null` uses the descriptor's own offset. */
  offset: number | null;
  /** True to read on the calling thread, which blocks until bytes arrive. */
  isBlocking = false;

  readonly #fd: number;
  readonly #operation: FdOperation;
  #buffer: Uint8Array = EMPTY;
  #length = 0;
  /** Whether the call waits for the next turn of the event loop, and not for the thread pool. */
  #isNextTurn = false;

  /**
   * @param fd - An open descriptor.
   * @param inFlight - Counts the calls on it.
   * @param offset - File offset of the first byte; `null` uses the descriptor's own offset.
   * @param operation - Public name of the operation that errors name. Default `getBuffer`.
   */
  constructor(fd: number, inFlight: CallsInFlight, offset: number | null, operation = 'getBuffer') {
    this.#fd = fd;
    this.offset = offset;
    this.#operation = new FdOperation(operation, inFlight, {
      start: (done) => this.#start(done),
      callSync: () => this.#callSync(),
      advance: (length) => this.#advance(length),
      fail: systemFailure,
      result: () => this.#length,
      release: () => {
        this.#buffer = EMPTY;
      },
    });
  }

  /** True while a read has not settled. */
  get isPending(): boolean {
    return this.#operation.isPending;
  }

  /**
   * Read once.
   *
   * @param buffer - Receives the bytes, from its start. The caller must not touch it until the read settles.
   * @param position - Offset of the first byte in the stream, for the error message.
   * @returns The number of bytes read, 0 at the end of the file; synchronously in blocking mode.
   */
  read(buffer: Uint8Array, position: number): MaybePromise<number> {
    return this.isBlocking
      ? this.readNow(buffer, position)
      : this.#readLater(buffer, position, false);
  }

  /** Like `read`, but on the calling thread, in the next turn of the event loop. */
  readNextTurn(buffer: Uint8Array, position: number): MaybePromise<number> {
    return this.#readLater(buffer, position, true);
  }

  /** Like `read`, but on the calling thread in any mode. */
  readNow(buffer: Uint8Array, position: number): number {
    this.#operation.begin(position);
    if (buffer.length === 0) return 0;
    this.#buffer = buffer;
    return this.#operation.runSync();
  }

  /**
   * Fail later reads, and the pending one as `FdOperation.stop` does.
   *
   * @param failure - What they fail with.
   * @param atOnce - Fail the pending read even while its call is running.
   */
  stop(failure: Failure, atOnce = false): void {
    this.#operation.stop(failure, atOnce);
  }

  #readLater(buffer: Uint8Array, position: number, isNextTurn: boolean): MaybePromise<number> {
    this.#operation.begin(position);
    if (buffer.length === 0) return 0;
    this.#buffer = buffer;
    this.#isNextTurn = isNextTurn;
    return this.#operation.run();
  }

  #start(done: CallDone): void {
    if (this.#isNextTurn) setImmediate(this.#callInTurn, done);
    else fs.read(this.#fd, this.#buffer, 0, this.#buffer.length, this.offset, done);
  }

  readonly #callInTurn = (done: CallDone): void => {
    let length: number;
    try {
      length = this.#callSync();
    } catch (error) {
      done(error, 0);
      return;
    }
    done(undefined, length);
  };

  #callSync(): number {
    return fs.readSync(this.#fd, this.#buffer, 0, this.#buffer.length, this.offset);
  }

  #advance(length: number): Progress {
    this.#length = length;
    if (this.offset !== null) this.offset += length;
    return 'done';
  }
}

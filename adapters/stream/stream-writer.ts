import type { Writable } from 'node:stream';
import type { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { DirectWrite } from './direct-write.ts';
import { PendingCall } from './pending-call.ts';
import { type Failure, failure, failureOf, gone } from './stream-failure.ts';

/** Bytes written directly in one turn of the event loop: as many as are read in one. */
const MAX_TURN_BYTES = 2 * 1024 * 1024;

/**
 * `writevBuffer` over a Node `Writable`. A batch is corked into one `_writev`, after what `DirectWrite` could
 * write of it; its write is done when the stream has called back for its last buffer. Must be ended with `close()`.
 */
export class StreamWriter {
  readonly #stream: Writable;
  readonly #direct: DirectWrite;
  readonly #call = new PendingCall<number>();
  /** Bytes that may still be written directly in this turn of the event loop. */
  #turnBytes = MAX_TURN_BYTES;
  #bytesWritten = 0;
  /** Bytes of the pending batch. */
  #batchBytes = 0;
  #isClosed = false;
  /** Whether the stream still works on a batch, even one whose call has failed. */
  #isInFlight = false;

  /** @param stream - A stream of bytes that no other code writes to. */
  constructor(stream: Writable) {
    this.#stream = stream;
    this.#direct = new DirectWrite(stream);
    stream.on('error', this.#onError);
    stream.on('close', this.#onClose);
    if (stream.errored) this.#onError(stream.errored);
    else if (stream.destroyed || stream.writableEnded) this.#call.fail(gone());
  }

  /** True while a batch or the end is pending. */
  get pending(): boolean {
    return this.#call.isPending;
  }

  /** Bytes of the batches that the stream has taken whole. */
  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  /**
   * Write a batch, as `writevBuffer` does.
   *
   * @param buffers - Bytes in order; they must not change until the batch is written.
   * @param position - Position of the first byte in the stream, for the error message.
   * @returns Number of bytes.
   * @throws {QemuFileError} The stream's own error; `EPIPE` when it is closed or ended; `ECANCELED` after
   *   `close()`; `EBUSY` while an earlier batch is pending.
   */
  writev(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    let total = 0;
    for (const buffer of buffers) total += buffer.length;
    this.#call.check('writevBuffer', position);
    if (total === 0) return 0;
    const isFree = !this.#call.isPending && !this.#isInFlight;
    const done = isFree ? this.#writeDirectly(buffers, position) : 0;
    if (done === total && this.#turnBytes > 0) {
      this.#bytesWritten += total;
      return total;
    }
    return this.#begin('writevBuffer', total, position, () => {
      if (done === total) setImmediate(this.#onWritten);
      else this.#writeRest(buffers, done);
    });
  }

  /**
   * End the stream and wait until it has finished: how a transport half-closes.
   *
   * @param lower - The stream to end instead: the one that this stream alone writes to.
   * @throws {QemuFileError} As `writev`; nothing when the stream has finished already.
   */
  async end(lower: Writable = this.#stream): Promise<void> {
    if (this.#stream.writableFinished) return;
    await this.#begin('close', 0, undefined, () => lower.end(this.#onWritten));
    this.#call.latch(gone());
  }

  /**
   * Stop listening. The pending batch and all later ones fail. The stream itself stays as it is; while it
   * still works on a batch, its errors stay handled.
   *
   * @param error - Their error. Default: `ECANCELED`.
   */
  close(error?: QemuFileError): void {
    this.#isClosed = true;
    this.#call.fail(
      error === undefined ? failure('ECANCELED', 'writing was shut down') : () => error,
    );
    if (!this.#isInFlight) this.#detach();
  }

  /** Return the number of bytes that were written at once. */
  #writeDirectly(buffers: readonly Uint8Array[], position: number): number {
    try {
      const bytes = this.#direct.write(buffers);
      this.#turnBytes -= bytes;
      return bytes;
    } catch (error) {
      const why = failureOf(error, gone);
      this.#call.latch(why);
      throw why('writevBuffer', position);
    }
  }

  /** Have the stream write what follows the first `done` bytes, and call back after the last of them. */
  #writeRest(buffers: readonly Uint8Array[], done: number): void {
    let last = buffers.length - 1;
    while (buffers[last]?.length === 0) last -= 1;
    let skip = done;
    this.#stream.cork();
    try {
      for (let i = 0; i <= last; i++) {
        const buffer = buffers[i] as Uint8Array;
        if (skip > 0 && skip >= buffer.length) {
          skip -= buffer.length;
          continue;
        }
        if (buffer.length === 0) continue;
        const rest = skip > 0 ? buffer.subarray(skip) : buffer;
        skip = 0;
        if (i === last) this.#stream.write(rest, this.#onWritten);
        else this.#stream.write(rest);
      }
    } finally {
      this.#stream.uncork();
    }
  }

  #begin(
    operation: string,
    total: number,
    position: number | undefined,
    start: () => void,
  ): Promise<number> {
    this.#call.check(operation, position);
    const answer = this.#call.begin(operation, position ?? this.#bytesWritten);
    this.#batchBytes = total;
    this.#isInFlight = true;
    try {
      start();
    } catch (error) {
      this.#fail(failureOf(error, gone));
    }
    return answer;
  }

  readonly #onWritten = (error?: unknown): void => {
    if (error !== undefined && error !== null) {
      // A stream that was destroyed with an error calls back with ERR_STREAM_DESTROYED instead. It is still
      // in flight: it has yet to emit the same error, which must find a listener.
      this.#call.fail(failureOf(this.#stream.errored ?? error, gone));
      return;
    }
    this.#turnBytes = MAX_TURN_BYTES;
    this.#bytesWritten += this.#batchBytes;
    this.#call.resolve(this.#batchBytes);
    this.#settle();
  };

  readonly #onError = (error: Error): void => this.#fail(failureOf(error, gone));

  readonly #onClose = (): void => this.#fail(gone());

  #fail(why: Failure): void {
    this.#call.fail(why);
    this.#settle();
  }

  #settle(): void {
    this.#isInFlight = false;
    if (this.#isClosed) this.#detach();
  }

  #detach(): void {
    this.#stream.off('error', this.#onError);
    this.#stream.off('close', this.#onClose);
  }
}

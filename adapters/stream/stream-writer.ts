import type { Writable } from 'node:stream';
import type { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { PendingCall } from './pending-call.ts';
import { type Failure, failure, failureOf, gone } from './stream-failure.ts';

/**
 * `writevBuffer` over a Node `Writable`. A batch is corked into one `_writev`; its write is done when the
 * stream has called back for its last buffer. Must be ended with `close()`.
 */
export class StreamWriter {
  readonly #stream: Writable;
  readonly #call = new PendingCall<number>();
  #bytesWritten = 0;
  /** Bytes of the pending batch. */
  #batchBytes = 0;
  #isClosed = false;
  /** Whether the stream still works on a batch, even one whose call has failed. */
  #isInFlight = false;

  /** @param stream - A stream of bytes that no other code writes to. */
  constructor(stream: Writable) {
    this.#stream = stream;
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
    let last = -1;
    for (let i = 0; i < buffers.length; i++) {
      const length = buffers[i]?.length ?? 0;
      total += length;
      if (length > 0) last = i;
    }
    if (total === 0) {
      this.#call.check('writevBuffer', position);
      return 0;
    }
    return this.#begin('writevBuffer', total, position, () => {
      this.#stream.cork();
      try {
        for (let i = 0; i < last; i++) {
          const buffer = buffers[i];
          if (buffer !== undefined && buffer.length > 0) this.#stream.write(buffer);
        }
        this.#stream.write(buffers[last], this.#onWritten);
      } finally {
        this.#stream.uncork();
      }
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

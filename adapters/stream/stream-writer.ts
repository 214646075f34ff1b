import type { Writable } from 'node:stream';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { type Failure, failure, failureOf, gone } from './stream-failure.ts';

/**
 * `writevBuffer` over a Node `Writable`: a batch is corked into one `_writev`, and answered when the
 * stream has called back for its last buffer. Must be ended with `close()`.
 */
export class StreamWriter {
  readonly #stream: Writable;
  #written = 0;
  #failure: Failure | undefined;
  #closed = false;
  #inFlight = false;
  #total = 0;
  #position = 0;
  #operation = 'writevBuffer';
  #resolve: ((total: number) => void) | undefined;
  #reject: ((error: QemuFileError) => void) | undefined;

  /** @param stream - A stream of bytes that nobody else writes to. */
  constructor(stream: Writable) {
    this.#stream = stream;
    stream.on('error', this.#onError);
    stream.on('close', this.#onClose);
    if (stream.errored) this.#onError(stream.errored);
    else if (stream.destroyed || stream.writableEnded) this.#fail(gone());
  }

  /** True while a batch or the end has not been answered. */
  get pending(): boolean {
    return this.#resolve !== undefined;
  }

  /** Bytes of the batches that the stream took whole. */
  get bytesWritten(): number {
    return this.#written;
  }

  /**
   * Writes a batch, as `writevBuffer` does.
   *
   * @param buffers - Bytes in order; not to be changed before the answer.
   * @param position - Offset of the first byte in the stream, for the error message.
   * @returns Their number of bytes.
   * @throws {QemuFileError} The stream's own error; `EPIPE` when it is closed or ended; `ECANCELED`
   *   after `close()`; `EBUSY` while an earlier batch is not answered.
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
      if (this.#failure !== undefined) throw this.#failure('writevBuffer', position);
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
   * Ends the stream and waits until it has finished: how a transport half-closes.
   *
   * @param lower - What is ended in place of the stream: what that writes to, and nobody else.
   * @throws {QemuFileError} As `writev`; nothing when the stream has finished already.
   */
  async end(lower: Writable = this.#stream): Promise<void> {
    if (this.#stream.writableFinished) return;
    await this.#begin('close', 0, undefined, () => lower.end(this.#onWritten));
    this.#failure ??= gone();
  }

  /**
   * Stops listening; a batch that waits and all later ones fail. The stream itself is left to its
   * owner. While the stream still works on a batch its errors stay handled.
   *
   * @param error - What they fail with. Default: `ECANCELED`.
   */
  close(error?: QemuFileError): void {
    this.#closed = true;
    this.#fail(error === undefined ? failure('ECANCELED', 'writing was shut down') : () => error);
    if (!this.#inFlight) this.#detach();
  }

  #begin(
    operation: string,
    total: number,
    position: number | undefined,
    start: () => void,
  ): Promise<number> {
    if (this.#failure !== undefined) throw this.#failure(operation, position);
    if (this.#resolve !== undefined) {
      throw new QemuFileError('EBUSY', 'an earlier batch is not written yet', {
        operation,
        position,
      });
    }
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#total = total;
      this.#position = position ?? this.#written;
      this.#operation = operation;
      this.#inFlight = true;
      try {
        start();
      } catch (error) {
        this.#fail(failureOf(error, gone));
        this.#settle();
      }
    });
  }

  readonly #onWritten = (error?: unknown): void => {
    if (error !== undefined && error !== null) {
      // A stream that was destroyed with an error tells its callbacks only that it was destroyed.
      this.#fail(failureOf(this.#stream.errored ?? error, gone));
      // Not settled: the stream has yet to report the same as an event, which must find a listener.
      return;
    }
    const resolve = this.#resolve;
    this.#forget();
    this.#written += this.#total;
    resolve?.(this.#total);
    this.#settle();
  };

  readonly #onError = (error: Error): void => {
    this.#fail(failureOf(error, gone));
    this.#settle();
  };

  readonly #onClose = (): void => {
    this.#fail(gone());
    this.#settle();
  };

  #settle(): void {
    this.#inFlight = false;
    if (this.#closed) this.#detach();
  }

  #fail(why: Failure): void {
    this.#failure ??= why;
    const reject = this.#reject;
    this.#forget();
    reject?.(this.#failure(this.#operation, this.#position));
  }

  #forget(): void {
    this.#resolve = undefined;
    this.#reject = undefined;
  }

  #detach(): void {
    this.#stream.off('error', this.#onError);
    this.#stream.off('close', this.#onClose);
  }
}

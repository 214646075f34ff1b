import type { Readable } from 'node:stream';
import { QemuFileError } from '../lib/errors.ts';
import type { Answer } from '../lib/ops.ts';
import { keepHeap } from './keep-heap.ts';
import { type Failure, failure, failureOf } from './stream-failure.ts';

/** Bytes that a `StreamReader` holds before it pauses its stream: with less it stops and starts all the time (bench/read-pages.ts). */
const READ_AHEAD = 256 * 1024;

const END = new Uint8Array(0);

/**
 * `getBuffer` over a Node `Readable`: takes its chunks as they come, hands each over uncopied, and
 * pauses the stream while enough of them wait. Chunks that arrived before a failure are given first.
 * It listens from its making on, and must be ended with `close()` or `release()`.
 */
export class StreamReader {
  readonly #stream: Readable;
  readonly #closeCode: string;
  readonly #chunks: Uint8Array[] = [];
  #queued = 0;
  #ended = false;
  #failure: Failure | undefined;
  #listening = true;
  #resolve: ((chunk: Uint8Array) => void) | undefined;
  #reject: ((error: QemuFileError) => void) | undefined;
  #position = 0;

  /**
   * @param stream - A stream of bytes that nobody else reads.
   * @param closeCode - Errno name for a stream that closes without its end. Default `ECONNRESET`.
   */
  constructor(stream: Readable, closeCode = 'ECONNRESET') {
    this.#stream = stream;
    this.#closeCode = closeCode;
    keepHeap();
    // Paused first, else adding a 'data' listener sets the stream flowing before anybody asks.
    stream.pause();
    stream.on('data', this.#onData);
    stream.on('end', this.#onEnd);
    stream.on('error', this.#onError);
    stream.on('close', this.#onClose);
    if (stream.readableEnded) this.#ended = true;
    else if (stream.errored) this.#onError(stream.errored);
    else if (stream.destroyed) this.#onClose();
  }

  /** True when the stream has ended in order and every chunk has been given. */
  get ended(): boolean {
    return this.#ended && this.#chunks.length === 0;
  }

  /**
   * Gives the next chunk, as `getBuffer` does: at once where one waits, an empty one at the end.
   *
   * @param position - Offset of that chunk in the stream, for the error message.
   * @throws {QemuFileError} The stream's own error; `ECONNRESET` (or the code given to the
   *   constructor) when it closed without an end; `ECANCELED` after `close()`; `EBUSY` while an
   *   earlier read waits.
   */
  read(position: number): Answer<Uint8Array> {
    const chunk = this.#chunks.shift();
    if (chunk !== undefined) {
      this.#queued -= chunk.length;
      if (this.#queued < READ_AHEAD) this.#flow();
      return chunk;
    }
    if (this.#failure !== undefined) throw this.#failure('getBuffer', position);
    if (this.#ended) return END;
    if (this.#resolve !== undefined) {
      throw new QemuFileError('EBUSY', 'another read waits already', {
        operation: 'getBuffer',
        position,
      });
    }
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#position = position;
      this.#flow();
    });
  }

  /**
   * Wakes a waiting read with an error; no byte is lost, and later reads go on.
   *
   * @param error - What it fails with.
   */
  cancel(error: QemuFileError): void {
    const reject = this.#reject;
    this.#forget();
    reject?.(error);
  }

  /**
   * Fails reads from now on, after the chunks that have come.
   *
   * @param why - What they fail with.
   */
  fail(why: Failure): void {
    this.#failure ??= why;
    const reject = this.#reject;
    this.#forget();
    reject?.(this.#failure('getBuffer', this.#position));
  }

  /**
   * Stops listening and drops what was read ahead; a waiting read and all later ones fail. The stream
   * itself is left to its owner.
   *
   * @param error - What they fail with. Default: `ECANCELED`.
   */
  close(error?: QemuFileError): void {
    this.#detach();
    this.#chunks.length = 0;
    this.#queued = 0;
    this.#ended = false;
    this.fail(error === undefined ? failure('ECANCELED', 'reading was shut down') : () => error);
  }

  /** Like `close()`, but puts what was read ahead back into the stream, for whoever reads it next. */
  release(): void {
    this.#detach();
    this.#stream.pause();
    if (!this.#stream.destroyed && !this.#stream.readableEnded) {
      for (const chunk of this.#chunks.reverse()) this.#stream.unshift(chunk);
    }
    this.close();
  }

  readonly #onData = (chunk: unknown): void => {
    if (!(chunk instanceof Uint8Array)) {
      this.fail(failure('EINVAL', 'the stream gives something other than bytes (setEncoding?)'));
      return;
    }
    if (chunk.length === 0) return;
    const resolve = this.#resolve;
    if (resolve !== undefined) {
      this.#forget();
      resolve(chunk);
      return;
    }
    this.#chunks.push(chunk);
    this.#queued += chunk.length;
    if (this.#queued >= READ_AHEAD) this.#stream.pause();
  };

  readonly #onEnd = (): void => {
    this.#ended = true;
    const resolve = this.#resolve;
    this.#forget();
    resolve?.(END);
  };

  readonly #onError = (error: Error): void => {
    if (!this.#ended) this.fail(failureOf(error, this.#lost));
  };

  readonly #onClose = (): void => {
    if (!this.#ended) this.fail(this.#lost());
  };

  readonly #lost = (cause?: unknown): Failure =>
    failure(this.#closeCode, 'the stream closed before its end', cause);

  #forget(): void {
    this.#resolve = undefined;
    this.#reject = undefined;
  }

  #flow(): void {
    if (this.#listening && this.#stream.isPaused()) this.#stream.resume();
  }

  #detach(): void {
    this.#listening = false;
    this.#stream.off('data', this.#onData);
    this.#stream.off('end', this.#onEnd);
    this.#stream.off('error', this.#onError);
    this.#stream.off('close', this.#onClose);
  }
}

import type { Readable } from 'node:stream';
import type { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { Fifo } from '../../lib/util/fifo.ts';
import { DirectRead } from './direct-read.ts';
import { raiseMallocTrimThreshold } from './malloc-trim.ts';
import { PendingCall } from './pending-call.ts';
import { type Failure, failure, failureOf } from './stream-failure.ts';

/** Bytes held before the stream is paused. With less, it stops and starts all the time (bench/read-pages.ts). */
const READ_AHEAD_BYTES = 256 * 1024;

/** Bytes read directly in one turn of the event loop: as many as libuv reads in one. */
const MAX_TURN_BYTES = 2 * 1024 * 1024;

const END = new Uint8Array(0);

/**
 * `getBuffer` over a Node `Readable`. Returns the stream's chunks uncopied, and pauses the stream while
 * enough of them wait. Where `DirectRead` is available, the stream stays paused after its first chunks.
 * Chunks that arrived before a failure are returned before it.
 *
 * It listens to the stream from the beginning, until `close()` or `release()`.
 */
export class StreamReader {
  readonly #stream: Readable;
  readonly #closeCode: string;
  readonly #direct: DirectRead;
  readonly #chunks = new Fifo<Uint8Array>();
  readonly #call = new PendingCall<number | Uint8Array>();
  #queuedBytes = 0;
  /** Bytes that may still be read directly in this turn of the event loop. */
  #turnBytes = MAX_TURN_BYTES;
  #hasEnded = false;
  #isListening = true;
  /** Position of the pending read. */
  #position = 0;
  /** Space of the pending read. */
  #space: Uint8Array | undefined;

  /**
   * @param stream - A stream of bytes that no other code reads.
   * @param closeCode - Errno name for a stream that closes without its end. Default `ECONNRESET`.
   */
  constructor(stream: Readable, closeCode = 'ECONNRESET') {
    this.#stream = stream;
    this.#closeCode = closeCode;
    this.#direct = new DirectRead(stream);
    raiseMallocTrimThreshold();
    // Adding a 'data' listener would set a stream flowing that was not paused explicitly.
    stream.pause();
    stream.on('data', this.#onData);
    stream.on('end', this.#onEnd);
    stream.on('error', this.#onError);
    stream.on('close', this.#onClose);
    if (stream.readableEnded) this.#hasEnded = true;
    else if (stream.errored) this.#onError(stream.errored);
    else if (stream.destroyed) this.#onClose();
  }

  /** True when the stream has ended in order and every chunk has been returned. */
  get ended(): boolean {
    return this.#hasEnded && this.#chunks.length === 0;
  }

  /**
   * Return the next chunk, as `getBuffer` does: synchronously where one waits, an empty one at the end.
   *
   * @param position - Position of that chunk in the stream, for the error message.
   * @param space - Where bytes may be put instead; then the result is their number.
   * @throws {QemuFileError} The stream's own error; `ECONNRESET` (or the code given to the constructor) when
   *   it closed without an end; `ECANCELED` after `close()`; `EBUSY` while an earlier read is pending.
   */
  read(position: number): MaybePromise<Uint8Array>;
  read(position: number, space: Uint8Array): MaybePromise<number | Uint8Array>;
  read(position: number, space?: Uint8Array): MaybePromise<number | Uint8Array> {
    const chunk = this.#chunks.shift();
    if (chunk !== undefined) {
      this.#queuedBytes -= chunk.length;
      if (this.#queuedBytes < READ_AHEAD_BYTES && !this.#direct.isAvailable) this.#resume();
      return chunk;
    }
    this.#call.check('getBuffer', position);
    if (this.#hasEnded) return END;
    const isTurnOver = this.#turnBytes <= 0;
    if (space !== undefined && !isTurnOver && !this.#call.isPending) {
      const bytes = this.#readDirectly(space, position);
      if (bytes > 0) return bytes;
    }
    const answer = this.#call.begin('getBuffer', position);
    this.#position = position;
    this.#space = space;
    if (space !== undefined && isTurnOver) setImmediate(this.#onNextTurn, this.#call.count);
    else this.#wait();
    return answer;
  }

  /** Fail a pending read. No byte is lost, and later reads go on. */
  cancel(error: QemuFileError): void {
    this.#call.reject(error);
  }

  /** Report the end after the chunks that have arrived; later errors of the stream are ignored. */
  end(): void {
    this.#hasEnded = true;
    this.#resolve(END);
  }

  /** Fail all reads from now on, after the chunks that have arrived. */
  fail(why: Failure): void {
    this.#call.fail(why);
  }

  /**
   * Stop listening and drop what was read ahead. The pending read and all later ones fail. The stream itself
   * stays as it is.
   *
   * @param error - Their error. Default: `ECANCELED`.
   */
  close(error?: QemuFileError): void {
    this.#detach();
    this.#chunks.clear();
    this.#queuedBytes = 0;
    this.#hasEnded = false;
    this.fail(error === undefined ? failure('ECANCELED', 'reading was shut down') : () => error);
  }

  /** Like `close()`, but put what was read ahead back into the stream, for its next reader. */
  release(): void {
    this.#detach();
    this.#stream.pause();
    const chunks = this.#chunks.takeAll();
    if (!this.#stream.destroyed && !this.#stream.readableEnded) {
      for (const chunk of chunks.reverse()) this.#stream.unshift(chunk);
    }
    this.close();
  }

  #readDirectly(space: Uint8Array, position: number): number {
    if (!this.#isListening) return 0;
    try {
      const bytes = this.#direct.read(space);
      this.#turnBytes -= bytes;
      return bytes;
    } catch (error) {
      const why = failureOf(error, this.#lost);
      this.#call.latch(why);
      throw why('getBuffer', position);
    }
  }

  /** Read directly for the pending read, after other code had its turn of the event loop. */
  readonly #onNextTurn = (call: number): void => {
    this.#turnBytes = MAX_TURN_BYTES;
    if (!this.#call.isPending || this.#call.count !== call) return;
    if (!this.#answerDirectly()) this.#wait();
  };

  /** The kernel has bytes, the end or an error. */
  readonly #onReadable = (): void => {
    this.#turnBytes = MAX_TURN_BYTES;
    if (!this.#call.isPending) this.#direct.stopWaiting();
    else if (!this.#answerDirectly()) this.#resume();
  };

  /** Read directly for the pending read; return whether it is pending no more. */
  #answerDirectly(): boolean {
    try {
      const bytes = this.#readDirectly(this.#space as Uint8Array, this.#position);
      if (bytes > 0) this.#resolve(bytes);
      return bytes > 0;
    } catch (error) {
      this.#call.reject(error as QemuFileError);
      return true;
    }
  }

  readonly #onData = (chunk: unknown): void => {
    if (!(chunk instanceof Uint8Array)) {
      this.fail(
        failure('EINVAL', 'the stream emits text instead of bytes: do not call setEncoding'),
      );
      return;
    }
    if (chunk.length === 0) return;
    this.#direct.arrived(chunk.length);
    this.#turnBytes = MAX_TURN_BYTES;
    if (this.#call.isPending) {
      this.#resolve(chunk);
      return;
    }
    this.#chunks.push(chunk);
    this.#queuedBytes += chunk.length;
    if (this.#queuedBytes >= READ_AHEAD_BYTES || this.#direct.isAvailable) this.#stream.pause();
  };

  readonly #onEnd = (): void => this.end();

  readonly #onError = (error: Error): void => {
    if (!this.#hasEnded) this.fail(failureOf(error, this.#lost));
  };

  readonly #onClose = (): void => {
    if (!this.#hasEnded) this.fail(this.#lost());
  };

  readonly #lost = (cause?: unknown): Failure =>
    failure(this.#closeCode, 'the stream closed before its end', cause);

  #resolve(answer: number | Uint8Array): void {
    this.#space = undefined;
    this.#call.resolve(answer);
  }

  /** Wait for bytes, the end or an error. */
  #wait(): void {
    if (this.#space === undefined || !this.#direct.wait(this.#onReadable)) this.#resume();
  }

  /** Have the stream read. */
  #resume(): void {
    this.#direct.giveBack();
    if (this.#isListening && this.#stream.isPaused()) this.#stream.resume();
  }

  #detach(): void {
    this.#isListening = false;
    this.#direct.giveBack();
    this.#stream.off('data', this.#onData);
    this.#stream.off('end', this.#onEnd);
    this.#stream.off('error', this.#onError);
    this.#stream.off('close', this.#onClose);
  }
}

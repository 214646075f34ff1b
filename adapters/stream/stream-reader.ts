import type { Readable } from 'node:stream';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { DirectRead } from './direct-read.ts';
import { raiseMallocTrimThreshold } from './malloc-trim.ts';
import { releaseChunk } from './release-chunk.ts';
import { type Failure, failure, failureOf } from './stream-failure.ts';

/** Bytes that a `StreamReader` holds before it pauses its stream: with less it stops and starts all the time (bench/read-pages.ts). */
const READ_AHEAD = 256 * 1024;

/** Room from which on chunks are copied, to lie together with what is read behind them. */
const MIN_TOGETHER = 128 * 1024;

/** Bytes that may be read at once between two turns of the event loop, as many as libuv reads in one. */
const MAX_PER_TURN = 2 * 1024 * 1024;

const END = new Uint8Array(0);

/**
 * `getBuffer` over a Node `Readable`: takes its chunks as they come, hands each over uncopied, and
 * pauses the stream while enough of them wait. Behind them it reads a socket itself where that is
 * possible, which then stays paused. Chunks that arrived before a failure are given first.
 * It listens from its making on, and must be ended with `close()` or `release()`.
 */
export class StreamReader {
  readonly #stream: Readable;
  readonly #closeCode: string;
  readonly #atOnce: DirectRead;
  readonly #chunks: Uint8Array[] = [];
  #queued = 0;
  /** Bytes that may still be read at once in this turn of the event loop. */
  #leftAtOnce = MAX_PER_TURN;
  #ended = false;
  #failure: Failure | undefined;
  #listening = true;
  #resolve: ((answer: number | Uint8Array) => void) | undefined;
  #reject: ((error: QemuFileError) => void) | undefined;
  #position = 0;
  /** Where the read that waits may have its bytes put. */
  #space: Uint8Array | undefined;

  /**
   * @param stream - A stream of bytes that nobody else reads.
   * @param closeCode - Errno name for a stream that closes without its end. Default `ECONNRESET`.
   */
  constructor(stream: Readable, closeCode = 'ECONNRESET') {
    this.#stream = stream;
    this.#closeCode = closeCode;
    this.#atOnce = new DirectRead(stream);
    raiseMallocTrimThreshold();
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
   * @param space - Where bytes may be put instead; then their number is given.
   * @throws {QemuFileError} The stream's own error; `ECONNRESET` (or the code given to the
   *   constructor) when it closed without an end; `ECANCELED` after `close()`; `EBUSY` while an
   *   earlier read waits.
   */
  read(position: number): MaybePromise<Uint8Array>;
  read(position: number, space: Uint8Array): MaybePromise<number | Uint8Array>;
  read(position: number, space?: Uint8Array): MaybePromise<number | Uint8Array> {
    const chunk = this.#chunks.shift();
    if (chunk !== undefined) {
      this.#queued -= chunk.length;
      if (this.#queued < READ_AHEAD && this.#atOnce.fd < 0) this.#flow();
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
    const isTurnOver = this.#leftAtOnce <= 0;
    const bytes = space === undefined || isTurnOver ? 0 : this.#readAtOnce(space, position);
    if (bytes > 0) return bytes;
    return new Promise<number | Uint8Array>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#position = position;
      this.#space = space;
      if (space !== undefined && isTurnOver) setImmediate(this.#readLater, space, resolve);
      else this.#flow();
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

  #readAtOnce(space: Uint8Array, position: number): number {
    if (!this.#listening) return 0;
    try {
      const bytes = this.#atOnce.read(space);
      this.#leftAtOnce -= bytes;
      return bytes;
    } catch (error) {
      this.#failure ??= failureOf(error, this.#lost);
      throw this.#failure('getBuffer', position);
    }
  }

  /** Puts a chunk, and what lies behind it, together where there is room for both: one chunk less to deal with. */
  #withTheRest(chunk: Uint8Array): number | Uint8Array {
    const space = this.#space;
    if (space === undefined || space.length < MIN_TOGETHER || this.#atOnce.fd < 0) return chunk;
    space.set(chunk);
    let bytes = chunk.length;
    try {
      bytes += this.#readAtOnce(space.subarray(bytes), this.#position);
    } catch {
      // The next read fails with it.
    }
    releaseChunk(chunk, this.#stream);
    return bytes;
  }

  /** Goes on reading at once, for a read that waits, after others had their turn of the event loop. */
  readonly #readLater = (space: Uint8Array, resolve: unknown): void => {
    this.#leftAtOnce = MAX_PER_TURN;
    if (this.#resolve !== resolve) return;
    try {
      const bytes = this.#readAtOnce(space, this.#position);
      if (bytes > 0) this.#give(bytes);
      else this.#flow();
    } catch (error) {
      const reject = this.#reject;
      this.#forget();
      reject?.(error as QemuFileError);
    }
  };

  readonly #onData = (chunk: unknown): void => {
    if (!(chunk instanceof Uint8Array)) {
      this.fail(failure('EINVAL', 'the stream gives something other than bytes (setEncoding?)'));
      return;
    }
    if (chunk.length === 0) return;
    this.#atOnce.arrived(chunk.length);
    this.#leftAtOnce = MAX_PER_TURN;
    if (this.#resolve !== undefined) {
      this.#give(this.#withTheRest(chunk));
      return;
    }
    this.#chunks.push(chunk);
    this.#queued += chunk.length;
    if (this.#queued >= READ_AHEAD || this.#atOnce.fd >= 0) this.#stream.pause();
  };

  readonly #onEnd = (): void => {
    this.#ended = true;
    this.#give(END);
  };

  readonly #onError = (error: Error): void => {
    if (!this.#ended) this.fail(failureOf(error, this.#lost));
  };

  readonly #onClose = (): void => {
    if (!this.#ended) this.fail(this.#lost());
  };

  readonly #lost = (cause?: unknown): Failure =>
    failure(this.#closeCode, 'the stream closed before its end', cause);

  #give(answer: number | Uint8Array): void {
    const resolve = this.#resolve;
    this.#forget();
    resolve?.(answer);
  }

  #forget(): void {
    this.#resolve = undefined;
    this.#reject = undefined;
    this.#space = undefined;
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

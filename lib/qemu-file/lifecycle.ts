import { callBackend, markHandled } from '../contract/backend-result.ts';
import { channels } from '../contract/diagnostics-channels.ts';
import { abortError, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { QemuFileOps } from '../contract/ops.ts';
import { noop } from '../util/noop.ts';
import { GetHalf } from './get/get-half.ts';
import { type QemuFileOptions, resolveSettings, type WaitOptions } from './options.ts';
import { PutHalf } from './put/put-half.ts';
import { reclaim, StreamBase } from './stream-base.ts';

/*
 * The stream side of a QemuFile: what `write()`, `pipe()`, `read()`, `end()` and `destroy()` do with
 * the two halves, the error latch, the gates, and closing.
 *
 * Written chunks enter the gather list at once, whatever is in flight, so that they keep their order
 * with typed puts. Backpressure is therefore not the Writable's own count but our two gates
 * (put/gates.ts): `write()` returns their state, and `'drain'` is emitted when both have opened.
 */

/** Chunks up to this size are copied into staging: cheaper than an entry of their own. */
const COPY_LIMIT = 1024;

type WriteCallback = (error: Error | null | undefined) => void;

/** Gives the get half of a file, to those in this package who move bytes by other ways than the stream's. */
export let getHalfOf: (file: QemuFileStream) => GetHalf;

/** Lifecycle, error latch and gates of a `QemuFile`; use `QemuFile`. */
export class QemuFileStream extends StreamBase {
  /** The backend. */
  protected readonly ops: QemuFileOps;
  protected readonly putHalf: PutHalf;
  protected readonly getHalf: GetHalf;

  /** Whether there is a put half at all, if only to stage. */
  protected readonly puts: boolean;

  readonly #canRead: boolean;
  readonly #canWrite: boolean;
  readonly #stopSignal: () => void;
  #error: QemuFileError | null = null;
  /** Why nothing can be put or got any more: the latched error, or that the file was closed. */
  #stopped: QemuFileError | null = null;
  #complete = false;
  #closing: Promise<number> | null = null;
  #backendClosing: Promise<number> | null = null;
  #markClosed: () => void = noop;
  readonly #closed: Promise<void>;

  constructor(ops: QemuFileOps, options: QemuFileOptions = {}) {
    const settings = resolveSettings(ops, options);
    const halves = { readable: settings.get.readable, writable: settings.put.writable };
    super({
      ...halves,
      readableHighWaterMark: settings.get.lookAheadSize,
      // The gates decide, not the Writable's own count, which stays at 0.
      writableHighWaterMark: Number.MAX_SAFE_INTEGER,
    });
    this.ops = ops;
    this.puts = settings.put.writable;
    this.#canRead = settings.get.readable;
    this.#canWrite = settings.put.writable && ops.writevBuffer !== undefined;
    this.putHalf = new PutHalf(ops, settings.put, {
      putFailed: (error) => this.latch(error),
      batchTaken: (position, bytes, buffers) => {
        if (channels.flush.hasSubscribers && bytes > 0) {
          channels.flush.publish({ file: this, position, bytes, buffers });
        }
      },
      throttled: (gate) => {
        if (!channels.throttle.hasSubscribers) return;
        channels.throttle.publish({ file: this, gate, pendingBytes: this.putHalf.pending });
      },
      drained: () => {
        if (!this.destroyed && !this.writableEnded) this.emit('drain');
      },
    });
    this.getHalf = new GetHalf(ops, settings.get, {
      getFailed: (error) => this.latch(error),
      deliver: (chunk) => void this.push(chunk),
      endHeld: () => process.nextTick(this.#emitReadable),
      held: () => this.readableLength,
      takeBack: () => reclaim(this),
    });
    this.#closed = new Promise((resolve) => {
      this.#markClosed = resolve;
    });
    // Errors are latched and reported to whoever awaits; one that nobody listens to is no crash.
    this.on('error', noop);
    this.#stopSignal = this.#follow(options.signal);
    if (channels.open.hasSubscribers) {
      channels.open.publish({ file: this, readable: this.#canRead, writable: this.#canWrite });
    }
  }

  /** The latched error, the first that happened; null while there is none. @see QEMU `qemu_file_get_error_obj` */
  get error(): QemuFileError | null {
    return this.#error;
  }

  /**
   * Tells whether the put half has a backend. @see QEMU `qemu_file_is_writable`
   *
   * @returns True if `ops.writevBuffer` is there and was not switched off by `writable: false`.
   */
  isWritable(): boolean {
    return this.#canWrite;
  }

  /**
   * Has all bytes put so far leave, and waits until the backend took them. @see QEMU `qemu_fflush`
   *
   * @param options - `signal` ends the wait; the bytes leave all the same.
   * @returns A promise that resolves when they were taken; at once on a file that cannot be written.
   * @throws {QemuFileError} (rejects) the latched error: any code of the backend, `EIO` for a short write;
   *   `ECANCELED` when aborted.
   */
  flush(options: WaitOptions = {}): Promise<void> {
    this.putHalf.flush();
    if (!this.#canWrite && this.#error === null) return Promise.resolve();
    return this.#whenTaken(options.signal);
  }

  /**
   * Waits until both gates are open: the budget of the rate limit, and the transport.
   *
   * @param options - `signal` ends the wait.
   * @throws {QemuFileError} (rejects) the latched error; `ECANCELED` when aborted.
   */
  drain(options: WaitOptions = {}): Promise<void> {
    return this.putHalf.gates.wait(options);
  }

  /**
   * Flushes, always closes the backend, and reports the earliest error. @see QEMU `qemu_fclose`
   *
   * @param options - `signal` ends the wait, and gives up what the backend has not taken by then.
   * @returns What the backend's `close` answered, or 0. Further calls wait for the same.
   * @throws {QemuFileError} (rejects) the latched error, or the error of closing; `ECANCELED` when aborted.
   */
  close(options: WaitOptions = {}): Promise<number> {
    this.#closing ??= markHandled(this.#close());
    const { signal } = options;
    if (signal === undefined) return this.#closing;
    const closing = this.#closing;
    return markHandled(
      new Promise((resolve, reject) => {
        const onAbort = (): void => {
          const error = abortError(signal, 'close');
          this.latch(error);
          reject(error);
        };
        if (signal.aborted) return onAbort();
        signal.addEventListener('abort', onAbort, { once: true });
        closing.finally(() => signal.removeEventListener('abort', onAbort)).then(resolve, reject);
      }),
    );
  }

  /** Flushes, then closes; for `await using`. */
  override async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  override write(chunk: unknown, callback?: WriteCallback): boolean;
  override write(chunk: unknown, encoding: BufferEncoding, callback?: WriteCallback): boolean;
  override write(
    chunk: unknown,
    encoding?: BufferEncoding | WriteCallback,
    callback?: WriteCallback,
  ): boolean {
    const done = typeof encoding === 'function' ? encoding : callback;
    const named = (typeof encoding === 'string' ? encoding : undefined) as BufferEncoding;
    if (done === undefined) {
      super.write(chunk, named);
    } else {
      // The callback means "taken by the backend": until then the chunk is in use.
      let target = 0;
      super.write(chunk, named, (error) => {
        if (error) done(this.#error ?? error);
        else this.putHalf.whenTaken(target, (failure) => process.nextTick(done, failure));
      });
      target = this.putHalf.accepted;
    }
    const { gates } = this.putHalf;
    gates.sendIfShut();
    return !gates.ask() && !this.destroyed;
  }

  /** Holds back flushing until `uncork()`, so that what is put until then leaves together. */
  override cork(): void {
    this.putHalf.hold();
  }

  /** Ends one `cork()`; the last one flushes. */
  override uncork(): void {
    this.putHalf.release();
  }

  /** Iterates over the chunks; the end leaves the put half alone, leaving the loop early destroys the file. */
  override async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, undefined> {
    let ended = false;
    try {
      for await (const chunk of this.iterator({ destroyOnReturn: false })) yield chunk as Buffer;
      ended = true;
    } finally {
      if (!ended) this.destroy();
    }
  }

  /** Reads from the look-ahead that typed gets take from, too. */
  override read(size?: number): Buffer | null {
    this.getHalf.serveStream();
    const chunk = super.read(size) as Buffer | null;
    if (!this.getHalf.onlyEndLeft) return chunk;
    // The end is said when nothing is left for typed gets to take back, or less than is asked for.
    const less = chunk === null && size !== 0 && this.readableLength > 0;
    if (less || this.readableLength === 0) this.getHalf.sayEnd();
    return less ? (super.read(size) as Buffer | null) : chunk;
  }

  /** Puts back bytes that `read()` gave: whoever reads or gets next has them first. */
  override unshift(chunk: unknown, encoding?: BufferEncoding): void {
    this.getHalf.unshifting();
    super.unshift(chunk, encoding);
  }

  /** @internal */
  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: WriteCallback): void {
    if (chunk.length <= COPY_LIMIT) this.putHalf.copy(chunk);
    else this.putHalf.reference(chunk);
    callback(null);
  }

  /** @internal */
  override _read(): void {
    this.getHalf.streamWants();
  }

  /** @internal */
  override _final(callback: WriteCallback): void {
    this.putHalf.end();
    this.#finish().then(() => callback(null), callback);
  }

  /** @internal */
  override _destroy(error: Error | null, callback: WriteCallback): void {
    const put = this.putHalf;
    const unfinished = this.#canWrite && put.accepted > 0 && !this.#complete;
    if (error !== null) this.#setError(toQemuFileError(error, { operation: 'destroy' }));
    const why = this.#error ?? new QemuFileError('ECANCELED', 'the file was closed');
    this.#stopHalves(why);
    this.#stopSignal();
    this.#closeBackend(this.#error !== null || unfinished ? why : undefined)
      .then(
        () => callback(error),
        (failure: unknown) => {
          this.#setError(toQemuFileError(failure, { operation: 'close' }));
          callback(error ?? this.#error);
        },
      )
      .finally(() => {
        this.#publishClose();
        this.#markClosed();
      });
  }

  /** Latches the first error: puts do nothing from now on, whoever waits is told, the stream is destroyed. */
  protected latch(error: QemuFileError): void {
    if (this.latchAlone(error)) this.destroy(error);
  }

  /** Latches the first error without closing the backend yet; false if there was one. */
  protected latchAlone(error: QemuFileError): boolean {
    if (this.#error !== null || this.destroyed) return false;
    this.#setError(error);
    this.#stopHalves(error);
    return true;
  }

  /** Keeps an error, if it is the first. */
  #setError(error: QemuFileError): void {
    if (this.#error !== null) return;
    this.#error = error;
    if (channels.error.hasSubscribers) channels.error.publish({ file: this, error });
  }

  #publishClose(): void {
    if (!channels.close.hasSubscribers) return;
    const { putPosition } = this.putHalf;
    const getPosition = this.getHalf.position;
    channels.close.publish({ file: this, error: this.#error, putPosition, getPosition });
  }

  /** Throws what a latched or closed file fails with. */
  protected checkAlive(): void {
    if (this.#stopped !== null) throw this.#stopped;
  }

  /** Has all bytes leave, then says the end to the other side. */
  async #finish(): Promise<void> {
    await this.flush();
    this.#complete = true;
    if (!this.#canRead) {
      await this.#closeBackend();
    } else if (this.#closing === null && this.ops.shutDown !== undefined) {
      await callBackend('shutDown', () => this.ops.shutDown?.(false, true));
    }
  }

  async #close(): Promise<number> {
    if (this.#canWrite && !this.writableFinished && !this.destroyed) {
      await new Promise<void>((resolve) => {
        this.once('finish', resolve);
        this.once('close', resolve);
        if (!this.writableEnded) this.end();
      });
    }
    if (!this.destroyed) this.#unread();
    this.destroy();
    await this.#closed;
    if (this.#error !== null) throw this.#error;
    return (await this.#backendClosing) ?? 0;
  }

  /** Leaves what was looked ahead to the next file on the transport, if there can be one. */
  #unread(): void {
    if (this.ops.unread === undefined) return;
    const rest = this.getHalf.takeRest();
    if (rest.length === 0) return;
    try {
      this.ops.unread(rest);
    } catch (error) {
      this.latch(toQemuFileError(error, { operation: 'unread' }));
    }
  }

  /** Closes the backend once, whoever asks first. */
  #closeBackend(error?: QemuFileError): Promise<number> {
    this.#backendClosing ??= markHandled(callBackend('close', () => this.ops.close?.(error)));
    return this.#backendClosing;
  }

  #stopHalves(error: QemuFileError): void {
    this.#stopped ??= error;
    this.putHalf.stop(error);
    this.getHalf.stop(error);
  }

  #whenTaken(signal?: AbortSignal): Promise<void> {
    return markHandled(
      new Promise((resolve, reject) => {
        const onAbort = (): void => reject(abortError(signal as AbortSignal, 'flush'));
        if (signal?.aborted === true) return onAbort();
        signal?.addEventListener('abort', onAbort, { once: true });
        this.putHalf.whenTaken(this.putHalf.accepted, (error) => {
          signal?.removeEventListener('abort', onAbort);
          if (error === null) resolve();
          else reject(error);
        });
      }),
    );
  }

  /** Wakes whoever waits for more than is there: it will not come, and `read(size)` gives the rest. */
  readonly #emitReadable = (): void => {
    if (!this.destroyed && this.readableLength > 0) this.emit('readable');
  };

  /** Destroys the file when the signal aborts; gives what ends the following. */
  #follow(signal: AbortSignal | undefined): () => void {
    if (signal === undefined) return noop;
    const onAbort = (): void => {
      this.latch(abortError(signal, 'QemuFile'));
    };
    if (signal.aborted) process.nextTick(onAbort);
    else signal.addEventListener('abort', onAbort, { once: true });
    return () => signal.removeEventListener('abort', onAbort);
  }

  static {
    getHalfOf = (file) => file.getHalf;
    // The Writable's own figures are those of an always empty buffer; these are the real ones.
    Object.defineProperties(QemuFileStream.prototype, {
      writableLength: {
        get(this: QemuFileStream): number {
          return this.putHalf.pending;
        },
      },
      writableHighWaterMark: {
        get(this: QemuFileStream): number {
          return this.putHalf.gates.highWaterMark;
        },
      },
      writableNeedDrain: {
        get(this: QemuFileStream): boolean {
          return !this.destroyed && !this.writableEnded && this.putHalf.gates.isProducerWaiting;
        },
      },
      writableCorked: {
        get(this: QemuFileStream): number {
          return this.putHalf.held;
        },
      },
    });
  }
}

import { callBackend, markHandled } from '../contract/backend-result.ts';
import { channels } from '../contract/diagnostics-channels.ts';
import { abortError, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { QemuFileOps } from '../contract/ops.ts';
import { onAbort, waitForPromise } from '../contract/wait-for.ts';
import { noop } from '../util/noop.ts';
import type { ChunkSource } from './get/chunk-source.ts';
import { GetHalf } from './get/get-half.ts';
import { type QemuFileOptions, resolveSettings, type WaitOptions } from './options.ts';
import { PutHalf } from './put/put-half.ts';
import { takeBackDelivered } from './readable-state.ts';
import { StreamBase } from './stream-base.ts';

/*
 * The stream side of a QemuFile: what `write()`, `pipe()`, `read()`, `end()` and `destroy()` do with the two
 * halves, the error latch, and closing.
 *
 * Written chunks enter the gather list at once, even while a batch is in flight, so that they keep their
 * order with typed puts. Backpressure is therefore not the Writable's own count but the two gates
 * (put/gates.ts): `write()` returns whether both are open, and `'drain'` is emitted when both have opened.
 */

/** Written chunks up to this size are copied into staging: cheaper than an entry of their own. */
const COPY_LIMIT = 1024;

type WriteCallback = (error: Error | null | undefined) => void;

/** Lifecycle and error latch of a `QemuFile`; use `QemuFile`. */
export class Lifecycle extends StreamBase {
  /** The backend. */
  protected readonly ops: QemuFileOps;
  protected readonly putHalf: PutHalf;
  protected readonly getHalf: GetHalf;
  /** Whether the file has a put half, even one without a backend. */
  protected readonly hasPutHalf: boolean;
  /** Whether the put half has a backend. */
  protected readonly canWrite: boolean;

  readonly #canRead: boolean;
  readonly #stopFollowing: () => void;
  #error: QemuFileError | null = null;
  /** Why nothing can be put or got any more: the latched error, or that the file was closed. */
  #stopped: QemuFileError | null = null;
  /** Whether the backend took everything up to `end()`. */
  #isComplete = false;
  #closing: Promise<number> | null = null;
  #backendClosing: Promise<number> | null = null;
  #markClosed: () => void = noop;
  readonly #closed: Promise<void>;

  constructor(ops: QemuFileOps, options: QemuFileOptions = {}) {
    const settings = resolveSettings(ops, options);
    // Options that @types/node does not declare.
    const halves = { readable: settings.get.readable, writable: settings.put.writable };
    super({
      ...halves,
      readableHighWaterMark: settings.get.lookAheadSize,
      // The gates decide, not the Writable's own count, which stays at 0.
      writableHighWaterMark: Number.MAX_SAFE_INTEGER,
    });
    this.ops = ops;
    this.hasPutHalf = settings.put.writable;
    this.#canRead = settings.get.readable;
    this.canWrite = settings.put.writable && ops.writevBuffer !== undefined;
    this.putHalf = new PutHalf(ops, settings.put, {
      putFailed: (error) => this.latch(error),
      batchTaken: (position, bytes, buffers) => {
        if (!channels.flush.hasSubscribers || bytes === 0) return;
        channels.flush.publish({ file: this, position, bytes, buffers });
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
      endPending: () => process.nextTick(this.#emitReadable),
      unreadBytes: () => this.readableLength,
      takeBack: () => takeBackDelivered(this),
    });
    this.#closed = new Promise((resolve) => {
      this.#markClosed = resolve;
    });
    /*
     * A latched error destroys the stream, which emits 'error', and an 'error' event without a listener ends
     * the process. QEMU's callers do not listen but poll: they learn of the error from `error`,
     * `getError()`, or the next `flush()`, `read…()` or `close()`, each of which fails with it. Therefore
     * the file itself listens. Other listeners, `pipeline()` and `finished()` get the event as usual.
     */
    this.on('error', noop);
    this.#stopFollowing = this.#follow(options.signal);
    if (channels.open.hasSubscribers) {
      channels.open.publish({ file: this, readable: this.#canRead, writable: this.canWrite });
    }
  }

  /** The latched error, the first that happened; null while there is none. @see QEMU `qemu_file_get_error_obj` */
  get error(): QemuFileError | null {
    return this.#error;
  }

  /**
   * Flush, close the backend in any case, and report the earliest error. @see QEMU `qemu_fclose`
   *
   * @param options - `signal` ends the wait, and drops the bytes that the backend has not taken by then.
   * @returns The number that the backend's `close` returned, or 0. Further calls return the same.
   * @throws {QemuFileError} (rejects) the latched error, or the error of closing; `ECANCELED` when aborted.
   */
  close({ signal }: WaitOptions = {}): Promise<number> {
    this.#closing ??= markHandled(this.#close());
    if (signal === undefined) return this.#closing;
    const wait = waitForPromise(this.#closing, { signal, operation: 'close' });
    return markHandled(
      wait.catch((error: QemuFileError) => {
        this.latch(error);
        throw error;
      }),
    );
  }

  /** Flush, then close; for `await using`. */
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
    const put = this.putHalf;
    if (done === undefined) {
      super.write(chunk, named);
    } else {
      // The callback means "taken by the backend": until then the chunk is in use.
      let target = 0;
      super.write(chunk, named, (error) => {
        if (error) done(this.#error ?? error);
        else put.whenTaken(target, (failure) => process.nextTick(done, failure));
      });
      target = put.totalPut;
    }
    put.gates.sendIfShut();
    return !put.gates.ask() && !this.destroyed;
  }

  /** Suspend the flush at the end of a tick until `uncork()`, so that what is put until then leaves together. */
  override cork(): void {
    this.putHalf.cork();
  }

  /** End one `cork()`; the last one flushes. */
  override uncork(): void {
    this.putHalf.uncork();
  }

  /** Iterate over the chunks. The end leaves the put half open; leaving the loop early destroys the file. */
  override async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, undefined> {
    let hasEnded = false;
    try {
      for await (const chunk of this.iterator({ destroyOnReturn: false })) yield chunk as Buffer;
      hasEnded = true;
    } finally {
      if (!hasEnded) this.destroy();
    }
  }

  /** Read from the look-ahead that typed gets use as well. */
  override read(size?: number): Buffer | null {
    const get = this.getHalf;
    get.serveStream();
    const chunk = super.read(size) as Buffer | null;
    if (!get.isOnlyEndLeft) return chunk;
    // The end is delivered when no bytes are left that typed gets could take back, or too few for `size`.
    const isTooShort = chunk === null && size !== 0 && this.readableLength > 0;
    if (isTooShort || this.readableLength === 0) get.deliverEnd();
    return isTooShort ? (super.read(size) as Buffer | null) : chunk;
  }

  /** Put back bytes that `read()` returned: the next read or typed get returns them first. */
  override unshift(chunk: unknown, encoding?: BufferEncoding): void {
    this.getHalf.beforeUnshift();
    super.unshift(chunk, encoding);
  }

  /** @internal */
  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: WriteCallback): void {
    if (chunk.length <= COPY_LIMIT) this.putHalf.staging.copy(chunk);
    else this.putHalf.reference(chunk);
    callback(null);
  }

  /** @internal */
  override _read(): void {
    this.getHalf.onStreamRead();
  }

  /** @internal */
  override _final(callback: WriteCallback): void {
    this.putHalf.end();
    this.#finish().then(() => callback(null), callback);
  }

  /** @internal */
  override _destroy(error: Error | null, callback: WriteCallback): void {
    const put = this.putHalf;
    const isUnfinished = this.canWrite && put.totalPut > 0 && !this.#isComplete;
    if (error !== null) this.#setError(toQemuFileError(error, { operation: 'destroy' }));
    const reason = this.#error ?? new QemuFileError('ECANCELED', 'the file was closed');
    this.#stopHalves(reason);
    this.#stopFollowing();
    this.#closeBackend(this.#error !== null || isUnfinished ? reason : undefined)
      .then(
        () => callback(error),
        (failure: unknown) => {
          this.#setError(toQemuFileError(failure, { operation: 'close' }));
          callback(error ?? this.#error);
        },
      )
      .finally(() => {
        this.#markClosed();
        if (!channels.close.hasSubscribers) return;
        const positions = { putPosition: put.putPosition, getPosition: this.getHalf.position };
        channels.close.publish({ file: this, error: this.#error, ...positions });
      });
  }

  /** @internal Deliver the chunks of the file to the caller, past the stream; for `relay`. */
  startTransfer(): ChunkSource {
    this.getHalf.startTransfer();
    return this.getHalf;
  }

  /** Latch the first error: later puts do nothing, all waits fail, and the stream is destroyed. */
  protected latch(error: QemuFileError): void {
    if (this.latchOnly(error)) this.destroy(error);
  }

  /** Latch the first error without closing the backend yet; return false if there was one. */
  protected latchOnly(error: QemuFileError): boolean {
    if (this.#error !== null || this.destroyed) return false;
    this.#setError(error);
    this.#stopHalves(error);
    return true;
  }

  /** Throw the error of a latched or closed file. */
  protected checkAlive(): void {
    if (this.#stopped !== null) throw this.#stopped;
  }

  #setError(error: QemuFileError): void {
    if (this.#error !== null) return;
    this.#error = error;
    if (channels.error.hasSubscribers) channels.error.publish({ file: this, error });
  }

  #stopHalves(error: QemuFileError): void {
    this.#stopped ??= error;
    this.putHalf.stop(error);
    this.getHalf.stop(error);
  }

  /** Send all bytes, then end the stream for the other side. */
  async #finish(): Promise<void> {
    if (this.canWrite || this.#error !== null) await this.putHalf.flushed(undefined);
    this.#isComplete = true;
    if (!this.#canRead) {
      await this.#closeBackend();
    } else if (this.#closing === null && this.ops.shutDown !== undefined) {
      await callBackend('shutDown', () => this.ops.shutDown?.(false, true));
    }
  }

  async #close(): Promise<number> {
    if (this.canWrite && !this.writableFinished && !this.destroyed) {
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

  /** Return bytes that were looked ahead to the backend, for the next file on the same transport. */
  #unread(): void {
    if (this.ops.unread === undefined) return;
    const unread = this.getHalf.takeUnread();
    if (unread.length === 0) return;
    try {
      this.ops.unread(unread);
    } catch (error) {
      this.latch(toQemuFileError(error, { operation: 'unread' }));
    }
  }

  #closeBackend(error?: QemuFileError): Promise<number> {
    this.#backendClosing ??= markHandled(callBackend('close', () => this.ops.close?.(error)));
    return this.#backendClosing;
  }

  /** Wake a reader that waits for more bytes than are left: `read(size)` returns the rest. */
  readonly #emitReadable = (): void => {
    if (!this.destroyed && this.readableLength > 0) this.emit('readable');
  };

  /** Destroy the file when the signal aborts; return a function that ends this. */
  #follow(signal: AbortSignal | undefined): () => void {
    if (signal === undefined) return noop;
    const abort = (): void => this.latch(abortError(signal, 'QemuFile'));
    if (signal.aborted) process.nextTick(abort);
    return onAbort(signal, abort);
  }

  static {
    // The Writable's own numbers are those of a buffer that is always empty; these are the real ones.
    Object.defineProperties(Lifecycle.prototype, {
      writableLength: {
        get(this: Lifecycle): number {
          return this.putHalf.pending;
        },
      },
      writableHighWaterMark: {
        get(this: Lifecycle): number {
          return this.putHalf.gates.highWaterMark;
        },
      },
      writableNeedDrain: {
        get(this: Lifecycle): boolean {
          const { isProducerWaiting } = this.putHalf.gates;
          return isProducerWaiting && !this.destroyed && !this.writableEnded;
        },
      },
      writableCorked: {
        get(this: Lifecycle): number {
          return this.putHalf.corked;
        },
      },
    });
  }
}

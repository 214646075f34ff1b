import { deflateSync } from 'node:zlib';
import { callBackend, markHandled } from '../contract/backend-result.ts';
import { codeOf, errnoOf, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { MaybePromise, QemuFileOps, Whence } from '../contract/ops.ts';
import { compressBound } from '../util/compress-bound.ts';
import { checkAttached } from './check-attached.ts';
import type { LookAhead } from './get/look-ahead.ts';
import { readCounted, readInto, readSkip } from './get/reads.ts';
import { Lifecycle } from './lifecycle.ts';
import type { QemuFileOptions, WaitOptions } from './options.ts';
import { type Positions, Seeking } from './positions.ts';
import type { BandwidthBudget } from './put/bandwidth-budget.ts';
import type { Staging } from './put/staging.ts';
import {
  type BytesSent,
  type RamControl,
  type RamHook,
  RamHooks,
  type RamHookTable,
} from './ram-hooks.ts';
import type { TypedGets } from './typed-gets.ts';
import type { TypedPuts } from './typed-puts.ts';

/*
 * The public methods, each a call of the part that does the work. The methods of QEMU's header are
 * documented in the interfaces that the class implements, by group. The file is longer than others because
 * it is one class, with a method for each function of the header.
 */

/** A RAM hook of a `QemuFile`. */
export type QemuFileRamHook = RamHook<QemuFile>;
/** The RAM hooks of a `QemuFile`. @see QEMU `QEMUFileHooks` */
export type QemuFileHooks = RamHookTable<QemuFile>;

/**
 * QEMU's migration channel as a stream: a buffered, big-endian, rate-limited, error-latching byte
 * channel over a table of transport operations. A `Duplex` of readable-stream with a put half and a get
 * half, each as far as the backend supports it.
 *
 * @example
 * ```js
 * import { QemuFile } from 'qemu-file';
 * import { memoryOps } from 'qemu-file/adapters';
 *
 * const file = new QemuFile(memoryOps());
 * file.putBe32(0x5145564d);
 * await file.flush();
 * console.log((await file.readBe32()).toString(16)); // 5145564d
 * ```
 *
 * @see QEMU `QEMUFile`, `qemu_fopen_ops`
 */
export class QemuFile extends Lifecycle implements TypedPuts, TypedGets, Positions, RamControl {
  readonly #options: QemuFileOptions;
  // The hot path: one field away from the integers.
  readonly #staging: Staging;
  readonly #lookAhead: LookAhead;
  readonly #seeking: Seeking;
  readonly #hooks: RamHooks<QemuFile>;

  /**
   * Make a file. The backend is not called yet.
   *
   * @param ops - The backend. An empty table makes a file that only stages, for `putQemuFile`.
   * @param options - See `QemuFileOptions`; all have defaults.
   * @throws TypeError if `ops` has operations, but neither `getBuffer` nor `writevBuffer`, or is not a table;
   *   RangeError for a size that is not a positive integer.
   */
  constructor(ops: QemuFileOps, options: QemuFileOptions = {}) {
    super(ops, options);
    this.#options = options;
    this.#staging = this.putHalf.staging;
    this.#lookAhead = this.getHalf.lookAhead;
    this.#seeking = new Seeking(ops, this.getHalf, {
      flush: () => this.flush(),
      latch: (error) => this.latch(error),
      checkAlive: () => this.checkAlive(),
    });
    this.#hooks = new RamHooks<QemuFile>(this, this.putHalf, (error) => this.latch(error));
  }

  /**
   * Return whether a mode is neither `'rb'` nor `'wb'`. @see QEMU `qemu_file_mode_is_not_valid`
   *
   * @returns True for any other value, as in QEMU.
   */
  static modeIsNotValid(mode: unknown): boolean {
    return mode !== 'rb' && mode !== 'wb';
  }

  /**
   * Return the error of the first of two files that has one. @see QEMU `qemu_file_get_error_obj_any`
   *
   * @param first - A file, or nothing.
   * @param second - A file, or nothing.
   */
  static firstError(
    first: QemuFile | null | undefined,
    second: QemuFile | null | undefined,
  ): QemuFileError | null {
    return first?.error ?? second?.error ?? null;
  }

  /**
   * Return whether the put half has a backend. @see QEMU `qemu_file_is_writable`
   *
   * @returns True if `ops.writevBuffer` exists and the option `writable` is not false.
   */
  isWritable(): boolean {
    return this.canWrite;
  }

  /**
   * Send all bytes put so far, and wait until the backend took them. @see QEMU `qemu_fflush`
   *
   * @param options - `signal` ends the wait; the bytes are sent nevertheless.
   * @returns A promise that resolves when they were taken; at once on a file that cannot be written.
   * @throws {QemuFileError} (rejects) the latched error: any code of the backend, `EIO` for a short write;
   *   `ECANCELED` when aborted.
   */
  flush(options: WaitOptions = {}): Promise<void> {
    if (!this.canWrite && this.error === null) return Promise.resolve();
    return markHandled(this.putHalf.flushed(options.signal));
  }

  /**
   * Wait until both gates are open: the budget of the rate limit, and the transport.
   *
   * @param options - `signal` ends the wait.
   * @throws {QemuFileError} (rejects) the latched error; `ECANCELED` when aborted.
   */
  drain(options: WaitOptions = {}): Promise<void> {
    return this.putHalf.gates.wait(options);
  }

  /** The latched error as a negative errno, 0 while there is none. @see QEMU `qemu_file_get_error` */
  getError(): number {
    return this.error?.errno ?? 0;
  }

  /**
   * Latch an error, unless one is latched already. @see QEMU `qemu_file_set_error`, `qemu_file_set_error_obj`
   *
   * @param error - A negative errno, 0 (changes nothing), or an error object.
   * @param cause - An error to keep as the `cause` of an errno.
   * @throws RangeError for a positive number.
   */
  setError(error: number | Error, cause?: Error): void {
    const context = { operation: 'setError', position: this.tellFast() };
    if (typeof error !== 'number') {
      this.latch(toQemuFileError(error, context));
    } else if (!Number.isInteger(error) || error > 0) {
      throw new RangeError(`setError: ${error} is not a negative errno`);
    } else if (error < 0) {
      const reason = cause?.message ?? 'set by the user of the file';
      this.latch(new QemuFileError(codeOf(error), reason, { ...context, cause }));
    }
  }

  /**
   * Return whether a producer should stop for now: an error is latched or the file closed, the budget of
   * the window is used up, or the transport holds the high-water mark or more. `'drain'` and `drain()`
   * report when to go on. Nothing is sent.
   *
   * @see QEMU `qemu_file_rate_limit`
   */
  rateLimitExceeded(): boolean {
    return this.destroyed || this.error !== null || this.putHalf.gates.ask();
  }

  /**
   * Set the budget of a window that the caller runs with `resetRateLimit()`. Where `maxBandwidth` is
   * set, this changes it to ten times as much. @see QEMU `qemu_file_set_rate_limit`
   *
   * @param bytesPerWindow - 0 or less means no limit.
   * @throws RangeError for a number that is not finite.
   */
  setRateLimit(bytesPerWindow: number): void {
    if (!Number.isFinite(bytesPerWindow)) {
      throw new RangeError(`setRateLimit: ${bytesPerWindow} is not a number of bytes`);
    }
    this.putHalf.limiter.limit = bytesPerWindow;
    this.putHalf.limitChanged();
  }

  /** Bytes per window of 100 ms; 0 or less means no limit. @see QEMU `qemu_file_get_rate_limit` */
  getRateLimit(): number {
    return this.putHalf.limiter.limit;
  }

  /** Start a new window, in which nothing is counted yet. @see QEMU `qemu_file_reset_rate_limit` */
  resetRateLimit(): void {
    this.putHalf.limiter.reset(this.putHalf.putPosition);
    this.putHalf.limitChanged();
  }

  /**
   * Bytes per second at which the file sends, together with the files that share its `budget`; 0 is no
   * limit. May be set at any time.
   */
  get maxBandwidth(): number {
    return this.putHalf.limiter.bandwidth;
  }

  set maxBandwidth(bytesPerSecond: number) {
    this.putHalf.limiter.setBandwidth(bytesPerSecond, this.putHalf.putPosition);
    this.putHalf.limitChanged();
  }

  /** The budget that `maxBandwidth` belongs to: the file's own, or the option `budget`. */
  get budget(): BandwidthBudget {
    return this.putHalf.limiter.budget;
  }

  /** Bytes per second that the transport took while bytes waited for it; 0 before the first byte. */
  get bandwidth(): number {
    return this.putHalf.limiter.measured;
  }

  /** Milliseconds during which bytes waited for `maxBandwidth` alone. */
  get limitedMs(): number {
    return this.putHalf.limiter.limitedMs;
  }

  /** XXH64 of all bytes the backend took, as 16 hexadecimal digits; null without the option `digest`. */
  get putDigest(): string | null {
    return this.putHalf.digest;
  }

  /** XXH64 of all bytes fetched from the backend, as 16 hexadecimal digits; null without the option `digest`. */
  get getDigest(): string | null {
    return this.getHalf.digest;
  }

  /** The descriptor under the backend, -1 if there is none. @see QEMU `qemu_get_fd` */
  getFd(): number {
    return this.ops.getFd?.() ?? -1;
  }

  /**
   * Set whether gets may block the thread until bytes are available. On a backend that cannot block, this
   * has no effect. @see QEMU `qemu_file_set_blocking`
   */
  setBlocking(blocking: boolean): void {
    if (this.ops.setBlocking === undefined) return;
    this.ops.setBlocking(blocking);
    this.getHalf.blocking = blocking;
  }

  /**
   * Return a file in the other direction over the same transport, with its own buffers, error and
   * counters. Each is closed separately, and the transport closes with the last.
   * @see QEMU `qemu_file_get_return_path`
   *
   * @param options - Of the new file. Default: those of this one, without its limit and signal.
   * @returns Null if the backend has no other direction.
   */
  getReturnPath(options?: QemuFileOptions): QemuFile | null {
    const path = this.ops.getReturnPath?.();
    if (path === null || path === undefined) return null;
    if (path instanceof QemuFile) return path;
    const { maxBandwidth, budget, signal, readable, writable, ...own } = this.#options;
    return new QemuFile(path as QemuFileOps, options ?? own);
  }

  /**
   * End both directions at once: latch `EIO`, then make the backend wake whatever waits. Nothing is
   * flushed. @see QEMU `qemu_file_shutdown`
   *
   * @returns 0, a negative errno of the backend, or `-ENOSYS` if it cannot be shut down (then it is closed).
   */
  async shutdown(): Promise<number> {
    const context = { operation: 'shutdown', position: this.tellFast() };
    const error = new QemuFileError('EIO', 'the file was shut down', context);
    // Latched first: what a woken read returns must not be taken for good data.
    this.latchOnly(error);
    let answer = errnoOf('ENOSYS');
    if (this.ops.shutDown !== undefined) {
      // A backend that is closed already has nothing left to shut down.
      const shut = (): MaybePromise<number | void> =>
        this.destroyed ? 0 : this.ops.shutDown?.(true, true);
      answer = await callBackend('shutDown', shut).catch(
        (failure: unknown) => toQemuFileError(failure).errno,
      );
    }
    this.destroy(error);
    return answer;
  }

  // Typed puts.

  putByte(value: number): void {
    this.#staging.byte(value);
  }

  putSbyte(value: number): void {
    this.#staging.sbyte(value);
  }

  putBe16(value: number): void {
    this.#staging.be16(value);
  }

  putSbe16(value: number): void {
    this.#staging.sbe16(value);
  }

  putBe32(value: number): void {
    this.#staging.be32(value);
  }

  putSbe32(value: number): void {
    this.#staging.sbe32(value);
  }

  putBe64(value: number | bigint): void {
    this.#staging.be64(value);
  }

  putSbe64(value: number | bigint): void {
    this.#staging.sbe64(value);
  }

  putBuffer(bytes: Uint8Array): void {
    checkAttached(bytes, 'putBuffer');
    this.#staging.copy(bytes);
  }

  putBufferAsync(bytes: Uint8Array, onRelease?: () => void): void {
    checkAttached(bytes, 'putBufferAsync');
    this.putHalf.reference(bytes, onRelease);
  }

  putCountedString(text: string): void {
    if (this.#staging.countedAscii(text)) return;
    const bytes = Buffer.from(text, 'utf8');
    if (bytes.length > 255) {
      throw new RangeError(`putCountedString: ${bytes.length} bytes do not fit in 255`);
    }
    this.#staging.byte(bytes.length);
    this.#staging.copy(bytes);
  }

  putCompressionData(bytes: Uint8Array, level = 1): number {
    checkAttached(bytes, 'putCompressionData');
    if (this.error !== null || !this.putHalf.reserve(4 + compressBound(bytes.length))) return -1;
    const compressed = deflateSync(bytes, { level });
    this.#staging.be32(compressed.length);
    this.#staging.copy(compressed);
    this.putHalf.limiter.discount(compressed.length);
    return compressed.length + 4;
  }

  /**
   * Move the bytes that another file has put and not sent into this one; the other file is empty afterwards.
   * Made for files without a backend, `new QemuFile({})`, that only stage. Bytes put by reference
   * move as well, unlike in QEMU. @see QEMU `qemu_put_qemu_file`
   *
   * @param source - Another file.
   * @returns The number of bytes moved.
   * @throws {QemuFileError} `EINVAL` for the file itself.
   */
  putQemuFile(source: QemuFile): number {
    if (source === this) throw new QemuFileError('EINVAL', 'a file cannot be put into itself');
    return this.putHalf.adopt(source.putHalf);
  }

  // Typed gets, over bytes that were looked ahead.

  getByte(): number {
    return this.#lookAhead.byte();
  }

  getSbyte(): number {
    return this.#lookAhead.sbyte();
  }

  getBe16(): number {
    return this.#lookAhead.be16();
  }

  getSbe16(): number {
    return this.#lookAhead.sbe16();
  }

  getBe32(): number {
    return this.#lookAhead.be32();
  }

  getSbe32(): number {
    return this.#lookAhead.sbe32();
  }

  getBe64(): number {
    return this.#lookAhead.be64();
  }

  getBe64Big(): bigint {
    return this.#lookAhead.be64Big();
  }

  getSbe64(): number {
    return this.#lookAhead.sbe64();
  }

  getSbe64Big(): bigint {
    return this.#lookAhead.sbe64Big();
  }

  getBuffer(target: Uint8Array): number;
  getBuffer(size: number): Buffer;
  getBuffer(target: Uint8Array | number): number | Buffer {
    if (typeof target !== 'number') {
      checkAttached(target, 'getBuffer');
      this.getHalf.copyTo(target);
      return target.length;
    }
    this.getHalf.need(target, 'getBuffer');
    const bytes = Buffer.allocUnsafe(target);
    this.getHalf.copyTo(bytes);
    return bytes;
  }

  getBufferInPlace(size: number): Uint8Array {
    this.getHalf.need(size, 'getBufferInPlace');
    return this.#lookAhead.inPlace(size, 'getBufferInPlace');
  }

  getCountedString(encoding: BufferEncoding = 'utf8'): string {
    const text = this.#lookAhead.counted(encoding);
    if (text !== undefined) return text;
    this.getHalf.need(1, 'getCountedString');
    const length = this.peekByte(0);
    this.getHalf.need(1 + length, 'getCountedString');
    this.getHalf.skip(1);
    const bytes = this.#lookAhead.inPlace(length, 'getCountedString');
    return Buffer.from(bytes.buffer, bytes.byteOffset, length).toString(encoding);
  }

  peekByte(offset: number): number {
    const bytes = this.getHalf.peek(1, offset);
    if (bytes.length === 0) this.getHalf.need(offset + 1, 'peekByte');
    return bytes[0] as number;
  }

  peekBuffer(size: number, offset = 0): Uint8Array {
    return this.getHalf.peek(size, offset);
  }

  skip(size: number): boolean {
    return this.getHalf.skip(size);
  }

  get lookedAhead(): number {
    return this.getHalf.lookedAhead;
  }

  // Waits for bytes.

  fill(size: number, options: WaitOptions = {}): Promise<number> {
    return this.#read(size, 'fill', () => this.#lookAhead.available, options);
  }

  fillOrEnd(size: number, options: WaitOptions = {}): Promise<number> {
    const take = (): number => this.#lookAhead.available;
    const request = { size, operation: 'fillOrEnd', take, acceptsEnd: true };
    return markHandled(this.getHalf.wait(request, options.signal));
  }

  atEnd(options: WaitOptions = {}): Promise<boolean> {
    const take = (): boolean => this.#lookAhead.available === 0;
    const request = { size: 1, operation: 'atEnd', take, acceptsEnd: true };
    return markHandled(this.getHalf.wait(request, options.signal));
  }

  readByte(options?: WaitOptions): Promise<number> {
    return this.#read(1, 'readByte', () => this.#lookAhead.byte(), options);
  }

  readSbyte(options?: WaitOptions): Promise<number> {
    return this.#read(1, 'readSbyte', () => this.#lookAhead.sbyte(), options);
  }

  readBe16(options?: WaitOptions): Promise<number> {
    return this.#read(2, 'readBe16', () => this.#lookAhead.be16(), options);
  }

  readSbe16(options?: WaitOptions): Promise<number> {
    return this.#read(2, 'readSbe16', () => this.#lookAhead.sbe16(), options);
  }

  readBe32(options?: WaitOptions): Promise<number> {
    return this.#read(4, 'readBe32', () => this.#lookAhead.be32(), options);
  }

  readSbe32(options?: WaitOptions): Promise<number> {
    return this.#read(4, 'readSbe32', () => this.#lookAhead.sbe32(), options);
  }

  readBe64(options?: WaitOptions): Promise<number> {
    return this.#read(8, 'readBe64', () => this.#lookAhead.be64(), options);
  }

  readBe64Big(options?: WaitOptions): Promise<bigint> {
    return this.#read(8, 'readBe64Big', () => this.#lookAhead.be64Big(), options);
  }

  readSbe64(options?: WaitOptions): Promise<number> {
    return this.#read(8, 'readSbe64', () => this.#lookAhead.sbe64(), options);
  }

  readSbe64Big(options?: WaitOptions): Promise<bigint> {
    return this.#read(8, 'readSbe64Big', () => this.#lookAhead.sbe64Big(), options);
  }

  readBuffer(target: Uint8Array, options?: WaitOptions): Promise<number>;
  readBuffer(size: number, options?: WaitOptions): Promise<Buffer>;
  readBuffer(target: Uint8Array | number, options?: WaitOptions): Promise<number | Buffer> {
    if (typeof target === 'number') {
      return this.#read(target, 'readBuffer', () => this.getBuffer(target), options);
    }
    return markHandled(readInto(this.getHalf, target, options?.signal));
  }

  readCountedString(encoding?: BufferEncoding, options?: WaitOptions): Promise<string> {
    const take = (): string => this.getCountedString(encoding);
    return markHandled(readCounted(this.getHalf, take, options?.signal));
  }

  readSkip(size: number, options?: WaitOptions): Promise<void> {
    return markHandled(readSkip(this.getHalf, size, options?.signal));
  }

  #read<T>(size: number, operation: string, take: () => T, options?: WaitOptions): Promise<T> {
    return markHandled(this.getHalf.wait({ size, operation, take }, options?.signal));
  }

  // Positions.

  tell(options?: WaitOptions): Promise<number> {
    return markHandled(this.flush(options).then(() => this.tellFast()));
  }

  tellFast(): number {
    return this.hasPutHalf ? this.putHalf.putPosition : this.getHalf.fetched;
  }

  get getPosition(): number {
    return this.getHalf.position;
  }

  get putPosition(): number {
    return this.putHalf.putPosition;
  }

  get sentPosition(): number {
    return this.putHalf.sentPosition;
  }

  updatePosition(bytes: number): void {
    if (!(Number.isSafeInteger(bytes) && bytes >= 0)) {
      throw new RangeError(`updatePosition: ${bytes} is not a number of bytes`);
    }
    this.putHalf.skipPosition(bytes);
  }

  transferred(): number {
    return this.putHalf.putPosition + this.#seeking.bytesPutAt;
  }

  setOffset(offset: number, whence: Whence = 'set'): Promise<number> {
    return markHandled(this.#seeking.setOffset(offset, whence));
  }

  getOffset(): Promise<number> {
    return markHandled(this.#seeking.getOffset());
  }

  putBufferAt(bytes: Uint8Array, offset: number): Promise<void> {
    return markHandled(this.#seeking.putBufferAt(bytes, offset));
  }

  getBufferAt(target: Uint8Array, offset: number): Promise<number> {
    return markHandled(this.#seeking.getBufferAt(target, offset));
  }

  // RAM hooks.

  /** Set the RAM hooks, or remove them. @see QEMU `qemu_file_set_hooks` */
  setHooks(hooks: QemuFileHooks | null): void {
    this.#hooks.table = hooks;
  }

  ramControlBeforeIterate(flags: number): void {
    this.#hooks.beforeIterate(flags);
  }

  ramControlAfterIterate(flags: number): void {
    this.#hooks.afterIterate(flags);
  }

  ramControlLoadHook(flags: number, data?: unknown): void {
    this.#hooks.load(flags, data);
  }

  ramControlSavePage(
    blockOffset: number | bigint,
    offset: number | bigint,
    size: number,
    sent: BytesSent = { bytes: 0 },
  ): number {
    return this.#hooks.savePage(blockOffset, offset, size, sent);
  }
}

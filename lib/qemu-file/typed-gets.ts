import type { WaitOptions } from './options.ts';

/**
 * The typed gets of a `QemuFile`.
 *
 * Each comes in two forms. `get…` takes bytes that were looked ahead: `await file.fill(n)` once, then any
 * number of gets without another `await`. If the bytes are not available it throws `QemuFileError` `EAGAIN`
 * and consumes nothing; in blocking mode it reads them from a backend that answers synchronously. `read…`
 * waits for the bytes. At the end of the stream both fail with `EIO`, which is latched; zeros are never
 * invented. On a file that cannot be read both fail with `EBADF`.
 */
export interface TypedGets {
  /** Get one byte, 0…255. @see QEMU `qemu_get_byte`, `qemu_get_ubyte` */
  getByte(): number;

  /** Get one signed byte, -128…127; QEMU's own does not extend the sign. @see QEMU `qemu_get_sbyte` */
  getSbyte(): number;

  /** Get 2 bytes as 0…65535. @see QEMU `qemu_get_be16` */
  getBe16(): number;

  /** Get 2 bytes as -32768…32767; QEMU's own does not extend the sign. @see QEMU `qemu_get_sbe16` */
  getSbe16(): number;

  /** Get 4 bytes as 0…2^32-1. @see QEMU `qemu_get_be32` */
  getBe32(): number;

  /** Get 4 bytes as -2^31…2^31-1. @see QEMU `qemu_get_sbe32` */
  getSbe32(): number;

  /**
   * Get 8 bytes as a number. @see QEMU `qemu_get_be64`
   *
   * @throws RangeError for a value beyond 2^53-1, which is not consumed: use `getBe64Big`.
   */
  getBe64(): number;

  /** Get 8 bytes as a bigint, 0…2^64-1. @see QEMU `qemu_get_be64` */
  getBe64Big(): bigint;

  /**
   * Get 8 bytes, two's complement, as a number. @see QEMU `qemu_get_sbe64`
   *
   * @throws RangeError for a value beyond ±(2^53-1), which is not consumed: use `getSbe64Big`.
   */
  getSbe64(): number;

  /** Get 8 bytes as a bigint, -2^63…2^63-1. @see QEMU `qemu_get_sbe64` */
  getSbe64Big(): bigint;

  /**
   * Copy bytes out of the look-ahead. @see QEMU `qemu_get_buffer`
   *
   * @param target - A buffer to fill completely, or a number of bytes, at most `maxLookAhead`.
   * @returns The number of bytes copied, or the new buffer.
   */
  getBuffer(target: Uint8Array): number;
  getBuffer(size: number): Buffer;

  /**
   * Get bytes as a view of the look-ahead, without a copy where they are contiguous.
   * @see QEMU `qemu_get_buffer_in_place`
   *
   * @param size - Number of bytes, at most `maxLookAhead`.
   * @returns A view that is valid until the next `fill`, `read…` or `await` on this file.
   */
  getBufferInPlace(size: number): Uint8Array;

  /**
   * Get a length byte and that many bytes as text. @see QEMU `qemu_get_counted_string`
   *
   * @param encoding - Default UTF-8.
   */
  getCountedString(encoding?: BufferEncoding): string;

  /**
   * Return a byte without consuming it. @see QEMU `qemu_peek_byte`
   *
   * @param offset - 0…32767, counted from the next byte.
   * @throws {QemuFileError} `EAGAIN` if the byte is not available: `await fill(offset + 1)` first.
   */
  peekByte(offset: number): number;

  /**
   * Return bytes without consuming them. @see QEMU `qemu_peek_buffer`
   *
   * @param size - Number of bytes; `offset + size` is at most 32768.
   * @param offset - Offset of the first byte, counted from the next byte. Default 0.
   * @returns A view of the available bytes, which may be shorter than asked for. It is valid as long as
   *   that of `getBufferInPlace`.
   */
  peekBuffer(size: number, offset?: number): Uint8Array;

  /**
   * Consume bytes that are available; do nothing at all if they are not. @see QEMU `qemu_file_skip`
   *
   * @param size - Number of bytes, not negative.
   * @returns Whether they were consumed.
   */
  skip(size: number): boolean;

  /** Bytes that the `get…` methods can return now, without waiting. */
  readonly lookedAhead: number;

  /**
   * Wait until bytes are available to the `get…` methods.
   *
   * @param size - Number of bytes, at most `maxLookAhead`.
   * @returns The number of available bytes, at least `size`.
   * @throws {QemuFileError} (rejects) `EIO` at the end of the stream, or the backend's error, both
   *   latched; `ECANCELED` when aborted. RangeError for a size out of range.
   */
  fill(size: number, options?: WaitOptions): Promise<number>;

  /**
   * Wait until bytes are available to the `get…` methods, or the stream has ended. The end is not an error.
   *
   * @param size - Number of bytes, at most `maxLookAhead`.
   * @returns The number of available bytes: fewer than `size` only at the end.
   * @throws {QemuFileError} (rejects) the backend's error, latched; `ECANCELED` when aborted. RangeError
   *   for a size out of range.
   */
  fillOrEnd(size: number, options?: WaitOptions): Promise<number>;

  /**
   * Wait for a byte or the end of the stream. The end is not an error.
   *
   * @returns True at the end.
   * @throws {QemuFileError} (rejects) the backend's error, latched; `ECANCELED` when aborted.
   */
  atEnd(options?: WaitOptions): Promise<boolean>;

  /** Wait for one byte and get it. @see getByte */
  readByte(options?: WaitOptions): Promise<number>;

  /** Wait for one signed byte and get it. @see getSbyte */
  readSbyte(options?: WaitOptions): Promise<number>;

  /** Wait for 2 bytes and get them. @see getBe16 */
  readBe16(options?: WaitOptions): Promise<number>;

  /** Wait for 2 bytes and get them, signed. @see getSbe16 */
  readSbe16(options?: WaitOptions): Promise<number>;

  /** Wait for 4 bytes and get them. @see getBe32 */
  readBe32(options?: WaitOptions): Promise<number>;

  /** Wait for 4 bytes and get them, signed. @see getSbe32 */
  readSbe32(options?: WaitOptions): Promise<number>;

  /** Wait for 8 bytes and get them as a number. @see getBe64 */
  readBe64(options?: WaitOptions): Promise<number>;

  /** Wait for 8 bytes and get them as a bigint. @see getBe64Big */
  readBe64Big(options?: WaitOptions): Promise<bigint>;

  /** Wait for 8 bytes and get them, signed, as a number. @see getSbe64 */
  readSbe64(options?: WaitOptions): Promise<number>;

  /** Wait for 8 bytes and get them, signed, as a bigint. @see getSbe64Big */
  readSbe64Big(options?: WaitOptions): Promise<bigint>;

  /**
   * Wait for bytes and copy them. @see QEMU `qemu_get_buffer`
   *
   * @param target - A buffer of any size to fill completely, or a number of bytes, at most `maxLookAhead`.
   * @param options - `signal` ends the wait. A part of a target over 32768 bytes may be consumed by then.
   * @returns The number of bytes copied, or the new buffer.
   */
  readBuffer(target: Uint8Array, options?: WaitOptions): Promise<number>;
  readBuffer(size: number, options?: WaitOptions): Promise<Buffer>;

  /** Wait for a length byte and that many bytes and get them as text. @see getCountedString */
  readCountedString(encoding?: BufferEncoding, options?: WaitOptions): Promise<string>;

  /**
   * Wait for bytes and drop them, in constant memory.
   *
   * @param size - Any number of bytes, not negative; else RangeError.
   * @param options - `signal` ends the wait. A part of more than 32768 bytes may be consumed by then.
   */
  readSkip(size: number, options?: WaitOptions): Promise<void>;
}

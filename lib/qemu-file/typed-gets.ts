import { markHandled } from '../contract/backend-result.ts';
import type { WaitOptions } from './options.ts';
import { checkAttached, QemuFilePut } from './typed-puts.ts';

/**
 * The typed gets of a `QemuFile`; use `QemuFile`.
 *
 * Each comes in two forms. `get…` takes bytes that were looked ahead (`await file.fill(n)` once, then
 * any number of gets without another `await`) and throws `QemuFileError` `EAGAIN` if they are not
 * there, consuming nothing; in blocking mode it reads them from a backend that answers at once. `read…`
 * waits for the bytes. At the end of the stream both fail with `EIO`, which is latched; zeros are never
 * invented. On a file that cannot be read both fail with `EBADF`.
 */
export class QemuFileGet extends QemuFilePut {
  /** Gets one byte, 0…255. @see QEMU `qemu_get_byte`, `qemu_get_ubyte` */
  getByte(): number {
    return this.getHalf.byte();
  }

  /** Gets one signed byte, -128…127; QEMU's own does not extend the sign. @see QEMU `qemu_get_sbyte` */
  getSbyte(): number {
    return this.getHalf.sbyte();
  }

  /** Gets 2 bytes as 0…65535. @see QEMU `qemu_get_be16` */
  getBe16(): number {
    return this.getHalf.be16();
  }

  /** Gets 2 bytes as -32768…32767; QEMU's own does not extend the sign. @see QEMU `qemu_get_sbe16` */
  getSbe16(): number {
    return this.getHalf.sbe16();
  }

  /** Gets 4 bytes as 0…2^32-1. @see QEMU `qemu_get_be32` */
  getBe32(): number {
    return this.getHalf.be32();
  }

  /** Gets 4 bytes as -2^31…2^31-1. @see QEMU `qemu_get_sbe32` */
  getSbe32(): number {
    return this.getHalf.sbe32();
  }

  /**
   * Gets 8 bytes as a number. @see QEMU `qemu_get_be64`
   *
   * @throws RangeError for a value beyond 2^53-1, which is not consumed: use `getBe64Big`.
   */
  getBe64(): number {
    return this.getHalf.be64();
  }

  /** Gets 8 bytes as a bigint, 0…2^64-1. @see QEMU `qemu_get_be64` */
  getBe64Big(): bigint {
    return this.getHalf.be64Big();
  }

  /**
   * Gets 8 bytes, two's complement, as a number. @see QEMU `qemu_get_sbe64`
   *
   * @throws RangeError for a value beyond ±(2^53-1), which is not consumed: use `getSbe64Big`.
   */
  getSbe64(): number {
    return this.getHalf.sbe64();
  }

  /** Gets 8 bytes as a bigint, -2^63…2^63-1. @see QEMU `qemu_get_sbe64` */
  getSbe64Big(): bigint {
    return this.getHalf.sbe64Big();
  }

  /**
   * Copies bytes out of the look-ahead. @see QEMU `qemu_get_buffer`
   *
   * @param target - A buffer to fill wholly, or a number of bytes (at most `maxLookAhead`).
   * @returns The number of bytes copied, or the new buffer.
   */
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

  /**
   * Gets bytes as a view of the look-ahead, without a copy where they lie together.
   * @see QEMU `qemu_get_buffer_in_place`
   *
   * @param size - Number of bytes, at most `maxLookAhead`.
   * @returns A view that is valid until the next `fill`, `read…` or `await` on this file.
   */
  getBufferInPlace(size: number): Uint8Array {
    this.getHalf.need(size, 'getBufferInPlace');
    return this.getHalf.inPlace(size, 'getBufferInPlace');
  }

  /** Gets a length byte and that many bytes as text. @see QEMU `qemu_get_counted_string` */
  getCountedString(encoding: BufferEncoding = 'utf8'): string {
    this.getHalf.need(1, 'getCountedString');
    const length = this.peekByte(0);
    this.getHalf.need(1 + length, 'getCountedString');
    this.getHalf.skip(1);
    const bytes = this.getHalf.inPlace(length, 'getCountedString');
    return Buffer.from(bytes.buffer, bytes.byteOffset, length).toString(encoding);
  }

  /**
   * Looks at a byte without consuming it. @see QEMU `qemu_peek_byte`
   *
   * @param offset - 0…32767, counted from the next byte.
   * @throws {QemuFileError} `EAGAIN` if the byte is not there: `await fill(offset + 1)` first.
   */
  peekByte(offset: number): number {
    const bytes = this.getHalf.peek(1, offset);
    if (bytes.length === 0) this.getHalf.need(offset + 1, 'peekByte');
    return bytes[0] as number;
  }

  /**
   * Looks at bytes without consuming them. @see QEMU `qemu_peek_buffer`
   *
   * @param size - Number of bytes; `offset + size` is at most 32768.
   * @param offset - Where to begin, counted from the next byte. Default 0.
   * @returns A view of what is there, possibly shorter than asked for, valid as long as that of
   *   `getBufferInPlace`.
   */
  peekBuffer(size: number, offset = 0): Uint8Array {
    return this.getHalf.peek(size, offset);
  }

  /**
   * Consumes bytes that are there; does nothing at all if they are not. @see QEMU `qemu_file_skip`
   *
   * @param size - Number of bytes, not negative.
   * @returns Whether they were skipped.
   */
  skip(size: number): boolean {
    return this.getHalf.skip(size);
  }

  /**
   * Waits until bytes can be had with the `get…` methods.
   *
   * @param size - Number of bytes, at most `maxLookAhead`.
   * @returns The number of bytes that are there, at least `size`.
   * @throws {QemuFileError} (rejects) `EIO` at the end of the stream, or the backend's error, both
   *   latched; `ECANCELED` when aborted. RangeError for a size out of range.
   */
  fill(size: number, options: WaitOptions = {}): Promise<number> {
    const half = this.getHalf;
    return this.#read(size, 'fill', () => half.available, options);
  }

  /** Bytes that the `get…` methods can have now, without waiting. */
  get lookedAhead(): number {
    return this.getHalf.lookedAhead;
  }

  /**
   * Waits until bytes can be had with the `get…` methods, or the stream has ended; latches nothing at the end.
   *
   * @param size - Number of bytes, at most `maxLookAhead`.
   * @returns The number of bytes that are there: fewer than `size` only at the end.
   * @throws {QemuFileError} (rejects) the backend's error, latched; `ECANCELED` when aborted. RangeError
   *   for a size out of range.
   */
  fillOrEnd(size: number, options: WaitOptions = {}): Promise<number> {
    const half = this.getHalf;
    const take = (): number => half.available;
    return markHandled(
      half.wait({ size, operation: 'fillOrEnd', take, orEnd: true }, options.signal),
    );
  }

  /**
   * Waits for a byte or the end of the stream; latches nothing at the end.
   *
   * @returns True at the end.
   */
  atEnd(options: WaitOptions = {}): Promise<boolean> {
    const half = this.getHalf;
    const take = (): boolean => half.available === 0;
    return markHandled(
      half.wait({ size: 1, operation: 'atEnd', take, orEnd: true }, options.signal),
    );
  }

  /** Waits for one byte and gets it. @see getByte */
  readByte(options?: WaitOptions): Promise<number> {
    return this.#read(1, 'readByte', () => this.getHalf.byte(), options);
  }

  /** Waits for one signed byte and gets it. @see getSbyte */
  readSbyte(options?: WaitOptions): Promise<number> {
    return this.#read(1, 'readSbyte', () => this.getHalf.sbyte(), options);
  }

  /** Waits for 2 bytes and gets them. @see getBe16 */
  readBe16(options?: WaitOptions): Promise<number> {
    return this.#read(2, 'readBe16', () => this.getHalf.be16(), options);
  }

  /** Waits for 2 bytes and gets them, signed. @see getSbe16 */
  readSbe16(options?: WaitOptions): Promise<number> {
    return this.#read(2, 'readSbe16', () => this.getHalf.sbe16(), options);
  }

  /** Waits for 4 bytes and gets them. @see getBe32 */
  readBe32(options?: WaitOptions): Promise<number> {
    return this.#read(4, 'readBe32', () => this.getHalf.be32(), options);
  }

  /** Waits for 4 bytes and gets them, signed. @see getSbe32 */
  readSbe32(options?: WaitOptions): Promise<number> {
    return this.#read(4, 'readSbe32', () => this.getHalf.sbe32(), options);
  }

  /** Waits for 8 bytes and gets them as a number. @see getBe64 */
  readBe64(options?: WaitOptions): Promise<number> {
    return this.#read(8, 'readBe64', () => this.getHalf.be64(), options);
  }

  /** Waits for 8 bytes and gets them as a bigint. @see getBe64Big */
  readBe64Big(options?: WaitOptions): Promise<bigint> {
    return this.#read(8, 'readBe64Big', () => this.getHalf.be64Big(), options);
  }

  /** Waits for 8 bytes and gets them, signed, as a number. @see getSbe64 */
  readSbe64(options?: WaitOptions): Promise<number> {
    return this.#read(8, 'readSbe64', () => this.getHalf.sbe64(), options);
  }

  /** Waits for 8 bytes and gets them, signed, as a bigint. @see getSbe64Big */
  readSbe64Big(options?: WaitOptions): Promise<bigint> {
    return this.#read(8, 'readSbe64Big', () => this.getHalf.sbe64Big(), options);
  }

  /**
   * Waits for bytes and copies them. @see QEMU `qemu_get_buffer`
   *
   * @param target - A buffer of any size to fill wholly, or a number of bytes (at most `maxLookAhead`).
   * @param options - `signal` ends the wait; of a target over 32768 bytes a part may be consumed by then.
   * @returns The number of bytes copied, or the new buffer.
   */
  readBuffer(target: Uint8Array, options?: WaitOptions): Promise<number>;
  readBuffer(size: number, options?: WaitOptions): Promise<Buffer>;
  readBuffer(target: Uint8Array | number, options?: WaitOptions): Promise<number | Buffer> {
    if (typeof target === 'number') {
      return this.#read(target, 'readBuffer', () => this.getBuffer(target), options);
    }
    try {
      checkAttached(target, 'readBuffer');
    } catch (error) {
      return markHandled(Promise.reject(error));
    }
    const half = this.getHalf;
    let copied = 0;
    const more = (): number => {
      copied += half.copySome(target.subarray(copied));
      return Math.min(target.length - copied, half.chunkLimit);
    };
    const size = Math.min(target.length, half.chunkLimit);
    const wish = { size, operation: 'readBuffer', more, take: () => copied };
    return markHandled(half.wait(wish, options?.signal));
  }

  /** Waits for a length byte and that many bytes and gets them as text. @see getCountedString */
  readCountedString(encoding?: BufferEncoding, options?: WaitOptions): Promise<string> {
    const more = (): number => {
      const wanted = 1 + this.peekByte(0);
      return this.getHalf.available >= wanted ? 0 : wanted;
    };
    const take = (): string => this.getCountedString(encoding);
    const wish = { size: 1, operation: 'readCountedString', more, take };
    return markHandled(this.getHalf.wait(wish, options?.signal));
  }

  /**
   * Waits for bytes and drops them, in constant memory.
   *
   * @param size - Any number of bytes, not negative; else RangeError.
   * @param options - `signal` ends the wait; of more than 32768 bytes a part may be consumed by then.
   */
  readSkip(size: number, options?: WaitOptions): Promise<void> {
    if (!(Number.isSafeInteger(size) && size >= 0)) {
      return markHandled(
        Promise.reject(new RangeError(`readSkip: ${size} is not a number of bytes`)),
      );
    }
    const half = this.getHalf;
    let left = size;
    const more = (): number => {
      left -= half.dropSome(left);
      return Math.min(left, half.chunkLimit);
    };
    const first = Math.min(left, half.chunkLimit);
    const wish = { size: first, operation: 'readSkip', more, take: () => {} };
    return markHandled(half.wait(wish, options?.signal));
  }

  #read<T>(size: number, operation: string, take: () => T, options?: WaitOptions): Promise<T> {
    return markHandled(this.getHalf.wait({ size, operation, take }, options?.signal));
  }
}

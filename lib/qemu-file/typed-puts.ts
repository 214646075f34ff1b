import { deflateSync } from 'node:zlib';
import { QemuFileError } from '../contract/errors.ts';
import { compressBound } from '../util/compress-bound.ts';
import { QemuFileStream } from './lifecycle.ts';

/** Guards against a buffer whose memory went elsewhere: it looks empty, and its bytes would be lost. */
export function checkAttached(bytes: Uint8Array, method: string): void {
  if (!(bytes instanceof Uint8Array)) {
    throw new TypeError(`${method}: give a Uint8Array or Buffer`);
  }
  if (bytes.length > 0) return;
  try {
    new Uint8Array(bytes.buffer);
  } catch (error) {
    throw new TypeError(`${method}: the buffer is detached, its bytes are gone`, { cause: error });
  }
}

/**
 * The typed puts of a `QemuFile`; use `QemuFile`.
 *
 * All are synchronous: they stage bytes or queue a reference, never wait and never throw for a failure
 * of the backend. After an error was latched they do nothing. Each throws `RangeError` for a value that
 * does not fit, before anything is staged, and `QemuFileError` `EBADF` on a file that cannot be written
 * or was ended.
 */
export class QemuFilePut extends QemuFileStream {
  /** Puts one byte, 0…255. @see QEMU `qemu_put_byte` */
  putByte(value: number): void {
    this.putHalf.byte(value);
  }

  /** Puts one signed byte, -128…127. @see QEMU `qemu_put_sbyte` */
  putSbyte(value: number): void {
    this.putHalf.sbyte(value);
  }

  /** Puts 2 bytes, most significant first: 0…65535. @see QEMU `qemu_put_be16` */
  putBe16(value: number): void {
    this.putHalf.be16(value);
  }

  /** Puts 2 bytes, two's complement: -32768…32767. @see QEMU `qemu_put_sbe16` */
  putSbe16(value: number): void {
    this.putHalf.sbe16(value);
  }

  /** Puts 4 bytes, most significant first: 0…2^32-1. @see QEMU `qemu_put_be32` */
  putBe32(value: number): void {
    this.putHalf.be32(value);
  }

  /** Puts 4 bytes, two's complement: -2^31…2^31-1. @see QEMU `qemu_put_sbe32` */
  putSbe32(value: number): void {
    this.putHalf.sbe32(value);
  }

  /**
   * Puts 8 bytes, most significant first. @see QEMU `qemu_put_be64`
   *
   * @param value - 0…2^53-1 as a number (fast), 0…2^64-1 as a bigint.
   */
  putBe64(value: number | bigint): void {
    this.putHalf.be64(value);
  }

  /**
   * Puts 8 bytes, two's complement. @see QEMU `qemu_put_sbe64`
   *
   * @param value - ±(2^53-1) as a number (fast), -2^63…2^63-1 as a bigint.
   */
  putSbe64(value: number | bigint): void {
    this.putHalf.sbe64(value);
  }

  /**
   * Puts bytes, copying them: the caller may reuse its memory at once. @see QEMU `qemu_put_buffer`
   *
   * @param bytes - Any number of them. Far more than `maxPendingBytes` at once on an asynchronous
   *   backend latches `ENOBUFS`; use `write()` or `putBufferAsync` for those.
   * @throws TypeError if the buffer is detached.
   */
  putBuffer(bytes: Uint8Array): void {
    checkAttached(bytes, 'putBuffer');
    this.putHalf.copy(bytes);
  }

  /**
   * Puts bytes by reference: the memory must stay as it is until `onRelease`, for what it holds when the
   * batch leaves is what is sent. (Buffers within the backend's `copyLimit` are copied at once, where that
   * is faster.) @see QEMU `qemu_put_buffer_async`
   *
   * @param bytes - Any number of them.
   * @param onRelease - Runs once, after the backend took the batch with these bytes, or it failed: QEMU's
   *   `may_free`.
   * @throws TypeError if the buffer is detached. One detached later latches `EFAULT`.
   */
  putBufferAsync(bytes: Uint8Array, onRelease?: () => void): void {
    checkAttached(bytes, 'putBufferAsync');
    this.putHalf.reference(bytes, onRelease);
  }

  /**
   * Puts a length byte and that many bytes of UTF-8, without terminator. @see QEMU `qemu_put_counted_string`
   *
   * @param text - At most 255 bytes when encoded; a longer one throws RangeError, nothing is staged.
   */
  putCountedString(text: string): void {
    if (this.putHalf.countedAscii(text)) return;
    const bytes = Buffer.from(text, 'utf8');
    if (bytes.length > 255) {
      throw new RangeError(`putCountedString: ${bytes.length} bytes do not fit in 255`);
    }
    this.putHalf.byte(bytes.length);
    this.putHalf.copy(bytes);
  }

  /**
   * Puts bytes compressed with zlib: a be32 length, then the compressed bytes, which the rate limit
   * does not count. @see QEMU `qemu_put_compression_data`
   *
   * @param bytes - What to compress; its worst case must fit the staging area.
   * @param level - zlib's level, -1…9. Default 1, as QEMU's `compress-level`.
   * @returns Bytes put, or -1 if the worst case does not fit, or an error is latched.
   */
  putCompressionData(bytes: Uint8Array, level = 1): number {
    checkAttached(bytes, 'putCompressionData');
    if (this.error !== null || !this.putHalf.reserve(4 + compressBound(bytes.length))) return -1;
    const compressed = deflateSync(bytes, { level });
    this.putHalf.be32(compressed.length);
    this.putHalf.copy(compressed);
    this.putHalf.limiter.discount(compressed.length);
    return compressed.length + 4;
  }

  /**
   * Moves what another file has put and not yet sent into this one; that file is empty afterwards.
   * Made for files without a backend, `new QemuFile({})`, that only stage. By-reference bytes travel,
   * too, which QEMU's do not. @see QEMU `qemu_put_qemu_file`
   *
   * @param source - Another file.
   * @returns Bytes moved.
   */
  putQemuFile(source: QemuFilePut): number {
    if (source === this) throw new QemuFileError('EINVAL', 'a file cannot be put into itself');
    return this.putHalf.adopt(source.putHalf);
  }
}

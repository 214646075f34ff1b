/**
 * The typed puts of a `QemuFile`.
 *
 * All are synchronous: they stage bytes or queue a reference, and never wait. A failure of the backend is
 * latched, not thrown; after that puts do nothing. Each put throws `RangeError` for a value that does not
 * fit, before anything is staged, and `QemuFileError` `EBADF` on a file that is not writable or was ended.
 */
export interface TypedPuts {
  /** Put one byte, 0…255. @see QEMU `qemu_put_byte` */
  putByte(value: number): void;

  /** Put one signed byte, -128…127. @see QEMU `qemu_put_sbyte` */
  putSbyte(value: number): void;

  /** Put 2 bytes, most significant first: 0…65535. @see QEMU `qemu_put_be16` */
  putBe16(value: number): void;

  /** Put 2 bytes, two's complement: -32768…32767. @see QEMU `qemu_put_sbe16` */
  putSbe16(value: number): void;

  /** Put 4 bytes, most significant first: 0…2^32-1. @see QEMU `qemu_put_be32` */
  putBe32(value: number): void;

  /** Put 4 bytes, two's complement: -2^31…2^31-1. @see QEMU `qemu_put_sbe32` */
  putSbe32(value: number): void;

  /**
   * Put 8 bytes, most significant first. @see QEMU `qemu_put_be64`
   *
   * @param value - 0…2^53-1 as a number (fast), 0…2^64-1 as a bigint.
   */
  putBe64(value: number | bigint): void;

  /**
   * Put 8 bytes, two's complement. @see QEMU `qemu_put_sbe64`
   *
   * @param value - ±(2^53-1) as a number (fast), -2^63…2^63-1 as a bigint.
   */
  putSbe64(value: number | bigint): void;

  /**
   * Put a copy of bytes: the caller may reuse its memory at once. @see QEMU `qemu_put_buffer`
   *
   * @param bytes - Any number of bytes. Far more than `maxPendingBytes` at once on an asynchronous
   *   backend latches `ENOBUFS`; use `write()` or `putBufferAsync` for those.
   * @throws TypeError if the buffer is detached.
   */
  putBuffer(bytes: Uint8Array): void;

  /**
   * Put bytes by reference. The caller must not change the memory until `onRelease`, because the bytes
   * are sent as they are when the batch leaves. Buffers within the backend's `copyLimit` are copied at once,
   * where that is faster. @see QEMU `qemu_put_buffer_async`
   *
   * @param bytes - Any number of bytes.
   * @param onRelease - Called once, after the backend took the batch with these bytes, or failed: QEMU's
   *   `may_free`.
   * @throws TypeError if the buffer is detached. One that is detached later latches `EFAULT`.
   */
  putBufferAsync(bytes: Uint8Array, onRelease?: () => void): void;

  /**
   * Put a length byte and that many bytes of UTF-8, without a terminator. @see QEMU `qemu_put_counted_string`
   *
   * @param text - At most 255 bytes when encoded; a longer text throws RangeError.
   */
  putCountedString(text: string): void;

  /**
   * Put bytes compressed with zlib: a be32 length, then the compressed bytes, which the rate limit
   * does not count. @see QEMU `qemu_put_compression_data`
   *
   * @param bytes - The bytes to compress. Their worst case must fit the staging area.
   * @param level - zlib's level, -1…9. Default 1, as QEMU's `compress-level`.
   * @returns The number of bytes put, or -1 if the worst case does not fit, or an error is latched.
   */
  putCompressionData(bytes: Uint8Array, level?: number): number;
}

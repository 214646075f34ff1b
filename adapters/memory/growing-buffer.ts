import { QemuFileError, type QemuFileErrorContext } from '../../lib/contract/errors.ts';

/** Size of the first allocation, in bytes. */
const MIN_ALLOCATION_BYTES = 4096;

/** Bytes in memory that grow as they are written, up to a limit. */
export class GrowingBuffer {
  readonly #limit: number;
  #bytes: Buffer;
  #length: number;

  /**
   * @param initial - The first content, which is copied.
   * @param limit - Greatest size in bytes.
   */
  constructor(initial: Uint8Array | undefined, limit: number) {
    this.#limit = limit;
    this.#bytes = Buffer.from(initial ?? []);
    this.#length = this.#bytes.length;
  }

  get length(): number {
    return this.#length;
  }

  /**
   * Grow to a length; bytes that no write has reached are zeros.
   *
   * @throws {QemuFileError} `ENOSPC` beyond the limit; nothing changes.
   */
  reserve(length: number, context: QemuFileErrorContext): void {
    if (length > this.#limit) {
      const reason = `the memory is limited to ${this.#limit} bytes`;
      throw new QemuFileError('ENOSPC', reason, context);
    }
    if (length > this.#bytes.length) {
      const wanted = Math.max(length, 2 * this.#bytes.length, MIN_ALLOCATION_BYTES);
      const grown = Buffer.alloc(Math.min(this.#limit, wanted));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
    this.#length = Math.max(this.#length, length);
  }

  /** Write bytes whose place is reserved. */
  write(source: Uint8Array, offset: number): void {
    this.#bytes.set(source, offset);
  }

  /** Copy bytes from an offset on, up to the target's size; return how many. */
  read(target: Uint8Array, offset: number): number {
    const found = this.#bytes.subarray(offset, Math.min(this.#length, offset + target.length));
    target.set(found);
    return found.length;
  }

  /** Return a view of all bytes; see `MemoryOps.contents`. */
  contents(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}

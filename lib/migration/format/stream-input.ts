import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { printable } from '../../util/format.ts';
import { MigrationStreamError, type SectionName, type StreamFault } from './stream-error.ts';

const UTF8 = new TextDecoder('utf-8');

/** Bytes that are copied out at a time: a length from the stream is allocated only as its bytes arrive. */
const READ_CHUNK_BYTES = 1_048_576;

/** Smallest gap that is crossed by a seek. */
const MIN_SEEK_BYTES = 1_048_576;

/**
 * The input of a parser: a `QemuFile` whose offsets count from the start of the stream, and whose end is
 * reported with the name of the field that it truncates.
 *
 * Call `await input.need(n, 'what')` once, then any typed gets of up to `n` bytes together.
 */
export class StreamInput {
  readonly file: QemuFile;
  /** Offset in the stream of the file's byte 0. */
  #base: number;
  /** Offset in the file's transport of the stream's first byte; undefined if gaps must be read, not seeked over. */
  readonly #origin: number | undefined;
  /** The section that is being read; errors name it. */
  section: SectionName | undefined;

  /**
   * @param base - Offset in the stream of the file's byte 0.
   * @param origin - Offset in the file's transport of the stream's first byte, if the transport can seek.
   */
  constructor(file: QemuFile, base = 0, origin?: number) {
    this.file = file;
    this.#base = base;
    this.#origin = origin;
  }

  /** Offset in the stream of the next byte. */
  get position(): number {
    return this.#base + this.file.getPosition;
  }

  /** Bytes that can be read without waiting. */
  get available(): number {
    return this.file.lookedAhead;
  }

  /**
   * Wait until `size` bytes are available.
   *
   * @param what - Name of these bytes for the error, such as `the footer`.
   * @throws {MigrationStreamError} (rejects) `truncated` if the stream ends before.
   */
  need(size: number, what: string): Promise<void> | void {
    if (this.file.lookedAhead < size) return this.#wait(size, what);
  }

  async #wait(size: number, what: string): Promise<void> {
    const available = await this.file.fillOrEnd(size);
    if (available < size) throw this.#truncated(what, available, size);
  }

  #truncated(what: string, available: number, size: number): MigrationStreamError {
    const reason = `the stream ends inside ${what}: ${available} of ${size} bytes`;
    return this.error('truncated', reason);
  }

  /** Wait for one more byte; return true if the stream has ended instead. */
  async atEnd(): Promise<boolean> {
    return this.file.lookedAhead === 0 && (await this.file.fillOrEnd(1)) === 0;
  }

  u8(): number {
    return this.file.getByte();
  }

  be16(): number {
    return this.file.getBe16();
  }

  be32(): number {
    return this.file.getBe32();
  }

  be64(): bigint {
    return this.file.getBe64Big();
  }

  /** Consume `size` bytes and return a view of them, valid until the next wait. */
  view(size: number): Uint8Array {
    return this.file.getBufferInPlace(size);
  }

  /** Wait for `size` bytes and return a copy. Any size is safe: memory is allocated as the bytes arrive. */
  async bytes(size: number, what: string): Promise<Buffer> {
    if (size <= READ_CHUNK_BYTES) {
      await this.need(size, what);
      return this.file.getBuffer(size);
    }
    const pieces: Buffer[] = [];
    let read = 0;
    while (read < size) {
      const take = Math.min(size - read, READ_CHUNK_BYTES);
      if ((await this.file.fillOrEnd(take)) < take) throw this.#truncated(what, read, size);
      pieces.push(this.file.getBuffer(take));
      read += take;
    }
    return Buffer.concat(pieces);
  }

  /** Wait for a counted string (length byte and text) and return it; invalid UTF-8 becomes U+FFFD. */
  async counted(what: string): Promise<string> {
    await this.need(1, what);
    const length = this.file.peekByte(0);
    await this.need(1 + length, what);
    this.file.skip(1);
    return UTF8.decode(this.view(length));
  }

  /** Skip `size` bytes in constant memory; seek over a large gap if the transport can. */
  async skip(size: number, what: string): Promise<void> {
    const target = this.position + size;
    if (this.#origin !== undefined && size - this.available >= MIN_SEEK_BYTES) {
      await this.file.setOffset(this.#origin + target);
      this.#base = target - this.file.getPosition;
      return;
    }
    let left = size;
    while (left > 0) {
      await this.need(1, what);
      const take = Math.min(left, this.file.lookedAhead);
      this.file.skip(take);
      left -= take;
    }
  }

  /** Put bytes back in front of the next one. */
  unread(bytes: Buffer): void {
    if (bytes.length > 0) this.file.unshift(bytes);
  }

  /**
   * Return an error at a place of this stream, in the section that is being read.
   *
   * @param reason - A clause without a full stop; made `printable` here.
   * @param position - Offset in the stream. Default: the next byte.
   */
  error(
    fault: StreamFault,
    reason: string,
    position: number = this.position,
  ): MigrationStreamError {
    return new MigrationStreamError(fault, printable(reason), { position, section: this.section });
  }
}

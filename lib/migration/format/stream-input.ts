import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { printable } from '../../util/format.ts';
import { MigrationStreamError, type SectionName, type StreamFault } from './stream-error.ts';

const UTF8 = new TextDecoder('utf-8');

/** Bytes that are copied out at a time: a length that a stream names is allocated only as it arrives. */
const PIECE = 1_048_576;

/** Least gap that is worth a seek. */
const SEEK_GAP = 1_048_576;

/**
 * Where a parser gets its bytes from: a `QemuFile`, with offsets in the stream, and an end that is
 * reported as what it cuts off.
 *
 * `await input.need(n, 'what')` once, then any number of typed gets of up to `n` bytes.
 */
export class StreamInput {
  readonly file: QemuFile;
  /** Offset in the stream of what the file counts as its byte 0. */
  #base: number;
  /** Offset in the file's transport of the stream's first byte, if the transport can seek. */
  readonly #origin: number | undefined;
  /** The section that is being read: errors name it. */
  section: SectionName | undefined;

  /**
   * @param base - Offset in the stream of the file's byte 0.
   * @param origin - Offset in the file's transport of the stream's first byte, if gaps may be crossed by
   *   seeking.
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

  /** Bytes that can be had without waiting. */
  get available(): number {
    return this.file.lookedAhead;
  }

  /**
   * Waits until `size` bytes are there.
   *
   * @param what - What they are, for the error: `the footer`.
   * @throws {MigrationStreamError} (rejects) `truncated` at the end of the stream.
   */
  need(size: number, what: string): Promise<void> | void {
    if (this.file.lookedAhead < size) return this.#wait(size, what);
  }

  async #wait(size: number, what: string): Promise<void> {
    const there = await this.file.fillOrEnd(size);
    if (there < size) throw this.#cut(what, there, size);
  }

  #cut(what: string, there: number, size: number): MigrationStreamError {
    const reason = `the stream ends inside ${what}: ${there} of ${size} bytes are there`;
    return this.error('truncated', reason);
  }

  /** Waits for one more byte; true if there is none, for the stream has ended. */
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

  /** The next bytes as a view that is valid until the next wait. */
  view(size: number): Uint8Array {
    return this.file.getBufferInPlace(size);
  }

  /** Waits for bytes and gets a copy of them; of any size, for they are allocated as they arrive. */
  async bytes(size: number, what: string): Promise<Buffer> {
    if (size <= PIECE) {
      await this.need(size, what);
      return this.file.getBuffer(size);
    }
    const pieces: Buffer[] = [];
    let there = 0;
    while (there < size) {
      const take = Math.min(size - there, PIECE);
      if ((await this.file.fillOrEnd(take)) < take) throw this.#cut(what, there, size);
      pieces.push(this.file.getBuffer(take));
      there += take;
    }
    return Buffer.concat(pieces);
  }

  /** Waits for a length byte and as much text; bytes that are no UTF-8 become U+FFFD. */
  async counted(what: string): Promise<string> {
    await this.need(1, what);
    const length = this.file.peekByte(0);
    await this.need(1 + length, what);
    this.file.skip(1);
    return UTF8.decode(this.view(length));
  }

  /** Drops bytes, in constant memory; seeks over a large gap if the transport can. */
  async skip(size: number, what: string): Promise<void> {
    const target = this.position + size;
    if (this.#origin !== undefined && size - this.available >= SEEK_GAP) {
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

  /** Puts bytes back in front of the next one. */
  unread(bytes: Buffer): void {
    if (bytes.length > 0) this.file.unshift(bytes);
  }

  /**
   * Makes an error at a place of this stream.
   *
   * @param position - Default: the next byte.
   */
  error(
    fault: StreamFault,
    reason: string,
    position: number = this.position,
  ): MigrationStreamError {
    return new MigrationStreamError(fault, printable(reason), { position, section: this.section });
  }
}

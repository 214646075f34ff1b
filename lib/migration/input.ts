import type { QemuFile } from '../qemu-file.ts';
import { MigrationStreamError, printable, type SectionName } from './stream-error.ts';

const UTF8 = new TextDecoder('utf-8');

/**
 * Where a parser gets its bytes from: a `QemuFile`, with offsets in the stream, and an end that is
 * reported as what it cuts off.
 *
 * `await input.need(n, 'what')` once, then any number of typed gets of up to `n` bytes.
 */
export class StreamInput {
  readonly file: QemuFile;
  readonly #base: number;
  /** The section that is being read: errors name it. */
  section: SectionName | undefined;

  /**
   * @param file - Its next byte is the first one.
   * @param base - Offset in the stream of the file's byte 0.
   */
  constructor(file: QemuFile, base = 0) {
    this.file = file;
    this.#base = base;
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
    if (there < size) {
      const reason = `the stream ends inside ${what}: ${there} of ${size} bytes are there`;
      throw this.error('truncated', reason);
    }
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

  /** Waits for bytes and gets a copy of them. */
  async bytes(size: number, what: string): Promise<Buffer> {
    await this.need(size, what);
    return this.file.getBuffer(size);
  }

  /** Waits for a length byte and as much text; bytes that are no UTF-8 become U+FFFD. */
  async counted(what: string): Promise<string> {
    await this.need(1, what);
    const length = this.file.peekByte(0);
    await this.need(1 + length, what);
    this.file.skip(1);
    return UTF8.decode(this.view(length));
  }

  /** Drops bytes, in constant memory. */
  async skip(size: number, what: string): Promise<void> {
    let left = size;
    while (left > 0) {
      await this.need(1, what);
      const take = Math.min(left, this.file.lookedAhead);
      this.file.skip(take);
      left -= take;
    }
  }

  /**
   * Makes an error at a place of this stream.
   *
   * @param position - Default: the next byte.
   */
  error(
    fault: 'corrupt' | 'truncated' | 'unsupported' | 'not-a-stream',
    reason: string,
    position: number = this.position,
  ): MigrationStreamError {
    return new MigrationStreamError(fault, printable(reason), { position, section: this.section });
  }
}

import { QemuFileError } from '../../contract/errors.ts';

const NEWLINE = 0x0a;

/** Cuts what comes in into lines; what a line consists of is copied once, however many pieces it came in. */
export class LineSplitter {
  readonly #maxBytes: number;
  #pieces: Buffer[] = [];
  #length = 0;

  /** @param maxBytes - Longest line, its end not counted. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The beginning of a line whose end has not come, as far as it helps to see what it may be. */
  get rest(): string {
    return Buffer.concat(this.#pieces.slice(0, 1)).toString('utf8', 0, 100);
  }

  /**
   * Takes bytes in.
   *
   * @returns The lines that are complete with them, without their ends.
   * @throws {QemuFileError} `EMSGSIZE` for a line that is too long.
   */
  add(chunk: Buffer): string[] {
    const lines: string[] = [];
    for (let start = 0; start < chunk.length; ) {
      const end = chunk.indexOf(NEWLINE, start);
      const piece = chunk.subarray(start, end < 0 ? chunk.length : end);
      this.#length += piece.length;
      if (this.#length > this.#maxBytes) {
        const reason = `a line is longer than ${this.#maxBytes} bytes`;
        throw new QemuFileError('EMSGSIZE', reason, { operation: 'QmpClient' });
      }
      this.#pieces.push(piece);
      if (end < 0) break;
      // Decoded as a whole: a character may be in two pieces.
      lines.push(Buffer.concat(this.#pieces).toString('utf8'));
      this.#pieces = [];
      this.#length = 0;
      start = end + 1;
    }
    return lines;
  }
}

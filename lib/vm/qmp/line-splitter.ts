import { QemuFileError } from '../../contract/errors.ts';

const NEWLINE = 0x0a;
/** Bytes of an unfinished line that `rest` returns. */
const REST_BYTES = 100;

/** Splits a byte stream into lines. The bytes of a line are copied once, however many chunks it arrives in. */
export class LineSplitter {
  readonly #maxBytes: number;
  readonly #operation: string;
  #chunks: Buffer[] = [];
  #length = 0;

  /**
   * @param maxBytes - Longest line in bytes, without its newline.
   * @param operation - Public name of the operation that the error names.
   */
  constructor(maxBytes: number, operation: string) {
    this.#maxBytes = maxBytes;
    this.#operation = operation;
  }

  /** The first bytes of the unfinished line, enough to recognise what it is. */
  get rest(): string {
    return Buffer.concat(this.#chunks.slice(0, 1)).toString('utf8', 0, REST_BYTES);
  }

  /**
   * Add bytes and report every line that they complete.
   *
   * @param onLine - Receives each line without its newline, as soon as it is complete.
   * @throws {QemuFileError} `EMSGSIZE` for a line that is too long; the lines before it have been reported.
   */
  add(chunk: Buffer, onLine: (line: string) => void): void {
    for (let start = 0; start < chunk.length; ) {
      const end = chunk.indexOf(NEWLINE, start);
      const part = chunk.subarray(start, end < 0 ? chunk.length : end);
      this.#length += part.length;
      if (this.#length > this.#maxBytes) {
        const reason = `a line is longer than ${this.#maxBytes} bytes`;
        throw new QemuFileError('EMSGSIZE', reason, { operation: this.#operation });
      }
      this.#chunks.push(part);
      if (end < 0) return;
      // Decode the whole line at once, because a chunk may end inside a UTF-8 character.
      const line = Buffer.concat(this.#chunks).toString('utf8');
      this.#chunks = [];
      this.#length = 0;
      start = end + 1;
      onLine(line);
    }
  }
}

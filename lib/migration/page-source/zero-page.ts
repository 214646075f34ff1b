/** Recognises pages of zeros in any memory. */
export class ZeroPage {
  readonly #zeros: Buffer;
  /** Offset of the last byte of a page. */
  readonly #last: number;

  constructor(pageSize: number) {
    this.#zeros = Buffer.alloc(pageSize);
    this.#last = pageSize - 1;
  }

  /** Return whether the page at byte `at` is all zeros. */
  isAt(bytes: Buffer, at: number): boolean {
    const last = at + this.#last;
    // Two bytes rule out most data at no cost.
    if (bytes[at] !== 0 || bytes[last] !== 0) return false;
    return bytes.compare(this.#zeros, 0, this.#last + 1, at, last + 1) === 0;
  }
}

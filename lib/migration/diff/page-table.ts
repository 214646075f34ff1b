/** Wrong matches of one page after which it is not looked up again: a guest can make contents collide in XXH64. */
const MAX_WRONG_MATCHES = 8;

/** End of a chain. */
export const NO_PAGE = -1;

/** Finds pages by a 64-bit hash, in a number of bytes per page that is fixed: 31 to 47. */
export class PageTable {
  readonly #slots: Int32Array;
  readonly #mask: number;
  readonly #low: Uint32Array;
  readonly #high: Uint32Array;
  readonly #next: Int32Array;
  readonly #block: Uint16Array;
  readonly #offset: Float64Array;
  readonly #wrongMatches: Uint8Array;
  readonly #isFound: Uint8Array;
  #size = 0;

  /** @param capacity - Most pages. */
  constructor(capacity: number) {
    const slotCount = 2 ** Math.ceil(Math.log2(Math.max(2 * capacity, 2)));
    this.#slots = new Int32Array(slotCount).fill(NO_PAGE);
    this.#mask = slotCount - 1;
    this.#low = new Uint32Array(capacity);
    this.#high = new Uint32Array(capacity);
    this.#next = new Int32Array(capacity);
    this.#block = new Uint16Array(capacity);
    this.#offset = new Float64Array(capacity);
    this.#wrongMatches = new Uint8Array(capacity);
    this.#isFound = new Uint8Array(capacity);
  }

  /** Number of pages. */
  get size(): number {
    return this.#size;
  }

  /**
   * Add a page.
   *
   * @param low - The low half of its hash.
   * @param high - The high half.
   * @param block - Index of its block, below 65536.
   * @param offset - Offset in the block.
   */
  add(low: number, high: number, block: number, offset: number): void {
    const page = this.#size++;
    const slot = low & this.#mask;
    this.#low[page] = low;
    this.#high[page] = high;
    this.#block[page] = block;
    this.#offset[page] = offset;
    this.#next[page] = this.#slots[slot] as number;
    this.#slots[slot] = page;
  }

  /**
   * Return a page with this hash that is still looked for, or `NO_PAGE`.
   *
   * @param after - The last page that was returned for this hash; the search goes on after it.
   */
  find(low: number, high: number, after: number = NO_PAGE): number {
    let page = (after === NO_PAGE ? this.#slots[low & this.#mask] : this.#next[after]) as number;
    while (page !== NO_PAGE) {
      if (this.#low[page] === low && this.#high[page] === high && this.#isSought(page)) return page;
      page = this.#next[page] as number;
    }
    return NO_PAGE;
  }

  /** Return the index of the block of a page. */
  blockOf(page: number): number {
    return this.#block[page] as number;
  }

  /** Return the offset of a page in its block. */
  offsetOf(page: number): number {
    return this.#offset[page] as number;
  }

  /** Note that a page was found. */
  setFound(page: number): void {
    this.#isFound[page] = 1;
  }

  /** Return whether a page was found. */
  isFound(page: number): boolean {
    return this.#isFound[page] === 1;
  }

  /** Note that other contents have the same hash. */
  noteWrongMatch(page: number): void {
    this.#wrongMatches[page] = (this.#wrongMatches[page] as number) + 1;
  }

  #isSought(page: number): boolean {
    return this.#isFound[page] === 0 && (this.#wrongMatches[page] as number) < MAX_WRONG_MATCHES;
  }
}

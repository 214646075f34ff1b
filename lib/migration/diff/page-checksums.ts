import { WINDOW_BYTES } from './page-windows.ts';

/**
 * Return the checksum of a page. Equal pages have equal ones; different pages mostly have different ones, for a
 * fraction of the cost of a hash.
 *
 * @param words - The window that the page is in.
 * @param first - Index of the page's first word.
 * @param count - Number of its words; a multiple of 4.
 */
export function pageChecksum(words: Int32Array, first: number, count: number): number {
  // Four independent sums, which a processor can add at the same time.
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let at = first; at < first + count; at += 4) {
    a = (a + (words[at] as number)) | 0;
    b = (b + (words[at + 1] as number)) | 0;
    c = (c + (words[at + 2] as number)) | 0;
    d = (d + (words[at + 3] as number)) | 0;
  }
  return (Math.imul(Math.imul(Math.imul(a, 31) + b, 31) + c, 31) + d) >>> 0;
}

/** Checksums of the pages of a guest, by windows: 4 bytes for each page. */
export class PageChecksums {
  /** Of each block by its index, the windows by their number. */
  readonly #blocks: Map<number, Uint32Array>[] = [];

  /** Keep the checksums of all pages of a window. */
  add(block: number, at: number, bytes: Buffer, pageSize: number): void {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const pageWords = pageSize / 4;
    const checksums = new Uint32Array(bytes.length / pageSize);
    for (let page = 0; page < checksums.length; page++) {
      checksums[page] = pageChecksum(words, page * pageWords, pageWords);
    }
    this.#blocks[block] ??= new Map();
    this.#blocks[block].set(at / WINDOW_BYTES, checksums);
  }

  /** Return the checksums of the pages of a window, as many as were added; undefined if none were. */
  of(block: number, at: number): Uint32Array | undefined {
    return this.#blocks[block]?.get(at / WINDOW_BYTES);
  }
}

/** A set of checksums in 4 bytes each. */
export class ChecksumSet {
  readonly #checksums: Uint32Array;
  #size = 0;

  constructor(capacity: number) {
    this.#checksums = new Uint32Array(capacity);
  }

  add(checksum: number): void {
    this.#checksums[this.#size++] = checksum;
  }

  /** Sort the set after the last `add`, so that `has` can search. */
  sort(): void {
    this.#checksums.subarray(0, this.#size).sort();
  }

  has(checksum: number): boolean {
    let low = 0;
    let high = this.#size;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#checksums[middle] as number) < checksum) low = middle + 1;
      else high = middle;
    }
    return low < this.#size && this.#checksums[low] === checksum;
  }
}

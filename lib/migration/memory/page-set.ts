import { QemuFileError } from '../../contract/errors.ts';

/** Pages covered by one chunk of a set: 1 KiB of bits. */
const CHUNK_PAGES = 8192;
const CHUNK_WORDS = CHUNK_PAGES / 32;

/** Most chunks of a set: they take 256 MiB and cover 8 TiB of adjacent 4 KiB pages. */
const MAX_CHUNKS = 262_144;

/**
 * A set of page numbers below 2^53 for runs of pages in a mostly empty space: one bit per page, in chunks
 * that are allocated where a page is added.
 */
export class PageSet {
  readonly #chunks = new Map<number, Uint32Array>();
  readonly #maxChunks: number;
  // Pages arrive in order, so the next access nearly always hits the same chunk.
  #lastKey = -1;
  #last: Uint32Array | undefined;

  /** @param maxChunks - Bound on memory, in chunks of 1 KiB, each for 8192 pages. Default 262144. */
  constructor(maxChunks: number = MAX_CHUNKS) {
    this.#maxChunks = maxChunks;
  }

  /** Return whether a page is in the set. */
  has(page: number): boolean {
    const key = Math.floor(page / CHUNK_PAGES);
    const words = this.#chunk(key);
    if (words === undefined) return false;
    const bit = page - key * CHUNK_PAGES;
    return (((words[bit >>> 5] as number) >>> (bit & 31)) & 1) === 1;
  }

  /**
   * Add the pages from `first` up to, not including, `end`.
   *
   * @throws {QemuFileError} `ENOMEM` if the set would need more than its maximum of chunks.
   */
  add(first: number, end: number): void {
    for (let at = first; at < end; ) {
      const key = Math.floor(at / CHUNK_PAGES);
      const base = key * CHUNK_PAGES;
      const stop = Math.min(end, base + CHUNK_PAGES);
      const words = this.#chunk(key) ?? this.#grow(key);
      if (stop === at + 1) {
        const bit = at - base;
        words[bit >>> 5] = (words[bit >>> 5] as number) | (1 << (bit & 31));
      } else {
        change(words, at - base, stop - base, true);
      }
      at = stop;
    }
  }

  /** Remove the pages from `first` up to, not including, `end`. */
  remove(first: number, end: number): void {
    for (const [key, words] of this.#chunksWithin(first, end)) {
      const base = key * CHUNK_PAGES;
      const stop = Math.min(end - base, CHUNK_PAGES);
      change(words, Math.max(first - base, 0), stop, false);
    }
  }

  /** Yield the runs of pages of the set within a range, in ascending order, each as first page and end. */
  *runs(first: number, end: number): Generator<readonly [first: number, end: number]> {
    let start = -1;
    let stop = -1;
    for (const [key, words] of this.#chunksWithin(first, end)) {
      const base = key * CHUNK_PAGES;
      const limit = Math.min(end - base, CHUNK_PAGES);
      let at = Math.max(first - base, 0);
      for (;;) {
        const from = next(words, at, limit, true);
        if (from === limit) break;
        at = next(words, from, limit, false);
        if (base + from !== stop) {
          if (start !== -1) yield [start, stop];
          start = base + from;
        }
        stop = base + at;
      }
    }
    if (start !== -1) yield [start, stop];
  }

  /** Return the number of pages of the set within a range. */
  count(first: number, end: number): number {
    let pages = 0;
    for (const [key, words] of this.#chunksWithin(first, end)) {
      const base = key * CHUNK_PAGES;
      pages += bitCount(words, Math.max(first - base, 0), Math.min(end - base, CHUNK_PAGES));
    }
    return pages;
  }

  #chunk(key: number): Uint32Array | undefined {
    if (key !== this.#lastKey) {
      this.#last = this.#chunks.get(key);
      this.#lastKey = key;
    }
    return this.#last;
  }

  #grow(key: number): Uint32Array {
    if (this.#chunks.size >= this.#maxChunks) {
      const reason = 'guest memory is too large or too sparse to track';
      throw new QemuFileError('ENOMEM', reason);
    }
    const words = new Uint32Array(CHUNK_WORDS);
    this.#chunks.set(key, words);
    this.#last = words;
    this.#lastKey = key;
    return words;
  }

  /** Yield the allocated chunks with pages of a range, in ascending order. */
  *#chunksWithin(first: number, end: number): Generator<readonly [number, Uint32Array]> {
    if (first >= end) return;
    const low = Math.floor(first / CHUNK_PAGES);
    const high = Math.floor((end - 1) / CHUNK_PAGES);
    for (const key of keysWithin(this.#chunks, low, high)) {
      yield [key, this.#chunks.get(key) as Uint32Array];
    }
  }
}

/**
 * Yield the keys of a map from `low` to `high` in ascending order. The time grows with the smaller of the
 * range and the map.
 */
export function* keysWithin(
  map: ReadonlyMap<number, unknown>,
  low: number,
  high: number,
): Generator<number> {
  if (high - low < map.size) {
    for (let key = low; key <= high; key++) if (map.has(key)) yield key;
    return;
  }
  const keys = [...map.keys()].filter((key) => key >= low && key <= high);
  yield* keys.sort((a, b) => a - b);
}

/** Set or clear the bits from `first` up to, not including, `end`. */
function change(words: Uint32Array, first: number, end: number, value: boolean): void {
  for (let at = first; at < end; ) {
    const word = at >>> 5;
    const stop = Math.min(end, (word + 1) * 32);
    const mask = bitMask(at, stop);
    words[word] = value ? (words[word] as number) | mask : (words[word] as number) & ~mask;
    at = stop;
  }
}

/** Return the number of bits that are set from `first` up to, not including, `end`. */
function bitCount(words: Uint32Array, first: number, end: number): number {
  let count = 0;
  for (let at = first; at < end; ) {
    const word = at >>> 5;
    const stop = Math.min(end, (word + 1) * 32);
    // Adds neighbouring groups of 1, 2 and 4 bits, and then the four bytes.
    let bits = (words[word] as number) & bitMask(at, stop);
    bits -= (bits >>> 1) & 0x5555_5555;
    bits = (bits & 0x3333_3333) + ((bits >>> 2) & 0x3333_3333);
    count += Math.imul((bits + (bits >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
    at = stop;
  }
  return count;
}

/** Return a mask of the bits of one word from `first` up to, not including, `end`. */
function bitMask(first: number, end: number): number {
  return (0xffff_ffff >>> (32 - (end - first))) << (first & 31);
}

/** Return the position of the first bit with a value at or after `at`; `end` if there is none before it. */
function next(words: Uint32Array, at: number, end: number, value: boolean): number {
  while (at < end) {
    const word = words[at >>> 5] as number;
    const rest = (value ? word : ~word) >>> (at & 31);
    if (rest !== 0) return Math.min(end, at + 31 - Math.clz32(rest & -rest));
    at = (at & ~31) + 32;
  }
  return end;
}

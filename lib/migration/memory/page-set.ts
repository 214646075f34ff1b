import { QemuFileError } from '../../contract/errors.ts';

/** Pages that one chunk of a set tells of: 1 KiB of bits. */
const CHUNK_PAGES = 8192;
const CHUNK_WORDS = CHUNK_PAGES / 32;

/** Most chunks of a set, 256 MiB of them: enough for 8 TiB of pages of 4 KiB that lie side by side. */
const MAX_CHUNKS = 262_144;

/**
 * A set of page numbers below 2^53, made for runs of pages in a space that is mostly empty: one bit for a
 * page, in chunks that are there only where a page was added.
 */
export class PageSet {
  readonly #chunks = new Map<number, Uint32Array>();
  readonly #maxChunks: number;
  // Pages come in order, so that nearly always it is the same chunk again.
  #lastKey = -1;
  #last: Uint32Array | undefined;

  /** @param maxChunks - Bound on memory, in chunks of about 1 KiB. */
  constructor(maxChunks: number = MAX_CHUNKS) {
    this.#maxChunks = maxChunks;
  }

  /** Tells whether a page is in the set. */
  has(page: number): boolean {
    const key = Math.floor(page / CHUNK_PAGES);
    const words = this.#chunk(key);
    if (words === undefined) return false;
    const bit = page - key * CHUNK_PAGES;
    return (((words[bit >>> 5] as number) >>> (bit & 31)) & 1) === 1;
  }

  /**
   * Adds the pages from `first` up to, not including, `end`.
   *
   * @throws {QemuFileError} `ENOMEM` when the pages of the set are scattered over more than it can hold.
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

  /** Takes the pages from `first` up to, not including, `end` out of the set. */
  remove(first: number, end: number): void {
    for (const [key, words] of this.#chunksWithin(first, end)) {
      const base = key * CHUNK_PAGES;
      const stop = Math.min(end - base, CHUNK_PAGES);
      change(words, Math.max(first - base, 0), stop, false);
    }
  }

  /** Gives the runs of pages of the set in a range, in ascending order, each as first page and end. */
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

  #chunk(key: number): Uint32Array | undefined {
    if (key !== this.#lastKey) {
      this.#last = this.#chunks.get(key);
      this.#lastKey = key;
    }
    return this.#last;
  }

  #grow(key: number): Uint32Array {
    if (this.#chunks.size >= this.#maxChunks) {
      const reason = 'the pages of guest memory are too many, or too far apart, to keep account of';
      throw new QemuFileError('ENOMEM', reason);
    }
    const words = new Uint32Array(CHUNK_WORDS);
    this.#chunks.set(key, words);
    this.#last = words;
    this.#lastKey = key;
    return words;
  }

  /** The chunks there are that hold pages of a range, in ascending order. */
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
 * Gives the keys of a map from `low` to `high` in ascending order, in time that grows with what is less:
 * the range or the map.
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

/** Sets or clears the bits from `first` up to, not including, `end`. */
function change(words: Uint32Array, first: number, end: number, value: boolean): void {
  for (let at = first; at < end; ) {
    const word = at >>> 5;
    const stop = Math.min(end, (word + 1) * 32);
    const mask = (0xffffffff >>> (32 - (stop - at))) << (at & 31);
    words[word] = value ? (words[word] as number) | mask : (words[word] as number) & ~mask;
    at = stop;
  }
}

/** Finds the first bit of a value from `at` on; `end` if there is none before that. */
function next(words: Uint32Array, at: number, end: number, value: boolean): number {
  while (at < end) {
    const word = words[at >>> 5] as number;
    const rest = (value ? word : ~word) >>> (at & 31);
    if (rest !== 0) return Math.min(end, at + 31 - Math.clz32(rest & -rest));
    at = (at & ~31) + 32;
  }
  return end;
}

import type { LivePageSource } from '../page-source/live-page-source.ts';
import type { PageSource } from '../page-source/page-source.ts';

/**
 * The pages that have still to be sent, of all blocks, as bitmaps. At first these are all pages; those outside
 * the extents of the source are known to be zeros.
 */
export class PendingPages {
  readonly #source: PageSource | LivePageSource;
  readonly #pages: readonly number[];
  readonly #pending: readonly Uint32Array[];
  /** Pages that are not known to be zeros; null after the first round. */
  #data: readonly Uint32Array[] | null;
  #cursorBlock = 0;
  #cursorPage = 0;

  /** Number of pages that have still to be sent. */
  count: number;
  /** The run that `take` returned: its block, first page and number of pages. */
  block = 0;
  page = 0;
  run = 0;
  /** Whether the pages of the run have to be read; they are zeros if not. */
  mayHoldData = true;

  constructor(source: PageSource | LivePageSource) {
    this.#source = source;
    this.#pages = source.blocks.map(({ usedLength }) => usedLength / source.pageSize);
    this.#pending = this.#pages.map((pages) => {
      const words = bitmapOf(pages);
      setRun(words, 0, pages);
      return words;
    });
    this.#data = this.#pages.map((pages, block) => {
      const words = bitmapOf(pages);
      for (const { at, length } of source.extents(block)) {
        setRun(words, at / source.pageSize, (at + length) / source.pageSize);
      }
      return words;
    });
    this.count = this.#pages.reduce((sum, pages) => sum + pages, 0);
  }

  /**
   * Take the next run of pending pages, from where the last one ended, and go on at the first block after the
   * last one.
   *
   * @param maxPages - Most pages of a run.
   * @returns Whether there is one.
   */
  take(maxPages: number): boolean {
    if (this.count === 0) return false;
    for (;;) {
      const block = this.#cursorBlock;
      const pages = this.#pages[block] as number;
      const words = this.#pending[block] as Uint32Array;
      const first = nextSet(words, this.#cursorPage, pages);
      if (first < pages) {
        this.#takeRun(block, words, first, Math.min(first + maxPages, pages));
        return true;
      }
      this.#cursorBlock = (block + 1) % this.#pages.length;
      this.#cursorPage = 0;
    }
  }

  #takeRun(block: number, words: Uint32Array, first: number, limit: number): void {
    const data = this.#data?.[block];
    const mayHoldData = data === undefined || isSet(data, first);
    let end = first;
    while (end < limit && isSet(words, end)) {
      if (data !== undefined && isSet(data, end) !== mayHoldData) break;
      words[end >>> 5] = (words[end >>> 5] as number) & ~(1 << (end & 31));
      end++;
    }
    this.block = block;
    this.page = first;
    this.run = end - first;
    this.mayHoldData = mayHoldData;
    this.count -= this.run;
    this.#cursorPage = end;
  }

  /**
   * Add the pages that changed.
   *
   * @throws (rejects) What the source rejects with.
   */
  async addDirty(): Promise<void> {
    const source = this.#source;
    if (!('dirty' in source)) return;
    let count = 0;
    for (const [block, words] of this.#pending.entries()) {
      await source.dirty(block, words);
      const pages = this.#pages[block] as number;
      // A source may set bits of the last word that stand for no page.
      if (pages % 32 !== 0) {
        words[pages >>> 5] = (words[pages >>> 5] as number) & ((1 << (pages % 32)) - 1);
      }
      for (const word of words) count += ones(word);
    }
    this.count = count;
    this.#data = null;
  }
}

function bitmapOf(pages: number): Uint32Array {
  return new Uint32Array(Math.ceil(pages / 32));
}

function setRun(words: Uint32Array, first: number, end: number): void {
  for (let page = first; page < end; ) {
    if (page % 32 === 0 && end - page >= 32) {
      words[page >>> 5] = 0xffff_ffff;
      page += 32;
    } else {
      words[page >>> 5] = (words[page >>> 5] as number) | (1 << (page & 31));
      page++;
    }
  }
}

function isSet(words: Uint32Array, page: number): boolean {
  return (((words[page >>> 5] as number) >>> (page & 31)) & 1) === 1;
}

/** Return the first set bit from `from` on; `end` if there is none. */
function nextSet(words: Uint32Array, from: number, end: number): number {
  let page = from;
  while (page < end) {
    const word = (words[page >>> 5] as number) >>> (page & 31);
    if (word !== 0) return page + 31 - Math.clz32(word & -word);
    page = (page | 31) + 1;
  }
  return end;
}

/** Return the number of set bits. */
function ones(word: number): number {
  let bits = word - ((word >>> 1) & 0x5555_5555);
  bits = (bits & 0x3333_3333) + ((bits >>> 2) & 0x3333_3333);
  return (((bits + (bits >>> 4)) & 0x0f0f_0f0f) * 0x0101_0101) >>> 24;
}

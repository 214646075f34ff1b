import { QemuFileError } from '../../contract/errors.ts';
import { PageSet } from '../memory/page-set.ts';

/** Most pages of all blocks: 4 TiB with pages of 4 KiB. */
export const MAX_PAGES = 1_073_741_824;

/** Most runs: they take 160 MiB. A guest of 64 GiB whose every second page is zeros has as many. */
export const MAX_RUNS = 8_388_608;

/** Runs after which superseded ones are dropped for the first time. */
const MIN_FLATTEN_RUNS = 65_536;

/** Position of a run of pages that were overwritten with zeros. */
const ZEROS = -1;

/**
 * Places of pages in a stream, in ascending order of the pages and without overlap. Pages are numbered through
 * all blocks. The pages of a run are `stride` bytes apart in the stream.
 */
export interface PageRuns {
  /** Number of runs. */
  readonly length: number;
  /** First page of each run. */
  readonly pages: Float64Array;
  /** Pages of each run. */
  readonly counts: Uint32Array;
  /** Offset in the stream of the first page of each run. */
  readonly positions: Float64Array;
  /** Bytes from one page of a run to the next one in the stream. */
  readonly stride: number;
}

/** Return the last run that begins at or before a page; -1 if all begin after it. */
export function findRun({ pages, length }: PageRuns, page: number): number {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((pages[middle] as number) <= page) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/**
 * Collects the places of pages in the order of a stream, where the last copy of a page is the valid one.
 * Memory grows with the runs of the result, not with the number of copies.
 */
export class PageRunsBuilder {
  readonly #stride: number;
  #pages = new Float64Array(1024);
  #counts = new Uint32Array(1024);
  #positions = new Float64Array(1024);
  #length = 0;
  /** Whether the runs so far are in ascending order and without overlap. */
  #isOrdered = true;
  #flattenAt = MIN_FLATTEN_RUNS;
  /** Pages that have contents, those of the last run excluded. */
  #present = new PageSet();
  // The last run, which may still grow.
  #page = 0;
  #count = 0;
  #position = 0;

  /** @param stride - Bytes from one page of a run to the next one in the stream. */
  constructor(stride: number) {
    this.#stride = stride;
  }

  /**
   * Add adjacent pages.
   *
   * @throws {QemuFileError} `ENOMEM` for more than `MAX_RUNS` runs; `ENOTSUP` for a page beyond `MAX_PAGES`.
   */
  add(page: number, count: number, position: number): void {
    const known = this.#count;
    if (page === this.#page + known && position === this.#position + known * this.#stride) {
      this.#count = known + count;
      return;
    }
    this.#endRun();
    this.#page = page;
    this.#count = count;
    this.#position = position;
  }

  /** Note that pages are zeros from here on. */
  addZeros(page: number, count: number): void {
    this.#endRun();
    if (count === 1) {
      if (!this.#present.has(page)) return;
      this.#push(page, 1, ZEROS);
    } else {
      for (const [from, end] of this.#present.runs(page, page + count)) {
        this.#push(from, end - from, ZEROS);
      }
    }
    this.#present.remove(page, page + count);
  }

  /** Return the runs. The builder must not be used afterwards. */
  finish(): PageRuns {
    this.#endRun();
    if (!this.#isOrdered) this.#flatten();
    return {
      length: this.#length,
      pages: this.#pages.slice(0, this.#length),
      counts: this.#counts.slice(0, this.#length),
      positions: this.#positions.slice(0, this.#length),
      stride: this.#stride,
    };
  }

  #endRun(): void {
    const count = this.#count;
    if (count === 0) return;
    if (this.#page + count > MAX_PAGES) {
      const reason = `guest memory has more than ${MAX_PAGES} pages`;
      throw new QemuFileError('ENOTSUP', reason, { operation: 'openSavedGuest' });
    }
    this.#push(this.#page, count, this.#position);
    this.#present.add(this.#page, this.#page + count);
    this.#count = 0;
    this.#page = -1;
  }

  #push(page: number, count: number, position: number): void {
    const last = this.#length - 1;
    if (last >= 0 && page < (this.#pages[last] as number) + (this.#counts[last] as number)) {
      this.#isOrdered = false;
    }
    if (this.#length >= this.#flattenAt && !this.#isOrdered) {
      this.#flatten();
      this.#flattenAt = Math.max(MIN_FLATTEN_RUNS, 2 * this.#length);
      const end = this.#length - 1;
      this.#isOrdered =
        end < 0 || page >= (this.#pages[end] as number) + (this.#counts[end] as number);
    }
    if (this.#length >= MAX_RUNS) {
      const reason =
        `the places of the guest's pages take more than ${MAX_RUNS} runs: ` +
        'put them in order with "qemu-file compact FROM TO"';
      throw new QemuFileError('ENOMEM', reason, { operation: 'openSavedGuest' });
    }
    if (this.#length === this.#pages.length) this.#grow();
    this.#pages[this.#length] = page;
    this.#counts[this.#length] = count;
    this.#positions[this.#length] = position;
    this.#length += 1;
  }

  #grow(): void {
    const size = this.#pages.length * 2;
    const [pages, counts] = [new Float64Array(size), new Uint32Array(size)];
    const positions = new Float64Array(size);
    pages.set(this.#pages);
    counts.set(this.#counts);
    positions.set(this.#positions);
    this.#pages = pages;
    this.#counts = counts;
    this.#positions = positions;
  }

  /** Drop what later copies have replaced, and put the rest in order. */
  #flatten(): void {
    const [pages, counts, positions] = [this.#pages, this.#counts, this.#positions];
    const seen = new PageSet();
    const kept = new PageRunsBuilder(this.#stride);
    for (let index = this.#length - 1; index >= 0; index--) {
      const page = pages[index] as number;
      const end = page + (counts[index] as number);
      const position = positions[index] as number;
      let from = page;
      // The runs of the set are where a later copy is.
      for (const [start, stop] of seen.runs(page, end)) {
        kept.#keep(from, start, page, position);
        from = stop;
      }
      kept.#keep(from, end, page, position);
      seen.add(page, end);
    }
    kept.#sort();
    this.#pages = kept.#pages;
    this.#counts = kept.#counts;
    this.#positions = kept.#positions;
    this.#length = kept.#length;
    this.#isOrdered = true;
  }

  /** Store the pages from `from` up to, not including, `end` of a run that begins with `page` at `position`. */
  #keep(from: number, end: number, page: number, position: number): void {
    if (from >= end || position === ZEROS) return;
    if (this.#length === this.#pages.length) this.#grow();
    this.#pages[this.#length] = from;
    this.#counts[this.#length] = end - from;
    this.#positions[this.#length] = position + (from - page) * this.#stride;
    this.#length += 1;
  }

  #sort(): void {
    const length = this.#length;
    const scale = 2 ** Math.ceil(Math.log2(Math.max(2, length)));
    // Numbers sort far faster than objects: the page is in the high bits, the index of the run in the low ones.
    const keys = new Float64Array(length);
    for (let index = 0; index < length; index++) {
      keys[index] = (this.#pages[index] as number) * scale + index;
    }
    keys.sort();
    const [pages, counts] = [new Float64Array(length), new Uint32Array(length)];
    const positions = new Float64Array(length);
    for (let at = 0; at < length; at++) {
      const key = keys[at] as number;
      const index = key % scale;
      pages[at] = this.#pages[index] as number;
      counts[at] = this.#counts[index] as number;
      positions[at] = this.#positions[index] as number;
    }
    this.#pages = pages;
    this.#counts = counts;
    this.#positions = positions;
  }
}

import { loadDigest, xxh64 } from '../../util/digest.ts';
import type { PageSource } from '../page-source/page-source.ts';
import { ChecksumSet, type PageChecksums, pageChecksum } from './page-checksums.ts';
import type { PageKinds } from './page-kinds.ts';
import { NO_PAGE, PageTable } from './page-table.ts';
import { WINDOW_BYTES, windowsOf } from './page-windows.ts';
import { type CompareOptions, type SharedBlock, Turns } from './shared-blocks.ts';

/** Most pages that are looked for at a time, which bounds the memory of their table to 52 MiB. */
const MAX_PAGES_AT_ONCE = 1_048_576;

/** A run of changed pages. */
interface ChangedRun {
  /** Index of the shared block. */
  readonly block: number;
  /** Offset in the block. */
  readonly offset: number;
  readonly end: number;
}

/** Two guests whose pages were compared at the same addresses. */
export interface ComparedPages {
  readonly a: PageSource;
  readonly b: PageSource;
  readonly blocks: readonly SharedBlock[];
  /** Checksums of the first guest's pages, of all that were compared. */
  readonly checksums: PageChecksums;
}

/**
 * Find the changed pages of the second guest whose contents stand somewhere in the first, and make their kind
 * `moved`. Of the first guest's memory those parts are read again in which the checksum of a changed page occurs.
 */
export async function findMovedPages(
  compared: ComparedPages,
  kinds: PageKinds,
  options: CompareOptions,
): Promise<void> {
  const { a, blocks } = compared;
  const runs = changedRuns(blocks, kinds, a.pageSize);
  let left = countChanged(blocks, kinds, a.pageSize);
  if (left === 0) return;
  await loadDigest();
  const search = new PageSearch(compared, options);
  let run = nextRun(runs);
  while (left > 0) {
    const capacity = Math.min(left, MAX_PAGES_AT_ONCE);
    const table = search.begin(capacity);
    while (run !== null && table.size < capacity) {
      const end = Math.min(run.end, run.offset + (capacity - table.size) * a.pageSize);
      await search.add({ ...run, end });
      run = end < run.end ? { ...run, offset: end } : nextRun(runs);
    }
    await search.find();
    for (let page = 0; page < capacity; page++) {
      if (!table.isFound(page)) continue;
      const { first } = blocks[table.blockOf(page)] as SharedBlock;
      kinds.move(first + table.offsetOf(page) / a.pageSize);
    }
    left -= capacity;
  }
}

function countChanged(blocks: readonly SharedBlock[], kinds: PageKinds, pageSize: number): number {
  let pages = 0;
  for (const { first, length } of blocks) {
    const { changed, wasZero } = kinds.count(first, first + length / pageSize);
    pages += changed + wasZero;
  }
  return pages;
}

function nextRun(runs: Iterator<ChangedRun>): ChangedRun | null {
  const next = runs.next();
  return next.done === true ? null : next.value;
}

/** Yield the runs of pages that are not zeros in the second guest and differ from the first. */
function* changedRuns(
  blocks: readonly SharedBlock[],
  kinds: PageKinds,
  pageSize: number,
): Generator<ChangedRun> {
  for (const [block, { first, length }] of blocks.entries()) {
    for (const run of kinds.allRuns(first, first + length / pageSize)) {
      if (run.kind === 'becameZero' || run.kind === 'moved') continue;
      const offset = (run.first - first) * pageSize;
      yield { block, offset, end: (run.end - first) * pageSize };
    }
  }
}

/** Searches one guest's memory for pages of another. */
class PageSearch {
  readonly #compared: ComparedPages;
  readonly #turns: Turns;
  readonly #window: Buffer = Buffer.alloc(WINDOW_BYTES);
  readonly #words = new Int32Array(this.#window.buffer, 0, WINDOW_BYTES / 4);
  readonly #page: Buffer;
  /** A hash, and its halves: a table holds no bigints. */
  readonly #hash = new BigUint64Array(1);
  readonly #halves: Uint32Array = new Uint32Array(this.#hash.buffer);
  #table = new PageTable(0);
  #sought = new ChecksumSet(0);

  constructor(compared: ComparedPages, options: CompareOptions) {
    this.#compared = compared;
    this.#turns = new Turns(options);
    this.#page = Buffer.alloc(compared.a.pageSize);
  }

  /** Begin a search; return the table of the pages that are looked for. */
  begin(capacity: number): PageTable {
    this.#table = new PageTable(capacity);
    this.#sought = new ChecksumSet(capacity);
    return this.#table;
  }

  /** Add the pages of a run. */
  async add({ block, offset, end }: ChangedRun): Promise<void> {
    const { b, blocks } = this.#compared;
    const { pageSize } = b;
    const source = (blocks[block] as SharedBlock).b;
    for (let at = offset; at < end; at += WINDOW_BYTES) {
      const bytes = this.#window.subarray(0, Math.min(WINDOW_BYTES, end - at));
      const reading = b.read(source, at, bytes);
      if (reading !== undefined) await reading;
      for (let start = 0; start < bytes.length; start += pageSize) {
        this.#digest(start, pageSize);
        this.#table.add(this.#halves[0] as number, this.#halves[1] as number, block, at + start);
        this.#sought.add(pageChecksum(this.#words, start / 4, pageSize / 4));
      }
      const turn = this.#turns.count(bytes.length);
      if (turn !== undefined) await turn;
    }
  }

  /** Search for the pages in all blocks of the first guest. */
  async find(): Promise<void> {
    const { a, checksums } = this.#compared;
    this.#sought.sort();
    for (const [block, { usedLength }] of a.blocks.entries()) {
      for (const { at, length } of windowsOf(a.extents(block), [], usedLength)) {
        const known = checksums.of(block, at);
        const pages = length / a.pageSize;
        if (known?.length === pages && !this.#mayHave(known)) continue;
        const reading = a.read(block, at, this.#window.subarray(0, length));
        if (reading !== undefined) await reading;
        for (let start = 0; start < length; start += a.pageSize) {
          const checksum = pageChecksum(this.#words, start / 4, a.pageSize / 4);
          if (this.#sought.has(checksum)) await this.#match(start);
        }
        const turn = this.#turns.count(length);
        if (turn !== undefined) await turn;
      }
    }
  }

  #mayHave(checksums: Uint32Array): boolean {
    for (const checksum of checksums) if (this.#sought.has(checksum)) return true;
    return false;
  }

  /** Match a page of the window with the pages that are looked for. */
  async #match(start: number): Promise<void> {
    const { pageSize } = this.#compared.a;
    this.#digest(start, pageSize);
    const low = this.#halves[0] as number;
    const high = this.#halves[1] as number;
    let page = this.#table.find(low, high);
    while (page !== NO_PAGE) {
      await this.#confirm(page, this.#window.subarray(start, start + pageSize));
      page = this.#table.find(low, high, page);
    }
  }

  #digest(start: number, length: number): void {
    this.#hash[0] = xxh64(this.#window.subarray(start, start + length));
  }

  /** Compare a page with contents of the same hash. */
  async #confirm(page: number, contents: Buffer): Promise<void> {
    const { b, blocks } = this.#compared;
    const source = (blocks[this.#table.blockOf(page)] as SharedBlock).b;
    const reading = b.read(source, this.#table.offsetOf(page), this.#page);
    if (reading !== undefined) await reading;
    if (this.#page.equals(contents)) this.#table.setFound(page);
    else this.#table.noteWrongMatch(page);
  }
}

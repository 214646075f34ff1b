import { loadDigest, xxh64 } from '../../util/digest.ts';
import type { PageSource } from '../memory/page-source.ts';
import type { PageKinds } from './page-kinds.ts';
import { NO_PAGE, PageTable } from './page-table.ts';
import { WINDOW_BYTES, windowsOf } from './page-windows.ts';
import { type CompareOptions, type SharedBlock, Turns } from './shared-blocks.ts';

/** Most pages that are looked for at a time, which bounds the memory of their table to 48 MiB. */
const MAX_PAGES_AT_ONCE = 1_048_576;

/** A run of changed pages. */
interface ChangedRun {
  /** Index of the shared block. */
  readonly block: number;
  /** Offset in the block. */
  readonly offset: number;
  readonly end: number;
}

/**
 * Find the changed pages of the second guest whose contents stand somewhere in the first, and make their kind
 * `moved`. The first guest's memory is read once for each million of changed pages, and not at all if there
 * are none.
 */
export async function findMovedPages(
  a: PageSource,
  b: PageSource,
  blocks: readonly SharedBlock[],
  kinds: PageKinds,
  options: CompareOptions,
): Promise<void> {
  const runs = changedRuns(blocks, kinds, a.pageSize);
  let left = countChanged(blocks, kinds, a.pageSize);
  if (left === 0) return;
  await loadDigest();
  const search = new PageSearch(a, b, blocks, options);
  let run = nextRun(runs);
  while (left > 0) {
    const capacity = Math.min(left, MAX_PAGES_AT_ONCE);
    const table = new PageTable(capacity);
    while (run !== null && table.size < capacity) {
      const end = Math.min(run.end, run.offset + (capacity - table.size) * a.pageSize);
      await search.add(table, { ...run, end });
      run = end < run.end ? { ...run, offset: end } : nextRun(runs);
    }
    await search.find(table);
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
  readonly #a: PageSource;
  readonly #b: PageSource;
  readonly #blocks: readonly SharedBlock[];
  readonly #turns: Turns;
  readonly #window: Buffer = Buffer.alloc(WINDOW_BYTES);
  readonly #page: Buffer;
  /** A hash, and its halves: a table holds no bigints. */
  readonly #hash = new BigUint64Array(1);
  readonly #halves: Uint32Array = new Uint32Array(this.#hash.buffer);

  constructor(
    a: PageSource,
    b: PageSource,
    blocks: readonly SharedBlock[],
    options: CompareOptions,
  ) {
    this.#a = a;
    this.#b = b;
    this.#blocks = blocks;
    this.#turns = new Turns(options);
    this.#page = Buffer.alloc(a.pageSize);
  }

  /** Add the pages of a run to a table. */
  async add(table: PageTable, { block, offset, end }: ChangedRun): Promise<void> {
    const { pageSize } = this.#b;
    const source = (this.#blocks[block] as SharedBlock).b;
    for (let at = offset; at < end; at += WINDOW_BYTES) {
      const bytes = this.#window.subarray(0, Math.min(WINDOW_BYTES, end - at));
      const reading = this.#b.read(source, at, bytes);
      if (reading !== undefined) await reading;
      for (let start = 0; start < bytes.length; start += pageSize) {
        this.#digest(bytes, start, pageSize);
        table.add(this.#halves[0] as number, this.#halves[1] as number, block, at + start);
      }
      const turn = this.#turns.count(bytes.length);
      if (turn !== undefined) await turn;
    }
  }

  /** Search for the pages of a table in all blocks of the first guest. */
  async find(table: PageTable): Promise<void> {
    for (const [block, { usedLength }] of this.#a.blocks.entries()) {
      for (const { at, length } of windowsOf(this.#a.extents(block), [], usedLength)) {
        await this.#scan(table, block, at, length);
      }
    }
  }

  async #scan(table: PageTable, block: number, at: number, length: number): Promise<void> {
    const { pageSize } = this.#a;
    const bytes = this.#window.subarray(0, length);
    const reading = this.#a.read(block, at, bytes);
    if (reading !== undefined) await reading;
    for (let start = 0; start < length; start += pageSize) {
      this.#digest(bytes, start, pageSize);
      const low = this.#halves[0] as number;
      const high = this.#halves[1] as number;
      let page = table.find(low, high);
      while (page !== NO_PAGE) {
        await this.#confirm(table, page, bytes.subarray(start, start + pageSize));
        page = table.find(low, high, page);
      }
    }
    const turn = this.#turns.count(length);
    if (turn !== undefined) await turn;
  }

  #digest(bytes: Buffer, start: number, length: number): void {
    this.#hash[0] = xxh64(bytes.subarray(start, start + length));
  }

  /** Compare a page with contents of the same hash. */
  async #confirm(table: PageTable, page: number, contents: Buffer): Promise<void> {
    const source = (this.#blocks[table.blockOf(page)] as SharedBlock).b;
    const reading = this.#b.read(source, table.offsetOf(page), this.#page);
    if (reading !== undefined) await reading;
    if (this.#page.equals(contents)) table.setFound(page);
    else table.noteWrongMatch(page);
  }
}

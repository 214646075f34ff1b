import type { PageVisitor, RamBlock } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { type PageRuns, PageRunsBuilder } from './page-runs.ts';

/** Bytes before each page that has a record of its own. */
const WORD_BYTES = 8;

/** Notes where the pages of a stream are: pass it to a reader as a page visitor. */
export class PagePlaces implements PageVisitor {
  readonly #isMapped: () => boolean;
  #runs = new PageRunsBuilder(0);
  #pageSize = 0;
  /** First page of each block, counted through all blocks. */
  #firsts: number[] = [];

  /** @param isMapped - Returns whether the stream is a mapped-ram file; called before the first page. */
  constructor(isMapped: () => boolean) {
    this.#isMapped = isMapped;
  }

  blocks(blocks: readonly RamBlock[], pageSize: number): void {
    if (pageSize !== this.#pageSize) {
      this.#pageSize = pageSize;
      this.#runs = new PageRunsBuilder(pageSize + (this.#isMapped() ? 0 : WORD_BYTES));
    }
    this.#firsts = [];
    let first = 0;
    for (const { usedLength } of blocks) {
      this.#firsts.push(first);
      first += Math.ceil(usedLength / pageSize);
    }
  }

  placed(block: RamBlock, offset: number, length: number, position: number): void {
    if (position < 0) throw noRandomAccess('it has pages that were not sent as they are');
    const page = (this.#firsts[block.index] as number) + offset / this.#pageSize;
    this.#runs.add(page, length / this.#pageSize, position);
  }

  zero(block: RamBlock, offset: number, count: number): void {
    const page = (this.#firsts[block.index] as number) + offset / this.#pageSize;
    this.#runs.addZeros(page, count);
  }

  xbzrle(): void {
    throw noRandomAccess('it has XBZRLE pages');
  }

  /** Return the places. Call it once, at the end. */
  finish(): PageRuns {
    return this.#runs.finish();
  }
}

/** Return the error of a stream whose pages have no places. */
export function noRandomAccess(why: string, position?: number): MigrationStreamError {
  const reason = `the memory of this stream has no random access: ${why}; convert it with "qemu-file compact FROM TO"`;
  return new MigrationStreamError('unsupported', reason, { position });
}

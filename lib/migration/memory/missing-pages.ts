import { printable } from '../../util/format.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { PageSet } from './page-set.ts';

/** Chunks of the set: 32 MiB of them tell of 1 TiB of pages of 4 KiB. */
const MAX_CHUNKS = 32_768;

/** Finds out which pages a stream did not bring. */
export class MissingPages implements PageVisitor {
  #seen = new PageSet(MAX_CHUNKS);
  #blocks: readonly RamBlock[] = [];
  #first: number[] = [];
  #pageSize = 1;
  #isFull = false;
  /** Pages that were changed before they had come. */
  #unbased = 0;

  blocks(blocks: readonly RamBlock[], pageSize: number): void {
    if (pageSize !== this.#pageSize) this.#seen = new PageSet(MAX_CHUNKS);
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#first = [];
    let first = 0;
    for (const { usedLength } of blocks) {
      this.#first.push(first);
      first += usedLength / pageSize;
    }
  }

  page(block: RamBlock, offset: number, bytes: Uint8Array): void {
    this.#see(block, offset, bytes.length / this.#pageSize);
  }

  zero(block: RamBlock, offset: number, count: number): void {
    this.#see(block, offset, count);
  }

  xbzrle(block: RamBlock, offset: number): void {
    const page = (this.#first[block.index] as number) + offset / this.#pageSize;
    if (!this.#isFull && !this.#seen.has(page)) this.#unbased += 1;
    this.#see(block, offset, 1);
  }

  /** How many pages of which blocks did not come, as clauses; none if they were too scattered to tell. */
  clauses(): string[] {
    if (this.#isFull) return [];
    const clauses: string[] = [];
    if (this.#unbased > 0) {
      clauses.push(`${this.#unbased} pages were changed (XBZRLE) before they had come`);
    }
    for (const { index, name, usedLength } of this.#blocks) {
      const first = this.#first[index] as number;
      let missing = usedLength / this.#pageSize;
      for (const [from, end] of this.#seen.runs(first, first + missing)) missing -= end - from;
      if (missing === 0) continue;
      const pages = missing === 1 ? '1 page' : `${missing} pages`;
      clauses.push(`${pages} of RAM block "${printable(name)}" never came`);
    }
    return clauses;
  }

  #see(block: RamBlock, offset: number, count: number): void {
    if (this.#isFull) return;
    const first = (this.#first[block.index] as number) + offset / this.#pageSize;
    try {
      this.#seen.add(first, first + count);
    } catch {
      this.#isFull = true;
    }
  }
}

import { quote } from '../../util/format.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { PageSet } from './page-set.ts';

/** Most chunks of the set: they take 32 MiB and cover 1 TiB of 4 KiB pages. */
const MAX_CHUNKS = 32_768;

/** Counts the pages that a stream did not send: pass it to a reader as a page visitor. */
export class MissingPages implements PageVisitor {
  #seen = new PageSet(MAX_CHUNKS);
  #blocks: readonly RamBlock[] = [];
  #first: number[] = [];
  #pageSize = 1;
  #isFull = false;
  /** Pages that got an XBZRLE delta before their first full copy. */
  #deltasWithoutBase = 0;

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
    if (!this.#isFull && !this.#seen.has(page)) this.#deltasWithoutBase += 1;
    this.#see(block, offset, 1);
  }

  /**
   * Describe how many pages of which blocks the stream did not send.
   *
   * @returns Clauses without a full stop; none if the pages were too scattered to track.
   */
  describe(): string[] {
    if (this.#isFull) return [];
    const clauses: string[] = [];
    if (this.#deltasWithoutBase > 0) {
      const pages = plural(this.#deltasWithoutBase);
      clauses.push(`${pages} received an XBZRLE delta before a full copy`);
    }
    for (const { index, name, usedLength } of this.#blocks) {
      const first = this.#first[index] as number;
      const pages = Math.ceil(usedLength / this.#pageSize);
      const missing = pages - this.#seen.count(first, first + pages);
      if (missing === 0) continue;
      const verb = missing === 1 ? 'was' : 'were';
      clauses.push(`${plural(missing)} of RAM block ${quote(name)} ${verb} not sent`);
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

function plural(count: number): string {
  return count === 1 ? '1 page' : `${count} pages`;
}

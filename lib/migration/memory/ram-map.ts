import type { PageVisitor, RamBlock } from '../format/events.ts';
import { PageSet } from './page-set.ts';

/** Most chunks of each set: they take 32 MiB and cover 1 TiB of 4 KiB pages. */
const MAX_CHUNKS = 32_768;

/** How the pages of a part of a block were sent; each page counts once. */
export interface MapCell {
  /** Offset of the first byte in the block. */
  readonly offset: number;
  readonly bytes: number;
  /** Pages whose last record was a zero page. */
  readonly zero: number;
  /** Pages whose last record had other contents. */
  readonly data: number;
  /** Pages of these two kinds that were sent more than once. */
  readonly resent: number;
  /** Pages that were not sent. */
  readonly absent: number;
}

/** Records which pages were sent and how, to draw a map: pass it to a reader as a page visitor. */
export class RamMap implements PageVisitor {
  #first: number[] = [];
  #pageSize = 1;
  #sent = new PageSet(MAX_CHUNKS);
  #data = new PageSet(MAX_CHUNKS);
  #resent = new PageSet(MAX_CHUNKS);
  #isFull = false;

  blocks(blocks: readonly RamBlock[], pageSize: number): void {
    if (pageSize !== this.#pageSize) {
      this.#sent = new PageSet(MAX_CHUNKS);
      this.#data = new PageSet(MAX_CHUNKS);
      this.#resent = new PageSet(MAX_CHUNKS);
    }
    this.#pageSize = pageSize;
    this.#first = [];
    let first = 0;
    for (const { usedLength } of blocks) {
      this.#first.push(first);
      first += Math.ceil(usedLength / pageSize);
    }
  }

  page(block: RamBlock, offset: number, bytes: Uint8Array): void {
    const first = this.#pageOf(block, offset);
    this.#note(first, first + bytes.length / this.#pageSize, true);
  }

  zero(block: RamBlock, offset: number, count: number): void {
    const first = this.#pageOf(block, offset);
    this.#note(first, first + count, false);
  }

  xbzrle(block: RamBlock, offset: number): void {
    const first = this.#pageOf(block, offset);
    this.#note(first, first + 1, true);
  }

  /** Whether pages were too scattered to record all of them. */
  get isIncomplete(): boolean {
    return this.#isFull;
  }

  /**
   * Divide a block into cells with the same number of pages each, except the last.
   *
   * @param maxCells - Most cells.
   * @returns The cells in ascending order of their offsets.
   */
  cells(block: RamBlock, maxCells: number): MapCell[] {
    const pages = Math.ceil(block.usedLength / this.#pageSize);
    const each = Math.max(1, Math.ceil(pages / maxCells));
    const first = this.#first[block.index] as number;
    const cells: MapCell[] = [];
    for (let at = 0; at < pages; at += each) {
      const count = Math.min(each, pages - at);
      const from = first + at;
      const sent = this.#sent.count(from, from + count);
      const data = this.#data.count(from, from + count);
      cells.push({
        offset: at * this.#pageSize,
        bytes: count * this.#pageSize,
        zero: sent - data,
        data,
        resent: this.#resent.count(from, from + count),
        absent: count - sent,
      });
    }
    return cells;
  }

  #pageOf(block: RamBlock, offset: number): number {
    return (this.#first[block.index] as number) + offset / this.#pageSize;
  }

  #note(first: number, end: number, isData: boolean): void {
    if (this.#isFull) return;
    try {
      if (end - first === 1) {
        if (this.#sent.has(first)) this.#resent.add(first, end);
      } else {
        // A huge run may be mostly unsent: visit only the pages that were sent.
        for (const [from, to] of this.#sent.runs(first, end)) this.#resent.add(from, to);
      }
      this.#sent.add(first, end);
      if (isData) this.#data.add(first, end);
      else this.#data.remove(first, end);
    } catch {
      // A partial map is better than none.
      this.#isFull = true;
    }
  }
}

import type { PageSource } from '../page-source/page-source.ts';
import type { BlockDifference } from './block-differences.ts';
import { PAGE_KINDS, type PageKindCounts } from './page-kinds.ts';

/** A part of a block in two guests, in pages. */
export interface DiffCell {
  /** Offset of the first byte in the block. */
  readonly offset: number;
  readonly bytes: number;
  /** Pages that may hold data in the first guest, and pages in all. */
  readonly a: { readonly data: number; readonly pages: number };
  /** The same of the second guest. */
  readonly b: { readonly data: number; readonly pages: number };
  /** Pages that differ. */
  readonly kinds: PageKindCounts;
}

/**
 * Divide a block of two guests into cells with the same number of pages each, except the last.
 *
 * @param maxCells - Most cells.
 * @returns The cells in ascending order of their offsets, up to the end of the longer block.
 */
export function mapCells(
  a: PageSource,
  b: PageSource,
  { name, usedLength, ranges }: BlockDifference,
  maxCells: number,
): DiffCell[] {
  const { pageSize } = a;
  const length = Math.max(usedLength[0] ?? 0, usedLength[1] ?? 0);
  const cellBytes = Math.max(1, Math.ceil(length / pageSize / maxCells)) * pageSize;
  const count = Math.ceil(length / cellBytes);
  const dataA = new CellSums(count, cellBytes);
  const dataB = new CellSums(count, cellBytes);
  addExtents(dataA, a, name);
  addExtents(dataB, b, name);
  const kindSums = {
    changed: new CellSums(count, cellBytes),
    becameZero: new CellSums(count, cellBytes),
    wasZero: new CellSums(count, cellBytes),
    moved: new CellSums(count, cellBytes),
  };
  for (const range of ranges()) kindSums[range.kind].add(range.offset, range.length);
  return Array.from({ length: count }, (_, cell) => {
    const offset = cell * cellBytes;
    const bytes = Math.min(cellBytes, length - offset);
    const side = (sums: CellSums, used: number | null): DiffCell['a'] => ({
      data: sums.at(cell) / pageSize,
      pages: Math.max(0, Math.min(bytes, (used ?? 0) - offset)) / pageSize,
    });
    const kinds = { changed: 0, becameZero: 0, wasZero: 0, moved: 0 };
    for (const kind of PAGE_KINDS) kinds[kind] = kindSums[kind].at(cell) / pageSize;
    return { offset, bytes, a: side(dataA, usedLength[0]), b: side(dataB, usedLength[1]), kinds };
  });
}

function addExtents(sums: CellSums, pages: PageSource, name: string): void {
  const index = pages.blocks.findIndex((block) => block.name === name);
  if (index < 0) return;
  for (const { at, length } of pages.extents(index)) sums.add(at, length);
}

/** Numbers of bytes by cells. */
class CellSums {
  readonly #sums: Float64Array;
  readonly #cellBytes: number;

  constructor(count: number, cellBytes: number) {
    this.#sums = new Float64Array(count);
    this.#cellBytes = cellBytes;
  }

  add(offset: number, length: number): void {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const cell = Math.floor(at / this.#cellBytes);
      const stop = Math.min(end, (cell + 1) * this.#cellBytes);
      this.#sums[cell] = (this.#sums[cell] as number) + stop - at;
      at = stop;
    }
  }

  at(cell: number): number {
    return this.#sums[cell] as number;
  }
}

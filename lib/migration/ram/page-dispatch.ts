import type { PageVisitor, RamBlock } from '../format/events.ts';

/**
 * The methods of a `PageVisitor`, bound once, so that the loops that parse pages call plain functions; null
 * where the visitor lacks the method, so that they can skip the bytes of a page.
 */
export class PageDispatch {
  readonly page: ((block: RamBlock, offset: number, bytes: Uint8Array) => void) | null;
  readonly placed:
    | ((block: RamBlock, offset: number, length: number, position: number) => void)
    | null;
  readonly zero: ((block: RamBlock, offset: number, count: number) => void) | null;
  readonly xbzrle: ((block: RamBlock, offset: number, encoded: Uint8Array) => void) | null;
  readonly compressedPage: ((block: RamBlock, offset: number, bytes: Uint8Array) => void) | null;
  readonly filledPage: ((block: RamBlock, offset: number, fill: number) => void) | null;
  readonly named: ((block: RamBlock, position: number) => void) | null;
  readonly multifdFlush: (() => void) | null;
  readonly hook: (() => void) | null;

  constructor(visitor: PageVisitor) {
    this.page = visitor.page?.bind(visitor) ?? null;
    this.placed = visitor.placed?.bind(visitor) ?? null;
    this.zero = visitor.zero?.bind(visitor) ?? null;
    this.xbzrle = visitor.xbzrle?.bind(visitor) ?? null;
    this.compressedPage = visitor.compressedPage?.bind(visitor) ?? null;
    this.filledPage = visitor.filledPage?.bind(visitor) ?? null;
    this.named = visitor.named?.bind(visitor) ?? null;
    this.multifdFlush = visitor.multifdFlush?.bind(visitor) ?? null;
    this.hook = visitor.hook?.bind(visitor) ?? null;
  }
}

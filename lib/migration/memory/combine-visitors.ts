import type { PageVisitor, RamBlock } from '../format/events.ts';

/** Combine page visitors into one that passes each call to all of them, in order. */
export function combineVisitors(visitors: readonly PageVisitor[]): PageVisitor {
  // A lone visitor keeps its missing methods: the reader makes no page views for them.
  if (visitors.length < 2) return visitors[0] ?? {};
  return {
    async blocks(blocks: readonly RamBlock[], pageSize: number): Promise<void> {
      for (const visitor of visitors) await visitor.blocks?.(blocks, pageSize);
    },
    page(block: RamBlock, offset: number, bytes: Uint8Array): void {
      for (const visitor of visitors) visitor.page?.(block, offset, bytes);
    },
    placed(block: RamBlock, offset: number, length: number, position: number): void {
      for (const visitor of visitors) visitor.placed?.(block, offset, length, position);
    },
    zero(block: RamBlock, offset: number, count: number): void {
      for (const visitor of visitors) visitor.zero?.(block, offset, count);
    },
    xbzrle(block: RamBlock, offset: number, encoded: Uint8Array): void {
      for (const visitor of visitors) visitor.xbzrle?.(block, offset, encoded);
    },
  };
}

import type { PageSource } from './page-source.ts';

/** Guest memory that changes while it is read. */
export interface LivePageSource extends PageSource {
  /**
   * Report the pages of a block that may have changed since the last call for it; the first call reports those
   * that changed since the source exists. A page that changes while `read` copies it is reported by a later
   * call.
   *
   * @param block - Number of the block.
   * @param bitmap - Bit `page % 32` of word `page / 32` is set for each changed page; other bits stay.
   * @see QEMU `ramblock_sync_dirty_bitmap`
   */
  dirty(block: number, bitmap: Uint32Array): void | Promise<void>;
}

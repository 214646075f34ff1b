import type { PageCounts, RamBlock } from '../format/events.ts';
import { hasNoPages, noPages, pagesSince, totalPages } from './page-counts.ts';

/** Rounds that are counted one by one; the last count includes all later ones. */
const MAX_ROUNDS = 4096;

/** Pages by which records of the same round may be out of order where threads compress. */
const MAX_DISORDER_PAGES = 1024;

/**
 * Counts the pages of each round: QEMU goes through all blocks again and again, each time front to back. The
 * stream has no mark for the start of a round, so a page that lies before the previous one starts a new one.
 */
export class RoundCounter {
  readonly #rounds: PageCounts[] = [];
  #blocks: readonly RamBlock[] = [];
  /** The total at the end of the last complete round. */
  #counted: PageCounts = noPages();
  #blockIndex = -1;
  #offset = -1;
  #disorderBytes = 0;
  /** `synced` rounds end only where all multifd channels have arrived at the same place. */
  #mode: 'ordered' | 'synced' | 'stopped' = 'ordered';
  /** Whether the main channel has started a new round since the last sync. */
  #hasWrapped = false;

  /** Count the pages of these blocks. */
  setBlocks(blocks: readonly RamBlock[]): void {
    this.#blocks = blocks;
  }

  /** Note the place of a page. One before the previous place starts a new round. */
  visit(blockIndex: number, offset: number): void {
    if (
      blockIndex < this.#blockIndex ||
      (blockIndex === this.#blockIndex && offset + this.#disorderBytes <= this.#offset)
    ) {
      if (this.#mode === 'synced') this.#hasWrapped = true;
      else this.endRound();
      this.#blockIndex = blockIndex;
      this.#offset = offset;
    } else if (blockIndex > this.#blockIndex || offset > this.#offset) {
      this.#blockIndex = blockIndex;
      this.#offset = offset;
    }
  }

  /** Expect pages out of order, as several threads compress them. */
  expectDisorder(pageSize: number): void {
    this.#disorderBytes = MAX_DISORDER_PAGES * pageSize;
  }

  /** Expect pages from several channels, each at its own pace: from now on only `sync` ends rounds. */
  expectChannels(): void {
    if (this.#mode === 'ordered') this.#mode = 'synced';
  }

  /**
   * Note that all channels have arrived at the same place.
   *
   * @param endsRound - Whether the round ends here. If not, it ends only if the main channel has started a
   *   new one.
   */
  sync(endsRound: boolean): void {
    if (endsRound || this.#hasWrapped) this.endRound();
    this.#hasWrapped = false;
  }

  /** End the round, unless no page came in it. */
  endRound(): void {
    this.#blockIndex = -1;
    this.#offset = -1;
    // The total takes time in proportion to the number of blocks, and a round may have a single page.
    if (this.#mode === 'stopped' || this.#rounds.length === MAX_ROUNDS - 1) return;
    const total = totalPages(this.#blocks);
    const round = pagesSince(total, this.#counted);
    if (hasNoPages(round)) return;
    this.#counted = total;
    this.#rounds.push(round);
  }

  /** Count all further pages as one round: in postcopy, pages come in the order of the requests. */
  stop(): void {
    this.endRound();
    this.#mode = 'stopped';
  }

  /** Return the counts of each round so far, the current one included. */
  rounds(): PageCounts[] {
    const current = pagesSince(totalPages(this.#blocks), this.#counted);
    return hasNoPages(current) ? [...this.#rounds] : [...this.#rounds, current];
  }
}

import type { Diagnostics } from '../format/diagnostics.ts';
import type { PageCounts, PageVisitor, RamBlock } from '../format/events.ts';
import { BlockTable } from './block-table.ts';
import { totalPages } from './page-counts.ts';
import { PageDispatch } from './page-dispatch.ts';
import { RoundCounter } from './round-counter.ts';

/** State of a guest's RAM at some point of its stream. */
export interface RamTable {
  /** The blocks in the order of the stream's list; empty before the list has come. */
  readonly blocks: readonly RamBlock[];
  /** Bytes of a target page. */
  readonly pageSize: number;
  /** Whether the main channel waits for multifd channels, which have the pages then. */
  readonly usesMultifd: boolean;
  /** Return the pages of each round so far: each time QEMU has gone through all blocks. */
  rounds(): PageCounts[];
  /** Return the pages of all blocks so far. */
  total(): PageCounts;
}

/** The parts that all channels of a migration share while they read the guest's RAM. */
export class GuestRam implements RamTable {
  readonly blockTable: BlockTable;
  readonly roundCounter: RoundCounter = new RoundCounter();
  readonly dispatch: PageDispatch;
  readonly diagnostics: Diagnostics;
  #usesMultifd = false;

  /** @param visitor - Receives the pages. */
  constructor(visitor: PageVisitor, diagnostics: Diagnostics) {
    this.diagnostics = diagnostics;
    this.dispatch = new PageDispatch(visitor);
    this.blockTable = new BlockTable((blocks, pageSize) => {
      this.roundCounter.setBlocks(blocks);
      return visitor.blocks?.(blocks, pageSize);
    });
  }

  get blocks(): readonly RamBlock[] {
    return this.blockTable.blocks;
  }

  get pageSize(): number {
    return this.blockTable.pageSize;
  }

  get usesMultifd(): boolean {
    return this.#usesMultifd;
  }

  /** Note that the main channel waits for multifd channels. */
  expectMultifd(): void {
    this.#usesMultifd = true;
  }

  rounds(): PageCounts[] {
    return this.roundCounter.rounds();
  }

  total(): PageCounts {
    return totalPages(this.blocks);
  }
}

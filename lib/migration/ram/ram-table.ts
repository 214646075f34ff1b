import { printable } from '../../util/format.ts';
import type { Diagnostics } from '../format/diagnostics.ts';
import type { PageCounts, PageVisitor, RamBlock } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';

/** Rounds that are counted one by one; later ones are added up in the last. */
const MAX_ROUNDS = 4096;

/** Pages that a later record of the same round may lie before an earlier one, where threads compress. */
const DISORDER_PAGES = 1024;

/** Page size of nearly every target. */
const USUAL_PAGE_SIZE = 4096;

/** No counts yet. */
export function noPages(): PageCounts {
  return { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 };
}

/** What is known about a guest's RAM while its pages come, shared by all channels of a migration. */
export class RamTable {
  readonly #visitor: PageVisitor;
  readonly #byName = new Map<string, RamBlock>();
  readonly #rounds: PageCounts[] = [];
  #counted: PageCounts = noPages();
  #block = -1;
  #offset = -1;
  #disorder = 0;
  /** Whether rounds end only where all channels have come to, and whether the main channel began a new one. */
  #hasChannels = false;
  #hasWrapped = false;

  /** In the order of the list; empty until that came. */
  blocks: readonly RamBlock[] = [];
  /** Bytes of a target page. */
  pageSize: number = USUAL_PAGE_SIZE;
  /** Whether the page size was said, or found out, and not taken for granted. */
  pageSizeKnown = false;
  /** Whether passes over the list can be told apart: not while the destination asks for pages. */
  hasRounds = true;

  /** Whether pages come in channels of their own, by what the main channel says. */
  usesMultifd = false;

  /** Takes the warnings, and the faults after which the stream can still be read. */
  readonly diagnostics: Diagnostics;
  readonly onPage: ((block: RamBlock, offset: number, bytes: Uint8Array) => void) | null;
  readonly onZero: ((block: RamBlock, offset: number, count: number) => void) | null;
  readonly onXbzrle: ((block: RamBlock, offset: number, encoded: Uint8Array) => void) | null;

  constructor(visitor: PageVisitor, diagnostics: Diagnostics) {
    this.#visitor = visitor;
    this.diagnostics = diagnostics;
    this.onPage = visitor.page?.bind(visitor) ?? null;
    this.onZero = visitor.zero?.bind(visitor) ?? null;
    this.onXbzrle = visitor.xbzrle?.bind(visitor) ?? null;
  }

  /** Takes in the list of blocks. */
  async list(blocks: readonly RamBlock[]): Promise<void> {
    this.blocks = blocks;
    for (const block of blocks) this.#byName.set(block.name, block);
    await this.#visitor.blocks?.(blocks, this.pageSize);
  }

  /**
   * Takes in the page size; a visitor that was told another one before is told again.
   *
   * @param position - Offset in the stream of what said it.
   * @throws {MigrationStreamError} (rejects) `corrupt` if there are blocks of no whole pages.
   */
  async setPageSize(bytes: number, position: number): Promise<void> {
    const misfit = this.blocks.find(({ usedLength }) => usedLength % bytes !== 0);
    if (misfit !== undefined) {
      const { name, usedLength } = misfit;
      const reason = `pages have ${bytes} bytes, and RAM block "${printable(name)}" of ${usedLength} no whole number of them`;
      throw new MigrationStreamError('corrupt', reason, { position });
    }
    this.pageSizeKnown = true;
    if (bytes === this.pageSize) return;
    this.pageSize = bytes;
    if (this.blocks.length > 0) await this.#visitor.blocks?.(this.blocks, bytes);
  }

  find(name: string): RamBlock | undefined {
    return this.#byName.get(name);
  }

  /** Notes where a record is: one before the last begins a new pass over the list. */
  visit(block: number, offset: number): void {
    if (block < this.#block || (block === this.#block && offset + this.#disorder <= this.#offset)) {
      if (this.#hasChannels) this.#hasWrapped = true;
      else this.nextRound();
      this.#block = block;
      this.#offset = offset;
    } else if (block > this.#block || offset > this.#offset) {
      this.#block = block;
      this.#offset = offset;
    }
  }

  /** Pages come from several threads, out of order. */
  expectDisorder(): void {
    this.#disorder = DISORDER_PAGES * this.pageSize;
  }

  /** Pages come through several channels, each at its own pace. */
  expectChannels(): void {
    this.#hasChannels = true;
  }

  /**
   * All channels have come to the same place.
   *
   * @param endsRound - Whether a pass over the list is over; if not, one is that the main channel went beyond.
   */
  syncRound(endsRound: boolean): void {
    if (endsRound || this.#hasWrapped) this.nextRound();
    this.#hasWrapped = false;
  }

  /** A pass over the list is over, if anything came in it. */
  nextRound(): void {
    this.#block = -1;
    this.#offset = -1;
    // To count takes time in proportion to the number of blocks, and a round may have one page.
    if (!this.hasRounds || this.#rounds.length === MAX_ROUNDS - 1) return;
    const sum = this.total();
    const round = difference(sum, this.#counted);
    if (isEmpty(round)) return;
    this.#counted = sum;
    this.#rounds.push(round);
  }

  /** What came in each pass over the list so far. */
  rounds(): PageCounts[] {
    const current = difference(this.total(), this.#counted);
    return isEmpty(current) ? [...this.#rounds] : [...this.#rounds, current];
  }

  /** What came for all blocks so far. */
  total(): PageCounts {
    const sum = noPages();
    for (const { pages } of this.blocks) addTo(sum, pages);
    return sum;
  }
}

function addTo(sum: PageCounts, pages: PageCounts): void {
  sum.zero += pages.zero;
  sum.normal += pages.normal;
  sum.xbzrle += pages.xbzrle;
  sum.compressed += pages.compressed;
  sum.multifd += pages.multifd;
}

function difference(sum: PageCounts, less: PageCounts): PageCounts {
  return {
    zero: sum.zero - less.zero,
    normal: sum.normal - less.normal,
    xbzrle: sum.xbzrle - less.xbzrle,
    compressed: sum.compressed - less.compressed,
    multifd: sum.multifd - less.multifd,
  };
}

function isEmpty(pages: PageCounts): boolean {
  return pages.zero + pages.normal + pages.xbzrle + pages.compressed + pages.multifd === 0;
}

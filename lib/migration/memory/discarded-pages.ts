import { quote } from '../../util/format.ts';
import type { MigrationEvent, PageVisitor, RamBlock } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { PageSet } from './page-set.ts';

/** Most chunks of the set: they take 32 MiB and cover 1 TiB of 4 KiB pages. */
const MAX_CHUNKS = 32_768;

/**
 * Tracks the pages that a postcopy migration discarded at the destination and has to send again. Pass it to a
 * reader as a page visitor, and the reader's events to it.
 */
export class DiscardedPages implements PageVisitor {
  #pages: PageSet | null = null;
  #blocks: readonly RamBlock[] = [];
  #firsts: number[] = [];
  #pageSize = 1;

  blocks(blocks: readonly RamBlock[], pageSize: number): void {
    this.#blocks = blocks;
    this.#pageSize = pageSize;
    this.#firsts = [];
    let first = 0;
    for (const { usedLength } of blocks) {
      this.#firsts.push(first);
      first += Math.ceil(usedLength / pageSize);
    }
  }

  page(block: RamBlock, offset: number, bytes: Uint8Array): void {
    this.sent(block, offset, bytes.length);
  }

  zero(block: RamBlock, offset: number, count: number): void {
    if (this.#pages !== null) this.#remove(block, offset, count);
  }

  /** Note `length` bytes of pages that came; for visitors that do not get the bytes. */
  sent(block: RamBlock, offset: number, length: number): void {
    if (this.#pages !== null) this.#remove(block, offset, length / this.#pageSize);
  }

  /**
   * Note the pages that a command discards.
   *
   * @throws {MigrationStreamError} `unsupported` for more pages than can be tracked.
   */
  follow(event: MigrationEvent): void {
    if (event.type !== 'command' || event.command.name !== 'POSTCOPY_RAM_DISCARD') return;
    const { block: name, ranges } = event.command;
    const block = this.#blocks.find((one) => one.name === name);
    if (block === undefined) return;
    this.#pages ??= new PageSet(MAX_CHUNKS);
    const base = this.#firsts[block.index] as number;
    for (const { start, length } of ranges) {
      const first = base + Math.floor(start / this.#pageSize);
      try {
        this.#pages.add(first, base + Math.ceil((start + length) / this.#pageSize));
      } catch (cause) {
        const reason = 'POSTCOPY_RAM_DISCARD: more memory is discarded than can be tracked';
        throw new MigrationStreamError('unsupported', reason, { position: event.offset, cause });
      }
    }
  }

  /** Return what is missing, as a clause; null if all pages that were discarded came after that. */
  describe(): string | null {
    const pages = this.#pages;
    if (pages === null) return null;
    for (const { index, name, usedLength } of this.#blocks) {
      const first = this.#firsts[index] as number;
      const end = first + Math.ceil(usedLength / this.#pageSize);
      const count = pages.count(first, end);
      if (count === 0) continue;
      const what = count === 1 ? '1 page' : `${count} pages`;
      return (
        `${what} of RAM block ${quote(name)} that postcopy discarded did not come after that: ` +
        'the migration did not end, or used postcopy-preempt, whose channel has to be given (--channel FILE)'
      );
    }
    return null;
  }

  #remove(block: RamBlock, offset: number, count: number): void {
    const first = (this.#firsts[block.index] as number) + offset / this.#pageSize;
    this.#pages?.remove(first, first + count);
  }
}

/**
 * Check that all pages that were discarded came after that.
 *
 * @param position - Offset in the stream of its end.
 * @throws {MigrationStreamError} `truncated`.
 */
export function checkDiscarded(discarded: DiscardedPages, position: number): void {
  const reason = discarded.describe();
  if (reason !== null) throw new MigrationStreamError('truncated', reason, { position });
}

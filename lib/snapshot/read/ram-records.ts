import { RAM_FLAG } from '../../migration/format/wire.ts';
import type { Extent } from '../../migration/memory/ram-image.ts';
import type { PageSourceBlock } from '../../migration/page-source/page-source.ts';
import type { SnapshotPages } from './snapshot-pages.ts';

const { CONTINUE, PAGE, ZERO } = RAM_FLAG;
const WORD_BYTES = 8;
const TWO_32 = 2 ** 32;
const MAX_NAME_BYTES = 255;

const NO_EXTENTS: Iterator<Extent> = [][Symbol.iterator]();

/**
 * The RAM records of a snapshot, each page once, in the order of addresses. They are written into the memory of the
 * reader, to which the pages are copied right from their frames.
 */
export class RamRecords {
  readonly #pages: SnapshotPages;
  /** The block of the next record; -1 before the first one. */
  #block = -1;
  #blockBytes = 0;
  /** Offset of the next record's page in its block. */
  #at = 0;
  #extents = NO_EXTENTS;
  /** The next pages with data: those before them are zeros. */
  #dataStart = 0;
  #dataEnd = 0;
  /** Whether a record of the block was written: those after the first one do not name it. */
  #isNamed = false;

  constructor(pages: SnapshotPages) {
    this.#pages = pages;
    this.#nextExtent();
  }

  /** Whether all records were written. */
  get isDone(): boolean {
    return this.#block === this.#pages.blocks.length;
  }

  /** Bytes that the longest record may have. */
  get maxBytes(): number {
    return WORD_BYTES + 1 + MAX_NAME_BYTES + this.#pages.pageSize;
  }

  /**
   * Write records until there is no room for the longest one, or the next page has not been read yet.
   *
   * @returns Number of bytes written.
   */
  fill(target: Buffer): number {
    const { pageSize } = this.#pages;
    const last = target.length - this.maxBytes;
    let done = 0;
    while (done <= last && !this.isDone) {
      const isData = this.#at >= this.#dataStart;
      if (!isData) {
        done = this.#putWord(target, done, ZERO);
        target[done] = 0;
        done += 1;
        this.#at += pageSize;
      } else {
        const most = Math.floor((last - done) / (WORD_BYTES + pageSize)) + 1;
        const length = Math.min(this.#dataEnd - this.#at, most * pageSize);
        const bytes = this.#pages.cached(this.#block, this.#at, length);
        if (bytes === null) return done;
        for (let at = 0; at < bytes.length; at += pageSize) {
          done = this.#putWord(target, done, PAGE);
          target.set(bytes.subarray(at, at + pageSize), done);
          done += pageSize;
          this.#at += pageSize;
        }
      }
      if (this.#at === this.#dataEnd) this.#nextExtent();
    }
    return done;
  }

  /** Wait until the next page is in the cache. */
  wait(): Promise<void> {
    return this.#pages.fetch(this.#block, this.#at);
  }

  #putWord(target: Buffer, at: number, flag: number): number {
    const word = this.#at + flag + (this.#isNamed ? CONTINUE : 0);
    target.writeUInt32BE(Math.floor(word / TWO_32), at);
    target.writeUInt32BE(word % TWO_32, at + 4);
    if (this.#isNamed) return at + WORD_BYTES;
    this.#isNamed = true;
    const { name } = this.#pages.blocks[this.#block] as PageSourceBlock;
    const bytes = target.write(name, at + WORD_BYTES + 1);
    target[at + WORD_BYTES] = bytes;
    return at + WORD_BYTES + 1 + bytes;
  }

  /** Go on to the next pages with data, and to the next block where there are none. */
  #nextExtent(): void {
    const { blocks } = this.#pages;
    while (this.#at === this.#dataEnd) {
      const next = this.#extents.next();
      if (next.done !== true) {
        this.#dataStart = next.value.at;
        this.#dataEnd = next.value.at + next.value.length;
      } else if (this.#at < this.#blockBytes) {
        this.#dataStart = this.#blockBytes;
        this.#dataEnd = this.#blockBytes;
      } else {
        this.#block += 1;
        const block = blocks[this.#block];
        if (block === undefined) return;
        this.#blockBytes = block.usedLength;
        this.#extents = this.#pages.extents(this.#block);
        this.#at = 0;
        this.#dataStart = 0;
        this.#dataEnd = 0;
        this.#isNamed = false;
      }
    }
  }
}

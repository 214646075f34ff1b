import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { hex, quote } from '../../util/format.ts';
import { RAM_FLAG } from '../format/wire.ts';
import type { Extent as PageExtent } from '../memory/ram-image.ts';
import type { PageSource, PageSourceBlock } from '../page-source/page-source.ts';
import { EXTENT_BYTES, type Extent, type ExtentCache } from './extent-cache.ts';
import { findRun, type PageRuns } from './page-runs.ts';
import type { PositionedReads } from './positioned-reads.ts';

const WORD_BYTES = 8;

/** Bytes of the stream that are held together. */
const MAX_HELD_BYTES = 2 * EXTENT_BYTES;

/** Bytes of adjacent pages from which on they are read into the caller's memory, past the cache. */
const MIN_DIRECT_BYTES = 65_536;

/** Parts with which the pages of a stream are read. */
export interface StreamPagesOptions {
  readonly pageSize: number;
  readonly blocks: readonly PageSourceBlock[];
  readonly runs: PageRuns;
  readonly reads: PositionedReads;
  readonly cache: ExtentCache;
}

/** The guest memory of a recorded stream, read from the places of its pages. */
export class StreamPages implements PageSource {
  readonly pageSize: number;
  readonly blocks: readonly PageSourceBlock[];
  readonly #runs: PageRuns;
  readonly #reads: PositionedReads;
  readonly #cache: ExtentCache;
  /** First page of each block, counted through all blocks. */
  readonly #firsts: number[] = [];
  /** Whether each page has a record of its own, whose word says which page it is. */
  readonly #hasWords: boolean;
  readonly #word: Buffer = Buffer.alloc(WORD_BYTES);

  constructor({ pageSize, blocks, runs, reads, cache }: StreamPagesOptions) {
    this.pageSize = pageSize;
    this.blocks = blocks;
    this.#runs = runs;
    this.#reads = reads;
    this.#cache = cache;
    this.#hasWords = runs.stride !== pageSize;
    let first = 0;
    for (const { usedLength } of blocks) {
      this.#firsts.push(first);
      first += usedLength / pageSize;
    }
  }

  *extents(block: number): Generator<PageExtent> {
    const { pages, counts, length } = this.#runs;
    const first = this.#firstOf(block);
    const end = first + (this.blocks[block] as PageSourceBlock).usedLength / this.pageSize;
    let index = Math.max(0, findRun(this.#runs, first));
    if (index < length && (pages[index] as number) < first) index += 1;
    let from = -1;
    let to = -1;
    for (; index < length && (pages[index] as number) < end; index++) {
      const page = pages[index] as number;
      if (page !== to) {
        if (from !== -1) yield this.#extent(first, from, to);
        from = page;
      }
      to = page + (counts[index] as number);
    }
    if (from !== -1) yield this.#extent(first, from, to);
  }

  #extent(first: number, from: number, to: number): PageExtent {
    return { at: (from - first) * this.pageSize, length: (to - from) * this.pageSize };
  }

  /**
   * @throws {QemuFileError} (rejects) `EIO` if the file ends too early; `EBADMSG` if the bytes at a page's place are
   *   not the record of that page, or an extent has another digest than its index says; both name block and page.
   */
  read(block: number, offset: number, target: Uint8Array): void | Promise<void> {
    const { pageSize } = this;
    const { pages, counts, positions, length, stride } = this.#runs;
    const first = this.#firstOf(block);
    let page = first + offset / pageSize;
    const end = page + target.length / pageSize;
    let done = 0;
    let index = findRun(this.#runs, page);
    while (page < end) {
      const runPage = index < 0 ? -1 : (pages[index] as number);
      const runEnd = index < 0 ? -1 : runPage + (counts[index] as number);
      if (page < runEnd) {
        const isDirect =
          !this.#hasWords && (Math.min(end, runEnd) - page) * pageSize >= MIN_DIRECT_BYTES;
        const most = isDirect ? end : Math.max(1, Math.floor(MAX_HELD_BYTES / stride));
        const count = Math.min(end - page, runEnd - page, most);
        const position = (positions[index] as number) + (page - runPage) * stride;
        const pageAt = (page - first) * pageSize;
        const pending = isDirect
          ? this.#readDirectly(
              block,
              pageAt,
              position,
              target.subarray(done, done + count * pageSize),
            )
          : this.#copy(block, pageAt, count, position, target, done);
        page += count;
        done += count * pageSize;
        if (pending !== null) {
          return pending.then(() =>
            this.read(block, (page - first) * pageSize, target.subarray(done)),
          );
        }
      } else {
        index += 1;
        const next = index < length ? Math.min(end, pages[index] as number) : end;
        target.fill(0, done, done + (next - page) * pageSize);
        done += (next - page) * pageSize;
        page = next;
      }
    }
  }

  readNow(block: number, offset: number, target: Uint8Array): boolean {
    const { pages, counts, positions, stride } = this.#runs;
    const page = this.#firstOf(block) + offset / this.pageSize;
    const index = findRun(this.#runs, page);
    const before = index < 0 ? -1 : page - (pages[index] as number);
    const count = target.length / this.pageSize;
    if (before < 0 || before + count > (counts[index] as number)) return false;
    if (target.length >= MIN_DIRECT_BYTES) return false;
    const position = (positions[index] as number) + before * stride;
    const [low, high] = this.#extentsOf(block, position, count);
    try {
      for (let extent = low; extent <= high; extent++) {
        if (!this.#cache.fillNow(extent)) return false;
      }
    } catch (error) {
      throw this.#readError(block, offset, toQemuFileError(error));
    }
    return this.read(block, offset, target) === undefined;
  }

  /** Check that the file was not written to since it was opened. */
  checkUnchanged(): void {
    this.#reads.checkUnchanged();
  }

  close(): Promise<void> {
    return this.#reads.close();
  }

  #firstOf(block: number): number {
    const first = this.#firsts[block];
    if (first === undefined) throw new RangeError(`${block} is not the number of a RAM block`);
    return first;
  }

  /** Read adjacent pages of a mapped-ram file. */
  async #readDirectly(
    block: number,
    offset: number,
    position: number,
    target: Uint8Array,
  ): Promise<void> {
    try {
      await this.#reads.read(target, position);
    } catch (error) {
      throw this.#readError(block, offset, toQemuFileError(error));
    }
  }

  /** Copy the pages of a run. Return null if their bytes are at hand. */
  #copy(
    block: number,
    offset: number,
    count: number,
    position: number,
    target: Uint8Array,
    targetAt: number,
  ): Promise<void> | null {
    const { stride } = this.#runs;
    const [low, high] = this.#extentsOf(block, position, count);
    const extents: Extent[] = [];
    let isReading = false;
    for (let index = low; index <= high; index++) {
      const extent = this.#cache.use(index);
      extents.push(extent);
      if (extent.bytes === null) isReading = true;
    }
    const copy = (): void => {
      try {
        for (let page = 0; page < count; page++) {
          const at = position + page * stride;
          const pageAt = offset + page * this.pageSize;
          if (this.#hasWords) this.#checkWord(extents, low, block, pageAt, at, page === 0);
          const to = targetAt + page * this.pageSize;
          copyBytes(extents, at - low * EXTENT_BYTES, target, to, this.pageSize);
        }
      } finally {
        this.#release(extents);
      }
    };
    if (!isReading) {
      copy();
      return null;
    }
    return this.#wait(extents, block, offset, copy);
  }

  /** Return the first and the last extent with bytes of adjacent pages. */
  #extentsOf(block: number, position: number, count: number): [low: number, high: number] {
    // The word before a page belongs to it, and so does the name that may be between them.
    const header = this.#hasWords ? this.#headerBytes(block) : 0;
    const end = position + (count - 1) * this.#runs.stride + this.pageSize;
    return [
      Math.floor(Math.max(0, position - header) / EXTENT_BYTES),
      Math.floor((end - 1) / EXTENT_BYTES),
    ];
  }

  async #wait(extents: Extent[], block: number, offset: number, copy: () => void): Promise<void> {
    try {
      for (const { reading } of extents) await reading;
    } catch (error) {
      // The other reads go on in the cache.
      this.#release(extents);
      throw this.#readError(block, offset, toQemuFileError(error));
    }
    copy();
  }

  #readError(block: number, offset: number, error: QemuFileError): QemuFileError {
    const { code, reason, position } = error;
    const where = `the pages from ${hex(offset)} of ${this.#quoted(block)} cannot be read`;
    const context = { operation: 'read', position, cause: error };
    return new QemuFileError(code, `${where}: ${reason}`, context);
  }

  #release(extents: readonly Extent[]): void {
    for (const extent of extents) this.#cache.release(extent);
  }

  /** Check that the record at a page's place is this page's, so that a changed file is noticed. */
  #checkWord(
    extents: readonly Extent[],
    low: number,
    block: number,
    offset: number,
    position: number,
    mayHaveName: boolean,
  ): void {
    const at = position - low * EXTENT_BYTES;
    if (this.#wordAt(extents, at - WORD_BYTES) === offset + RAM_FLAG.PAGE + RAM_FLAG.CONTINUE)
      return;
    if (mayHaveName && this.#hasNamedHeader(extents, at, block, offset)) return;
    const page = `the page at ${hex(offset)} of ${this.#quoted(block)}`;
    const reason = `${page} is not where it was in the file: the file was changed, or the index is not its own`;
    throw new QemuFileError('EBADMSG', reason, { operation: 'read', position });
  }

  #wordAt(extents: readonly Extent[], at: number): number {
    if (at < 0) return -1;
    copyBytes(extents, at, this.#word, 0, WORD_BYTES);
    return this.#word.readUInt32BE(0) * 0x1_0000_0000 + this.#word.readUInt32BE(4);
  }

  #hasNamedHeader(extents: readonly Extent[], at: number, block: number, offset: number): boolean {
    const header = this.#headerBytes(block);
    if (at < header || this.#wordAt(extents, at - header) !== offset + RAM_FLAG.PAGE) return false;
    const name = Buffer.alloc(header - WORD_BYTES);
    copyBytes(extents, at - name.length, name, 0, name.length);
    return name[0] === name.length - 1 && name.toString('utf8', 1) === this.blocks[block]?.name;
  }

  /** Bytes of a record before its page, if it has the name of the block. */
  #headerBytes(block: number): number {
    return WORD_BYTES + 1 + Buffer.byteLength((this.blocks[block] as PageSourceBlock).name);
  }

  #quoted(block: number): string {
    return quote((this.blocks[block] as PageSourceBlock).name);
  }
}

/** Copy bytes out of consecutive extents, the first of which begins at position 0. */
function copyBytes(
  extents: readonly Extent[],
  at: number,
  target: Uint8Array,
  to: number,
  length: number,
): void {
  let index = Math.floor(at / EXTENT_BYTES);
  let from = at - index * EXTENT_BYTES;
  let done = 0;
  while (done < length) {
    const bytes = (extents[index] as Extent).bytes as Buffer;
    const take = Math.min(length - done, bytes.length - from);
    if (take <= 0) throw new QemuFileError('EIO', 'the file of the saved guest ends in a page');
    bytes.copy(target, to + done, from, from + take);
    done += take;
    from = 0;
    index += 1;
  }
}

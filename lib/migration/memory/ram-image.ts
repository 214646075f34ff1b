import { abortError, QemuFileError } from '../../contract/errors.ts';
import { Digest, loadDigest } from '../../util/digest.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { applyXbzrle, xbzrleFault } from '../ram/xbzrle.ts';
import { PageSet } from './page-set.ts';
import type { PageStore } from './page-store.ts';

/** Bytes that are read at once for a digest. */
const READ_SIZE = 262_144;

/** Bytes of a digest between two turns of the event loop. */
const TURN_SIZE = 67_108_864;

const ZEROS = new Uint8Array(READ_SIZE);

/** What a `RamImage` can be told. */
export interface RamImageOptions {
  /**
   * Gives each block the store for its contents; null for one whose pages are not kept.
   *
   * @param block - Positions in its store are offsets in the block.
   */
  store: (block: RamBlock) => PageStore | null;
}

/** A run of bytes of a block. */
export interface Extent {
  /** Offset of the first byte in the block. */
  readonly at: number;
  readonly length: number;
}

interface StoredBlock {
  readonly store: PageStore;
  /** Number of its first page among those of all blocks. */
  readonly first: number;
  readonly pages: number;
}

/**
 * Guest memory as a stream leaves it: give it to a reader as its page visitor, and each block's contents
 * can be had when the reader is done. A page that never came is zeros.
 *
 * @example
 * ```js
 * const image = new RamImage({ store: (block) => (block.name === 'pc.ram' ? new MemoryPageStore() : null) });
 * ```
 */
export class RamImage implements PageVisitor {
  readonly #store: RamImageOptions['store'];
  #blocks: (StoredBlock | null)[] = [];
  /** Pages of all blocks that may hold something else than zeros: one set, so that one bound holds for all. */
  #pages = new PageSet();
  #pageSize = 0;
  #page = new Uint8Array(0);

  constructor(options: RamImageOptions) {
    this.#store = options.store;
  }

  blocks(blocks: readonly RamBlock[], pageSize: number): void {
    if (pageSize !== this.#pageSize) {
      this.close();
      this.#pageSize = pageSize;
      this.#page = new Uint8Array(pageSize);
    }
    let first = 0;
    for (const block of blocks) {
      const pages = Math.ceil(block.usedLength / pageSize);
      // A longer list than before begins with what is kept already.
      if (this.#blocks[block.index] === undefined) {
        const store = this.#store(block);
        this.#blocks[block.index] = store && { store, first, pages };
      }
      first += pages;
    }
  }

  /** @throws {QemuFileError} Of the store, such as `ENOSPC`. */
  page(block: RamBlock, offset: number, bytes: Uint8Array): void {
    const stored = this.#blocks[block.index];
    if (!stored) return;
    const first = stored.first + offset / this.#pageSize;
    this.#pages.add(first, first + bytes.length / this.#pageSize);
    stored.store.write(offset, bytes);
  }

  zero(block: RamBlock, offset: number, count: number): void {
    const stored = this.#blocks[block.index];
    if (!stored) return;
    const size = this.#pageSize;
    const first = stored.first + offset / size;
    // Most pages of zeros come alone, to where nothing is that they could overwrite.
    if (count === 1 && !this.#pages.has(first)) return;
    for (const [from, end] of this.#pages.runs(first, first + count)) {
      stored.store.zero((from - stored.first) * size, (end - from) * size);
    }
    this.#pages.remove(first, first + count);
  }

  /** @throws {QemuFileError} `EBADMSG` when `encoded` is no such encoding; the page is then as it was. */
  xbzrle(block: RamBlock, offset: number, encoded: Uint8Array): void {
    const stored = this.#blocks[block.index];
    if (!stored) return;
    const fault = xbzrleFault(encoded, this.#pageSize);
    if (fault !== null) throw new QemuFileError('EBADMSG', fault, { operation: 'xbzrle' });
    const page = stored.first + offset / this.#pageSize;
    if (this.#pages.has(page)) stored.store.read(offset, this.#page);
    else this.#page.fill(0);
    applyXbzrle(this.#page, encoded);
    this.#pages.add(page, page + 1);
    stored.store.write(offset, this.#page);
  }

  /** Gives the store of a block; null if its pages are not kept. */
  storeOf(block: RamBlock): PageStore | null {
    return this.#blocks[block.index]?.store ?? null;
  }

  /**
   * Reads contents of a block.
   *
   * @param at - Offset in the block.
   * @param target - Filled.
   * @throws {QemuFileError} `EINVAL` outside of the block, or when its pages are not kept.
   */
  read(block: RamBlock, at: number, target: Uint8Array): void {
    const stored = this.#kept(block, 'read');
    if (!(at >= 0 && at + target.length <= block.usedLength)) {
      const reason = `bytes ${at} to ${at + target.length} are not all in a block of ${block.usedLength}`;
      throw new QemuFileError('EINVAL', reason, { operation: 'read' });
    }
    stored.store.read(at, target);
  }

  /**
   * Gives the runs of pages of a block that came as something else than pages of zeros, in ascending order;
   * all the rest is zeros.
   *
   * @throws {QemuFileError} `EINVAL` when its pages are not kept.
   */
  *extents(block: RamBlock): Generator<Extent> {
    const { first, pages } = this.#kept(block, 'extents');
    const size = this.#pageSize;
    for (const [from, end] of this.#pages.runs(first, first + pages)) {
      const at = (from - first) * size;
      yield { at, length: Math.min((end - first) * size, block.usedLength) - at };
    }
  }

  /**
   * Gives the XXH64 of a block's contents as 16 hexadecimal digits. All of the block goes into it, so a
   * huge one takes its time, pages of zeros or not; the event loop turns in between.
   *
   * @param options - `signal` ends it.
   * @throws {QemuFileError} (rejects) `EINVAL` when its pages are not kept.
   */
  async digest(
    block: RamBlock,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<string> {
    const { store } = this.#kept(block, 'digest');
    await loadDigest();
    const digest = new Digest();
    const buffer = new Uint8Array(READ_SIZE);
    let at = 0;
    let turn = TURN_SIZE;
    const add = async (end: number, isZeros: boolean): Promise<void> => {
      while (at < end) {
        const part = (isZeros ? ZEROS : buffer).subarray(0, Math.min(READ_SIZE, end - at));
        if (!isZeros) store.read(at, part);
        digest.update(part);
        at += part.length;
        if (at < turn) continue;
        turn = at + TURN_SIZE;
        await new Promise(setImmediate);
        if (options.signal?.aborted) throw abortError(options.signal, 'digest');
      }
    };
    for (const extent of this.extents(block)) {
      await add(extent.at, true);
      await add(extent.at + extent.length, false);
    }
    await add(block.usedLength, true);
    return digest.hex();
  }

  /** Closes the stores. May be called again. */
  close(): void {
    const blocks = this.#blocks;
    this.#blocks = [];
    this.#pages = new PageSet();
    for (const stored of blocks) stored?.store.close();
  }

  #kept(block: RamBlock, operation: string): StoredBlock {
    const stored = this.#blocks[block.index];
    if (stored) return stored;
    const reason = `the pages of ${JSON.stringify(block.name)} are not kept`;
    throw new QemuFileError('EINVAL', reason, { operation });
  }
}

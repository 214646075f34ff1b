import { abortError, QemuFileError } from '../../contract/errors.ts';
import { Digest, loadDigest } from '../../util/digest.ts';
import { quote } from '../../util/format.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { applyXbzrle, xbzrleFault } from '../ram/xbzrle.ts';
import { PageSet } from './page-set.ts';
import type { PageStore } from './page-store.ts';

/** Bytes read at a time for a digest. */
const READ_CHUNK_BYTES = 262_144;

/** Bytes of a digest after which the event loop gets a turn. */
const YIELD_INTERVAL_BYTES = 67_108_864;

const ZEROS = new Uint8Array(READ_CHUNK_BYTES);

/** Options of `RamImage`. */
export interface RamImageOptions {
  /**
   * Return the store for the contents of a block, or null if its pages are not to be kept.
   *
   * @param block - The block; positions in its store are offsets in the block.
   */
  store: (block: RamBlock) => PageStore | null;
}

/** A run of bytes in a block. */
export interface Extent {
  /** Offset of the first byte in the block. */
  readonly at: number;
  readonly length: number;
}

interface StoredBlock {
  readonly store: PageStore;
  /** Number of its first page, counted through all blocks. */
  readonly first: number;
  readonly pages: number;
}

/**
 * Guest memory as it is after a stream was loaded. Pass the image to a reader as its page visitor; the
 * contents of each block can be read once the reader has finished. A page that was not sent is zeros.
 *
 * @example
 * ```js
 * const image = new RamImage({ store: (block) => (block.name === 'pc.ram' ? new MemoryPageStore() : null) });
 * ```
 */
export class RamImage implements PageVisitor {
  readonly #store: RamImageOptions['store'];
  #blocks: (StoredBlock | null)[] = [];
  /** Pages of all blocks that may hold something other than zeros: one set has one bound for all. */
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
      // A repeated list begins with the blocks that are stored already.
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
    // Most zero pages arrive singly and overwrite nothing.
    if (count === 1 && !this.#pages.has(first)) return;
    for (const [from, end] of this.#pages.runs(first, first + count)) {
      stored.store.zero((from - stored.first) * size, (end - from) * size);
    }
    this.#pages.remove(first, first + count);
  }

  /** @throws {QemuFileError} `EBADMSG` if `encoded` is not valid XBZRLE; the page is then unchanged. */
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

  /**
   * Return the store of a block, or null if its pages are not kept.
   *
   * @param block - A block of the stream.
   */
  storeOf(block: RamBlock): PageStore | null {
    return this.#blocks[block.index]?.store ?? null;
  }

  /**
   * Read contents of a block.
   *
   * @param at - Offset in the block, in bytes.
   * @param target - Buffer to fill.
   * @throws {QemuFileError} `EINVAL` outside the block, or if its pages are not kept.
   */
  read(block: RamBlock, at: number, target: Uint8Array): void {
    const stored = this.#kept(block, 'read');
    if (!(at >= 0 && at + target.length <= block.usedLength)) {
      const reason = `bytes ${at} to ${at + target.length} exceed the block of ${block.usedLength} bytes`;
      throw new QemuFileError('EINVAL', reason, { operation: 'read' });
    }
    stored.store.read(at, target);
  }

  /**
   * Yield the runs of pages of a block that are not known to be zeros, in ascending order. The rest of the
   * block is zeros.
   *
   * @throws {QemuFileError} `EINVAL` if the pages of the block are not kept.
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
   * Return the XXH64 of a block's contents as 16 hexadecimal digits. All bytes of the block are hashed, zeros
   * included, so a large block takes long; the event loop gets turns in between.
   *
   * @param options - `signal` aborts the hashing.
   * @throws {QemuFileError} (rejects) `EINVAL` if the pages of the block are not kept, `ECANCELED` if aborted.
   */
  async digest(
    block: RamBlock,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<string> {
    const { store } = this.#kept(block, 'digest');
    await loadDigest();
    const digest = new Digest();
    const buffer = new Uint8Array(READ_CHUNK_BYTES);
    let at = 0;
    let turn = YIELD_INTERVAL_BYTES;
    const add = async (end: number, isZeros: boolean): Promise<void> => {
      while (at < end) {
        const part = (isZeros ? ZEROS : buffer).subarray(0, Math.min(READ_CHUNK_BYTES, end - at));
        if (!isZeros) store.read(at, part);
        digest.update(part);
        at += part.length;
        if (at < turn) continue;
        turn = at + YIELD_INTERVAL_BYTES;
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

  /** Close the stores. May be called again. */
  close(): void {
    const blocks = this.#blocks;
    this.#blocks = [];
    this.#pages = new PageSet();
    for (const stored of blocks) stored?.store.close();
  }

  #kept(block: RamBlock, operation: string): StoredBlock {
    const stored = this.#blocks[block.index];
    if (stored) return stored;
    const reason = `the pages of ${quote(block.name)} are not kept: give the block a store`;
    throw new QemuFileError('EINVAL', reason, { operation });
  }
}

import { abortError } from '../../contract/errors.ts';
import { Digest } from '../../util/digest.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { RamImage, type RamImageOptions } from '../memory/ram-image.ts';

/*
 * The digest of a block is that of its final contents, in the order of their offsets. A stream sends most pages in that
 * order, so they are hashed as they come; zeros only once something else follows, because a page that was zeros at first
 * is often sent again. The order ends at a page that was hashed before, with its own contents or, in a gap, as zeros. The
 * contents that the digest then needs come from one of two places:
 *
 *   a source that can be read again    the pages are not kept; a second reading stores those of such blocks
 *   any other source                   all pages are stored as they come
 */

/**
 * Bytes of pages that are hashed in one call: a call for each page costs more than this copy. The copy, and that into the
 * memory of the hash, stay in the processor's first cache (bench/commands.ts).
 */
const GATHER_BYTES = 16_384;

/** Bytes of zeros that are hashed in one call. */
const ZEROS_BYTES = 65_536;

const ZEROS = new Uint8Array(ZEROS_BYTES);

/** Options of `BlockDigests`. */
export interface BlockDigestsOptions extends RamImageOptions {
  /**
   * Read the stream again, from its start, and pass its pages to a visitor. Without it, the pages of all blocks are
   * stored during the first reading.
   */
  readAgain?: ((pages: PageVisitor) => Promise<void>) | undefined;
}

/**
 * Most bytes of gaps, which count as zeros, that are hashed while a stream is read: a short stream can have gaps of
 * terabytes, and the reader does not give the event loop a turn at each page.
 */
const MAX_GAP_BYTES = 1_073_741_824;

/** Most bytes of pages of zeros that wait until something else follows: they are then hashed at once. */
const MAX_WAITING_ZERO_BYTES = 16_777_216;

/** Zeros after the last page that are hashed before the event loop gets a turn. */
const YIELD_INTERVAL_BYTES = 67_108_864;

/** A block whose pages have come in ascending order so far. */
interface OrderedBlock {
  readonly digest: Digest;
  /** Offset in the block of the next byte; what is before it is hashed, or pending. */
  next: number;
  /** End of the pages of zeros from there on, without a gap before them. */
  zeroEnd: number;
  isOrdered: boolean;
}

/**
 * XXH64 of the final contents of RAM blocks: pass it to a reader as a page visitor. Requires `loadDigest` to have
 * finished.
 */
export class BlockDigests implements PageVisitor {
  readonly #options: BlockDigestsOptions;
  readonly #blocks: OrderedBlock[] = [];
  #pageSize = 0;
  /** The stored pages. */
  #image: RamImage | null;
  readonly #pending = new Uint8Array(GATHER_BYTES);
  #pendingLength = 0;
  /** The block that the pending bytes belong to. */
  #last: OrderedBlock | undefined;
  #gapBytes = 0;

  constructor(options: BlockDigestsOptions) {
    this.#options = options;
    this.#image = options.readAgain === undefined ? new RamImage(options) : null;
  }

  blocks(blocks: readonly RamBlock[], pageSize: number): void {
    this.#image?.blocks(blocks, pageSize);
    if (pageSize !== this.#pageSize) this.#blocks.length = 0;
    this.#pageSize = pageSize;
    for (const { index } of blocks) {
      this.#blocks[index] ??= { digest: new Digest(), next: 0, zeroEnd: 0, isOrdered: true };
    }
  }

  /** @throws {QemuFileError} Of the store, such as `ENOSPC`. */
  page(block: RamBlock, offset: number, bytes: Uint8Array): void {
    this.#image?.page(block, offset, bytes);
    const ordered = this.#continue(block, offset);
    if (ordered === undefined) return;
    if (offset > ordered.next && !this.#fill(ordered, offset)) return;
    ordered.next += bytes.length;
    if (this.#pendingLength + bytes.length > GATHER_BYTES) this.#flush();
    if (bytes.length >= GATHER_BYTES) {
      ordered.digest.update(bytes);
    } else {
      this.#pending.set(bytes, this.#pendingLength);
      this.#pendingLength += bytes.length;
    }
  }

  zero(block: RamBlock, offset: number, count: number): void {
    this.#image?.zero(block, offset, count);
    const ordered = this.#continue(block, offset);
    // A page after a gap is part of the gap: both are zeros.
    if (ordered === undefined || offset > Math.max(ordered.next, ordered.zeroEnd)) return;
    ordered.zeroEnd = Math.max(ordered.zeroEnd, offset + count * this.#pageSize);
    if (ordered.zeroEnd - ordered.next <= MAX_WAITING_ZERO_BYTES) return;
    this.#addZeros(ordered, ordered.zeroEnd);
  }

  /** @throws {QemuFileError} `EBADMSG` if `encoded` is not valid XBZRLE. */
  xbzrle(block: RamBlock, offset: number, encoded: Uint8Array): void {
    this.#image?.xbzrle(block, offset, encoded);
    const ordered = this.#blocks[block.index];
    if (ordered !== undefined) ordered.isOrdered = false;
  }

  /**
   * Return the XXH64 of a block's contents as 16 hexadecimal digits. Call it once the reader has finished.
   *
   * @param options - `signal` aborts the hashing.
   * @throws {QemuFileError} (rejects) `ECANCELED` if aborted; of the store, or of the second reading.
   */
  async digest(
    block: RamBlock,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<string> {
    const ordered = this.#blocks[block.index];
    if (ordered?.isOrdered === true) {
      this.#flush();
      while (ordered.next < block.usedLength) {
        this.#addZeros(ordered, Math.min(ordered.next + YIELD_INTERVAL_BYTES, block.usedLength));
        await new Promise(setImmediate);
        if (options.signal?.aborted) throw abortError(options.signal, 'digest');
      }
      return ordered.digest.hex();
    }
    this.#image ??= await this.#readAgain();
    return this.#image.digest(block, options);
  }

  /** Close the stores. May be called again. */
  close(): void {
    this.#image?.close();
  }

  /** Return the block if a page at `offset` continues its order, after zeros that need not be hashed yet. */
  #continue(block: RamBlock, offset: number): OrderedBlock | undefined {
    const ordered = this.#blocks[block.index];
    if (ordered === undefined || !ordered.isOrdered) return undefined;
    if (ordered !== this.#last) {
      this.#flush();
      this.#last = ordered;
    }
    if (offset >= ordered.next) return ordered;
    this.#endOrder(ordered);
    return undefined;
  }

  /** Hash the zeros before a page. Return false if the order ends, because its gaps are too large. */
  #fill(ordered: OrderedBlock, offset: number): boolean {
    this.#gapBytes += Math.max(0, offset - Math.max(ordered.next, ordered.zeroEnd));
    if (this.#gapBytes <= MAX_GAP_BYTES) this.#addZeros(ordered, offset);
    else this.#endOrder(ordered);
    return ordered.isOrdered;
  }

  #endOrder(ordered: OrderedBlock): void {
    ordered.isOrdered = false;
    this.#pendingLength = 0;
  }

  #addZeros(ordered: OrderedBlock, end: number): void {
    this.#flush();
    while (ordered.next < end) {
      const size = Math.min(ZEROS_BYTES, end - ordered.next);
      ordered.digest.update(size === ZEROS_BYTES ? ZEROS : ZEROS.subarray(0, size));
      ordered.next += size;
    }
  }

  #flush(): void {
    if (this.#pendingLength === 0) return;
    this.#last?.digest.update(this.#pending.subarray(0, this.#pendingLength));
    this.#pendingLength = 0;
  }

  /** Read the stream again, and store the pages of the blocks that did not come in order. */
  async #readAgain(): Promise<RamImage> {
    const { store, readAgain } = this.#options;
    const image = new RamImage({
      store: (block) => (this.#blocks[block.index]?.isOrdered === true ? null : store(block)),
    });
    try {
      await readAgain?.(image);
    } catch (error) {
      image.close();
      throw error;
    }
    return image;
  }
}

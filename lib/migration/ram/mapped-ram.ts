import { quote } from '../../util/format.ts';
import type { RamBlock } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import type { GuestRam } from './ram-table.ts';

/*
 * In a mapped-ram file every page has a place of its own. Each entry of the block list is followed by a
 * header with the place of the block's pages and a bitmap of the pages that are there:
 *
 *   be32 version  be64 page size  be64 offset of the bitmap  be64 offset of the pages
 *   bitmap   (hole up to a multiple of 1 MiB)   pages, with holes   the next entry
 *
 * The offsets count from the start of the file, also where the stream begins further on.
 *
 * @see QEMU `MappedRamHeader` in migration/ram.c
 */

const HEADER_BYTES = 28;
const HEADER_VERSION = 1;
/** Bytes of a bitmap that are read at a time, so that a length is allocated only as its bytes arrive. */
const BITMAP_CHUNK_BYTES = 65_536;
/** Longest bitmap: of a block of 4 TiB with pages of 4 KiB. */
const MAX_BITMAP_BYTES = 134_217_728;
/** Most bytes that a visitor gets in one call. */
const MAX_VISIT_BYTES = 262_144;
/** A bitmap consists of 64-bit words. */
const WORD_BITS = 64;
const WORD_BYTES = 8;
/** QEMU aligns the pages of a block to this. */
const PAGES_ALIGNMENT = 1_048_576n;

/** Reads the pages of a mapped-ram file in the order of the file, so that the source need not seek. */
export class MappedRam {
  readonly #input: StreamInput;
  readonly #ram: GuestRam;
  readonly #fileOffset: number;
  #pageCount = 0;
  #holeCount = 0;

  /** @param fileOffset - Offset in its file of the stream's first byte. */
  constructor(input: StreamInput, ram: GuestRam, fileOffset: number) {
    this.#input = input;
    this.#ram = ram;
    this.#fileOffset = fileOffset;
  }

  /** Whether the bitmaps of all blocks so far are empty, as in a file whose save was not finished. */
  get isBlank(): boolean {
    return this.#pageCount === 0 && this.#holeCount > 0;
  }

  /**
   * Read what follows a block's entry.
   *
   * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`, `unsupported`.
   */
  async read(block: RamBlock): Promise<void> {
    const input = this.#input;
    const { pageSize, diagnostics } = this.#ram;
    const at = input.position;
    await input.need(HEADER_BYTES, 'the mapped-ram header');
    const version = input.be32();
    if (version !== HEADER_VERSION) {
      const reason = `mapped-ram header of version ${version}, not ${HEADER_VERSION}`;
      throw input.error('unsupported', reason, at);
    }
    const [size, bitmapAt, pagesAt] = [input.be64(), input.be64(), input.be64()];
    if (size !== BigInt(pageSize)) {
      throw input.error('corrupt', `mapped-ram pages of ${size} bytes, not ${pageSize}`, at + 4);
    }
    const pageCount = block.usedLength / pageSize;
    const bitmapBytes = Math.ceil(pageCount / WORD_BITS) * WORD_BYTES;
    this.#checkBitmapOffset(block, bitmapAt, at + 12);
    const end = bitmapAt + BigInt(bitmapBytes);
    if (pagesAt < end || pagesAt % BigInt(pageSize) !== 0n || pagesAt > 2n ** 53n) {
      const reason = `the pages of "${block.name}" are said to be at ${pagesAt} of the file`;
      throw input.error('corrupt', `${reason}, the end of its bitmap at ${end}`, at + 20);
    }
    if (pagesAt % PAGES_ALIGNMENT !== 0n) {
      const reason = `the pages of ${quote(block.name)} are at ${pagesAt} of the file`;
      diagnostics.warn(`${reason}, which is not a multiple of 1 MiB`, at + 20);
    }
    if (bitmapBytes > MAX_BITMAP_BYTES) {
      throw input.error('unsupported', `mapped-ram block of ${block.usedLength} bytes`, at);
    }
    const bitmap = await this.#readBitmap(block, bitmapBytes, pageCount);
    await input.skip(Number(pagesAt - end), 'the gap before the pages');
    await this.#readPages(block, bitmap, pageCount);
  }

  /** Check that the bitmap is where this reader is: directly after its header. */
  #checkBitmapOffset(block: RamBlock, bitmapAt: bigint, position: number): void {
    const here = BigInt(this.#input.position + this.#fileOffset);
    if (bitmapAt === here) return;
    const wrong = `the bitmap of "${block.name}" is said to be at ${bitmapAt} of the file, not at ${here}`;
    const shift = bitmapAt - here;
    const hint =
      shift > 0n
        ? `if the stream was written at offset ${shift + BigInt(this.#fileOffset)} of its file, give that offset`
        : 'the stream is not where it was written in its file';
    throw this.#input.error('corrupt', `${wrong}; ${hint}`, position);
  }

  async #readBitmap(block: RamBlock, bytes: number, pageCount: number): Promise<Buffer> {
    const input = this.#input;
    const chunks: Buffer[] = [];
    for (let done = 0; done < bytes; done += BITMAP_CHUNK_BYTES) {
      const take = Math.min(BITMAP_CHUNK_BYTES, bytes - done);
      chunks.push(await input.bytes(take, `the bitmap of "${block.name}"`));
    }
    const bitmap = Buffer.concat(chunks);
    for (let bit = pageCount; bit < bytes * 8; bit++) {
      if (!isSet(bitmap, bit)) continue;
      const reason = `the bitmap of ${quote(block.name)} has bits beyond its ${pageCount} pages`;
      const hint = 'the source may have another byte order';
      this.#ram.diagnostics.warn(`${reason}: ${hint}`, input.position);
      break;
    }
    return bitmap;
  }

  /** Deliver the pages that are there, and skip the holes as pages of zeros. */
  async #readPages(block: RamBlock, bitmap: Buffer, pageCount: number): Promise<void> {
    const { pageSize, dispatch } = this.#ram;
    const start = this.#input.position;
    const end = start + pageCount * pageSize;
    const what = `the pages of "${block.name}"`;
    let page = 0;
    while (page < pageCount) {
      const isThere = isSet(bitmap, page);
      let next = page + 1;
      while (next < pageCount && isSet(bitmap, next) === isThere)
        next = nextPage(bitmap, next, isThere);
      if (next > pageCount) next = pageCount;
      const offset = page * pageSize;
      const bytes = (next - page) * pageSize;
      if (isThere) {
        this.#pageCount += next - page;
        block.pages.normal += next - page;
        dispatch.placed?.(block, offset, bytes, start + offset);
        if (dispatch.page !== null) await this.#deliver(block, offset, bytes);
      } else {
        this.#holeCount += next - page;
        block.pages.zero += next - page;
        dispatch.zero?.(block, offset, next - page);
        if (dispatch.page !== null) await this.#input.skip(bytes, what);
      }
      page = next;
    }
    // Without a visitor of pages, the bitmap is enough, and all of them are one gap.
    await this.#input.skip(end - this.#input.position, what);
  }

  async #deliver(block: RamBlock, offset: number, bytes: number): Promise<void> {
    const input = this.#input;
    const { pageSize, dispatch } = this.#ram;
    let done = 0;
    while (done < bytes) {
      if (input.available < pageSize) await input.need(pageSize, `the pages of "${block.name}"`);
      const arrived = input.available - (input.available % pageSize);
      const take = Math.min(bytes - done, arrived, MAX_VISIT_BYTES);
      dispatch.page?.(block, offset + done, input.view(take));
      done += take;
    }
  }
}

function isSet(bitmap: Buffer, bit: number): boolean {
  return ((bitmap[bit >> 3] as number) & (1 << (bit & 7))) !== 0;
}

/** Return the next page to test after a page of a run. Whole bytes of the bitmap are passed at once. */
function nextPage(bitmap: Buffer, page: number, isThere: boolean): number {
  const full = isThere ? 0xff : 0x00;
  let next = page + 1;
  if ((next & 7) !== 0) return next;
  while (next >> 3 < bitmap.length && bitmap[next >> 3] === full) next += 8;
  return next;
}

import { QemuFileError } from '../../contract/errors.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { RAM_FLAG } from '../format/wire.ts';
import type { PageSourceBlock } from '../page-source/page-source.ts';
import { be32, be64, counted } from './encode-integers.ts';
import { PlacedWrites } from './placed-writes.ts';

/*
 * In a mapped-ram file every page has a place of its own (ram/mapped-ram.ts has the layout). The list of blocks
 * is written first, and the file seeks over the pages. Pages are then written to their places in any order, and
 * the bitmaps of the pages that are there come last.
 */

const HEADER_VERSION = 1;
const HEADER_BYTES = 28;
/** QEMU aligns the pages of a block to this. */
const PAGES_ALIGNMENT = 1_048_576;
/** A bitmap consists of 64-bit words. */
const WORD_BITS = 64;
const WORD_BYTES = 8;

/** A block and its places in the file. */
interface PlacedBlock {
  readonly usedLength: number;
  readonly bitmapAt: number;
  readonly pagesAt: number;
  /** A bit for each page, in the order of a little-endian host of 64 bits. */
  readonly bitmap: Uint8Array;
}

/** Writes the RAM of a mapped-ram stream to a file that can seek. @see QEMU `mapped_ram_setup_ramblock` */
export class MappedRamWriter {
  readonly #file: QemuFile;
  readonly #pageSize: number;
  readonly #writes: PlacedWrites;
  readonly #blocks: PlacedBlock[] = [];

  /**
   * @param file - Its next byte is the word that begins the list of blocks.
   * @param pageSize - Bytes of a target page.
   */
  constructor(file: QemuFile, pageSize: number) {
    this.#file = file;
    this.#pageSize = pageSize;
    this.#writes = new PlacedWrites(file);
  }

  /**
   * Write the list of blocks, and leave room for their bitmaps and pages.
   *
   * @throws {QemuFileError} (rejects) `ESPIPE` if the file cannot seek; its failure.
   */
  async listBlocks(blocks: readonly PageSourceBlock[]): Promise<void> {
    const file = this.#file;
    const totalBytes = blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
    file.putBe64(totalBytes + RAM_FLAG.MEM_SIZE);
    for (const { name, usedLength } of blocks) {
      if (usedLength === 0 || usedLength % this.#pageSize !== 0) {
        const reason = `"${name}" of ${usedLength} bytes cannot be in a mapped-ram file with pages of ${this.#pageSize} bytes`;
        throw new QemuFileError('ENOTSUP', reason, { operation: 'MappedRamWriter.listBlocks' });
      }
      const entry = Buffer.concat([counted(name), be64(usedLength)]);
      const pages = usedLength / this.#pageSize;
      const bitmap = new Uint8Array(Math.ceil(pages / WORD_BITS) * WORD_BYTES);
      const at = await file.getOffset();
      const bitmapAt = at + entry.length + HEADER_BYTES;
      const bitmapEnd = bitmapAt + bitmap.length;
      const pagesAt = Math.ceil(bitmapEnd / PAGES_ALIGNMENT) * PAGES_ALIGNMENT;
      file.putBuffer(entry);
      file.putBuffer(
        Buffer.concat([be32(HEADER_VERSION), be64(this.#pageSize), be64(bitmapAt), be64(pagesAt)]),
      );
      const next = pagesAt + usedLength;
      await file.setOffset(next);
      file.updatePosition(next - bitmapAt);
      this.#blocks.push({ usedLength, bitmapAt, pagesAt, bitmap });
    }
  }

  /**
   * Write pages, copied.
   *
   * @param block - Number of the block in the list.
   * @param offset - Byte offset in the block; a multiple of the page size.
   * @param bytes - One page, or several adjacent ones.
   * @throws {QemuFileError} `EINVAL` for pages outside the block.
   */
  page(block: number, offset: number, bytes: Uint8Array): void {
    const placed = this.#checked('page', block, offset, bytes.length);
    const first = offset / this.#pageSize;
    setBits(placed.bitmap, first, first + bytes.length / this.#pageSize);
    this.#writes.put(placed.pagesAt + offset, bytes);
  }

  /**
   * Make pages zeros: what was written to their places before is not loaded.
   *
   * @throws {QemuFileError} `EINVAL` for pages outside the block.
   */
  zero(block: number, offset: number, count: number): void {
    const placed = this.#checked('zero', block, offset, count * this.#pageSize);
    const first = offset / this.#pageSize;
    clearBits(placed.bitmap, first, first + count);
  }

  /** Wait until there is room for more pages. */
  ready(): Promise<void> | void {
    return this.#writes.ready();
  }

  /**
   * Write all pages and the bitmaps. The file goes on after the last block.
   *
   * @throws {QemuFileError} (rejects) the failure of the file.
   */
  async finish(): Promise<void> {
    await this.#writes.flush();
    for (const { bitmap, bitmapAt } of this.#blocks) await this.#file.putBufferAt(bitmap, bitmapAt);
  }

  #checked(operation: string, block: number, offset: number, length: number): PlacedBlock {
    const placed = this.#blocks[block];
    const size = this.#pageSize;
    const isWhole = length > 0 && length % size === 0 && offset >= 0 && offset % size === 0;
    if (placed !== undefined && isWhole && offset + length <= placed.usedLength) return placed;
    const reason = `${length} bytes at offset ${offset} are not whole pages inside RAM block ${block}`;
    throw new QemuFileError('EINVAL', reason, { operation: `MappedRamWriter.${operation}` });
  }
}

function setBits(bitmap: Uint8Array, from: number, to: number): void {
  for (let bit = from; bit < to; ) {
    if ((bit & 7) === 0 && bit + 8 <= to) {
      bitmap[bit >> 3] = 0xff;
      bit += 8;
    } else {
      bitmap[bit >> 3] = (bitmap[bit >> 3] as number) | (1 << (bit & 7));
      bit += 1;
    }
  }
}

function clearBits(bitmap: Uint8Array, from: number, to: number): void {
  for (let bit = from; bit < to; ) {
    if ((bit & 7) === 0 && bit + 8 <= to) {
      bitmap[bit >> 3] = 0;
      bit += 8;
    } else {
      bitmap[bit >> 3] = (bitmap[bit >> 3] as number) & ~(1 << (bit & 7));
      bit += 1;
    }
  }
}

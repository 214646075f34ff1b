import type { RamBlock } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import type { RamTable } from './ram-table.ts';

/*
 * A mapped-ram file: behind each entry of the block list stands where the pages of the block lie, each
 * at its own place, and which of them are there. In the file that comes in this order:
 *
 *   be32 version  be64 page size  be64 offset of the bitmap  be64 offset of the pages
 *   bitmap   (hole up to a multiple of 1 MiB)   pages, with holes   the next entry
 */

const HEADER = 28;
const VERSION = 1;
/** Bytes of a bitmap that are read at a time. */
const BITMAP_PIECE = 65_536;
/** Longest bitmap that is held: of a block of 4 TiB with pages of 4 KiB. */
const MAX_BITMAP = 134_217_728;
/** Pages are handed over in pieces of at most this many bytes. */
const PIECE = 262_144;
const WORD_BITS = 64;
/** What QEMU aligns the pages of a block to. */
const PAGES_ALIGN = 1_048_576n;

/** Reads the pages of a mapped-ram file in its order, so that it needs no seeking. */
export class MappedRam {
  readonly #input: StreamInput;
  readonly #table: RamTable;
  /** What is added to an offset in the stream for one in the file. */
  readonly #fileOffset: number;
  #pages = 0;
  #zeros = 0;

  /** @param fileOffset - Where in its file the stream begins: the offsets in it count from the file's start. */
  constructor(input: StreamInput, table: RamTable, fileOffset: number) {
    this.#input = input;
    this.#table = table;
    this.#fileOffset = fileOffset;
  }

  /** Whether not one page is there, of blocks that have any: as in a file that was never finished. */
  get isBlank(): boolean {
    return this.#pages === 0 && this.#zeros > 0;
  }

  /** Reads what stands behind a block's entry. */
  async read(block: RamBlock): Promise<void> {
    const input = this.#input;
    const { pageSize } = this.#table;
    const at = input.position;
    await input.need(HEADER, 'the mapped-ram header');
    const version = input.be32();
    if (version !== VERSION) {
      throw input.error('unsupported', `mapped-ram header of version ${version}, not 1`, at);
    }
    const [size, bitmapAt, pagesAt] = [input.be64(), input.be64(), input.be64()];
    if (size !== BigInt(pageSize)) {
      throw input.error('corrupt', `mapped-ram pages of ${size} bytes, not ${pageSize}`, at + 4);
    }
    const here = BigInt(input.position + this.#fileOffset);
    const count = block.usedLength / pageSize;
    const bitmapBytes = Math.ceil(count / WORD_BITS) * 8;
    if (bitmapAt !== here) {
      const wrong = `the bitmap of "${block.name}" is said to be at ${bitmapAt} of the file, not at ${here} behind its header`;
      const hint = 'if the stream begins elsewhere in its file, give that offset';
      throw input.error('corrupt', `${wrong}; ${hint}`, at + 12);
    }
    const end = bitmapAt + BigInt(bitmapBytes);
    if (pagesAt < end || pagesAt % BigInt(pageSize) !== 0n || pagesAt > 2n ** 53n) {
      const reason = `the pages of "${block.name}" are said to be at ${pagesAt} of the file`;
      throw input.error('corrupt', `${reason}, with the bitmap's end at ${end}`, at + 20);
    }
    if (pagesAt % PAGES_ALIGN !== 0n) {
      const reason = `the pages of "${block.name}" are at ${pagesAt} of the file, no multiple of 1 MiB`;
      this.#table.diagnostics.warn(reason, at + 20);
    }
    if (bitmapBytes > MAX_BITMAP) {
      throw input.error('unsupported', `a RAM block of ${block.usedLength} bytes`, at);
    }
    const bitmap = await this.#bitmap(block, bitmapBytes, count);
    await input.skip(Number(pagesAt - end), 'the gap before the pages');
    await this.#runs(block, bitmap, count);
  }

  async #bitmap(block: RamBlock, bytes: number, count: number): Promise<Buffer> {
    const input = this.#input;
    const pieces: Buffer[] = [];
    for (let there = 0; there < bytes; there += BITMAP_PIECE) {
      const take = Math.min(BITMAP_PIECE, bytes - there);
      pieces.push(await input.bytes(take, `the bitmap of "${block.name}"`));
    }
    const bitmap = Buffer.concat(pieces);
    for (let bit = count; bit < bytes * 8; bit++) {
      if (!isSet(bitmap, bit)) continue;
      const reason = `the bitmap of "${block.name}" has bits beyond its ${count} pages: the source's byte order may be another`;
      this.#table.diagnostics.warn(reason, input.position);
      break;
    }
    return bitmap;
  }

  /** Hands over the pages, and crosses the holes. */
  async #runs(block: RamBlock, bitmap: Buffer, count: number): Promise<void> {
    const { pageSize, onZero } = this.#table;
    let page = 0;
    while (page < count) {
      const set = isSet(bitmap, page);
      let end = page + 1;
      while (end < count && isSet(bitmap, end) === set) end = nextPage(bitmap, end, set);
      if (end > count) end = count;
      const bytes = (end - page) * pageSize;
      if (set) {
        this.#pages += end - page;
        block.pages.normal += end - page;
        await this.#data(block, page * pageSize, bytes);
      } else {
        this.#zeros += end - page;
        block.pages.zero += end - page;
        onZero?.(block, page * pageSize, end - page);
        await this.#input.skip(bytes, `the pages of "${block.name}"`);
      }
      page = end;
    }
  }

  async #data(block: RamBlock, offset: number, bytes: number): Promise<void> {
    const input = this.#input;
    const { pageSize, onPage } = this.#table;
    if (onPage === null) return input.skip(bytes, `the pages of "${block.name}"`);
    let done = 0;
    while (done < bytes) {
      if (input.available < pageSize) await input.need(pageSize, `the pages of "${block.name}"`);
      const there = input.available - (input.available % pageSize);
      const take = Math.min(bytes - done, there, PIECE);
      onPage(block, offset + done, input.view(take));
      done += take;
    }
  }
}

function isSet(bitmap: Buffer, bit: number): boolean {
  return ((bitmap[bit >> 3] as number) & (1 << (bit & 7))) !== 0;
}

/** The next page to look at behind one that is as the run is: whole bytes of a run are taken at once. */
function nextPage(bitmap: Buffer, page: number, set: boolean): number {
  const full = set ? 0xff : 0x00;
  let next = page + 1;
  if ((next & 7) !== 0) return next;
  while (next >> 3 < bitmap.length && bitmap[next >> 3] === full) next += 8;
  return next;
}

import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { hex } from '../../util/format.ts';
import type { SectionName } from '../format/stream-error.ts';
import { RAM_FLAG } from '../format/wire.ts';
import type { PageSourceBlock } from '../page-source/page-source.ts';
import { blockListMistake, countedName, firstNameMistake } from './listed-blocks.ts';
import { writeError } from './write-error.ts';
import { MAX_ZERO_RECORDS, ZeroRecords } from './zero-records.ts';

const { CONTINUE, ZERO, PAGE, XBZRLE, COMPRESS_PAGE, EOS, MEM_SIZE, HOOK, MULTIFD_FLUSH } =
  RAM_FLAG;

/** `ENCODING_FLAG_XBZRLE`, the only encoding. */
const XBZRLE_ENCODING = 0x01;
const MIN_PAGE_SIZE = 256;
const MAX_PAGE_SIZE = 65_536;
/** The number of no block: the next record names its own. */
const NO_BLOCK = -1;

/** Where a `RamWriter` writes, and what errors say about it. */
export interface RamWriterContext {
  /** The file of the stream, or of a channel that has only RAM records. */
  readonly file: QemuFile;
  /** Bytes of a target page. */
  readonly pageSize: number;
  /** Offset in the stream of the file's byte 0. Default 0. */
  readonly base?: number | undefined;
  /** Blocks that were listed in another channel; absent where the list is written with `blocks`. */
  readonly blocks?: readonly PageSourceBlock[] | undefined;
}

/**
 * Writes RAM records: the body of `ram` sections, or a postcopy-preempt channel, which consists of nothing
 * else. Blocks are numbered by their place in the list. A record names its block unless the record before it
 * was of the same block.
 *
 * @see QEMU `ram_save_page_header`, `ram_save_setup` in migration/ram.c
 */
export class RamWriter {
  readonly #file: QemuFile;
  readonly #base: number;
  #pageSize: number;
  #blocks: readonly PageSourceBlock[];
  /** Names with their length bytes. */
  #names: Uint8Array[] = [];
  /** The block of the last page record. */
  #last: number = NO_BLOCK;
  /** The section that is open; null in a channel without sections. */
  #section: SectionName | null = null;
  #isOpen: boolean;
  readonly #zeroRecords = new ZeroRecords();

  /** Make a writer of bare records; `MigrationWriter` makes that of its `ram` sections. */
  constructor({ file, pageSize, base = 0, blocks }: RamWriterContext) {
    this.#file = file;
    this.#base = base;
    this.#pageSize = this.#checkedPageSize(pageSize);
    this.#blocks = blocks ?? [];
    const mistake = firstNameMistake(this.#blocks);
    if (mistake !== undefined) throw this.#error('listBlocks', mistake);
    this.#names = this.#blocks.map(countedName);
    this.#isOpen = blocks !== undefined;
  }

  /** Bytes of a target page. */
  get pageSize(): number {
    return this.#pageSize;
  }

  /** @throws {QemuFileError} `EINVAL` for a size that is not a power of 2 from 256 to 65536. */
  set pageSize(bytes: number) {
    this.#pageSize = this.#checkedPageSize(bytes);
  }

  /** The blocks that were listed. */
  get blocks(): readonly PageSourceBlock[] {
    return this.#blocks;
  }

  /**
   * Write the list of blocks. An entry has the fields that its block has: a host page size, which QEMU expects
   * where postcopy was advised and the host's pages are larger than its base pages, and an address, which it
   * expects with the capability `x-ignore-shared`.
   *
   * @throws {QemuFileError} `EINVAL` for a second list, and for blocks that QEMU refuses: no name, a name that
   *   came before, a length that is not a whole number of pages.
   */
  listBlocks(blocks: readonly PageSourceBlock[]): void {
    this.#checkOpen('listBlocks');
    if (this.#blocks.length > 0) throw this.#error('listBlocks', 'the blocks were listed already');
    const mistake = blockListMistake(blocks, this.#pageSize);
    if (mistake !== undefined) throw this.#error('listBlocks', mistake);
    this.#names = blocks.map(countedName);
    this.#blocks = [...blocks];
    const file = this.#file;
    const totalBytes = blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
    file.putBe64(totalBytes + MEM_SIZE);
    for (const [index, { usedLength, hostPageSize, address }] of blocks.entries()) {
      file.putBuffer(this.#names[index] as Uint8Array);
      file.putBe64(usedLength);
      if (hostPageSize !== null) file.putBe64(hostPageSize);
      if (address !== null) file.putBe64(address);
    }
  }

  /**
   * Write pages, copied: the caller may reuse its memory at once.
   *
   * @param block - Number of the block.
   * @param offset - Byte offset in the block; a multiple of the page size.
   * @param bytes - One page, or several adjacent ones.
   * @throws {QemuFileError} `EINVAL` for pages outside the block.
   */
  page(block: number, offset: number, bytes: Uint8Array): void {
    const pageSize = this.#pageSize;
    const { length } = bytes;
    this.#check('page', block, offset, length);
    const file = this.#file;
    this.#putWord(block, offset + PAGE);
    if (length === pageSize) {
      file.putBuffer(bytes);
      return;
    }
    const { buffer, byteOffset } = bytes;
    for (let at = 0; at < length; at += pageSize) {
      if (at > 0) file.putBe64(offset + at + (PAGE | CONTINUE));
      file.putBuffer(new Uint8Array(buffer, byteOffset + at, pageSize));
    }
  }

  /**
   * Write pages by reference: the caller must not change its memory before `onRelease`.
   *
   * @param block - Number of the block.
   * @param offset - Byte offset in the block; a multiple of the page size.
   * @param bytes - One page, or several adjacent ones.
   * @param onRelease - Called once, when the file has sent the bytes or failed.
   * @throws {QemuFileError} `EINVAL` for pages outside the block; nothing was written then.
   */
  pageAsync(block: number, offset: number, bytes: Uint8Array, onRelease?: () => void): void {
    const pageSize = this.#pageSize;
    const { length, buffer, byteOffset } = bytes;
    this.#check('pageAsync', block, offset, length);
    const file = this.#file;
    this.#putWord(block, offset + PAGE);
    const last = length - pageSize;
    for (let at = 0; at < length; at += pageSize) {
      if (at > 0) file.putBe64(offset + at + (PAGE | CONTINUE));
      file.putBufferAsync(
        length === pageSize ? bytes : new Uint8Array(buffer, byteOffset + at, pageSize),
        at === last ? onRelease : undefined,
      );
    }
  }

  /**
   * Write a run of pages of zeros.
   *
   * @param block - Number of the block.
   * @param offset - Byte offset in the block; a multiple of the page size.
   * @param count - Number of pages. Default 1.
   * @param fill - The byte that is repeated. QEMU 10 loads only 0, the default.
   * @throws {QemuFileError} `EINVAL` for pages outside the block.
   */
  zero(block: number, offset: number, count: number = 1, fill: number = 0): void {
    const pageSize = this.#pageSize;
    this.#check('zero', block, offset, count * pageSize);
    const file = this.#file;
    this.#putWord(block, offset + ZERO);
    file.putByte(fill);
    const end = offset + count * pageSize;
    for (let at = offset + pageSize; at < end; ) {
      const records = Math.min((end - at) / pageSize, MAX_ZERO_RECORDS);
      file.putBuffer(this.#zeroRecords.encode(at, pageSize, records, fill));
      at += records * pageSize;
    }
  }

  /**
   * Write the changes of one page since it was last sent.
   *
   * @param encoded - What `applyXbzrle` takes; copied.
   * @throws {QemuFileError} `EINVAL` for a page outside the block, or an encoding longer than a page.
   */
  xbzrle(block: number, offset: number, encoded: Uint8Array): void {
    this.#check('xbzrle', block, offset, this.#pageSize);
    if (encoded.length === 0 || encoded.length > this.#pageSize) {
      const reason = `an encoding of ${encoded.length} bytes for a page of ${this.#pageSize}`;
      throw this.#error('xbzrle', reason);
    }
    const file = this.#file;
    this.#putWord(block, offset + XBZRLE);
    file.putByte(XBZRLE_ENCODING);
    file.putBe16(encoded.length);
    file.putBuffer(encoded);
  }

  /**
   * Write a page that is compressed with zlib; QEMU up to 9.0 loads it.
   *
   * @param compressed - A zlib stream of the page; copied.
   * @throws {QemuFileError} `EINVAL` for a page outside the block.
   */
  compressedPage(block: number, offset: number, compressed: Uint8Array): void {
    this.#check('compressedPage', block, offset, this.#pageSize);
    const file = this.#file;
    this.#putWord(block, offset + COMPRESS_PAGE);
    file.putBe32(compressed.length);
    file.putBuffer(compressed);
  }

  /** Write a mark at which QEMU waits for the multifd channels. */
  multifdFlush(): void {
    this.#checkOpen('multifdFlush');
    this.#file.putBe64(MULTIFD_FLUSH);
  }

  /** Write a mark at which QEMU calls the hook of its transport (RDMA). */
  hook(): void {
    this.#checkOpen('hook');
    this.#file.putBe64(HOOK);
  }

  /** Write the end mark of a section's body, or of a channel. */
  endOfSection(): void {
    this.#checkOpen('endOfSection');
    this.#file.putBe64(EOS);
  }

  /** Make the next record name its block, as QEMU does when the state of its save begins anew. */
  nameNextBlock(): void {
    this.#last = NO_BLOCK;
  }

  /** Accept records, in a section that has begun. For `MigrationWriter`. */
  open(section: SectionName): void {
    this.#section = section;
    this.#isOpen = true;
  }

  /** Refuse records until `open`. For `MigrationWriter`. */
  close(): void {
    this.#section = null;
    this.#isOpen = false;
  }

  #putWord(block: number, word: number): void {
    if (block === this.#last) {
      this.#file.putBe64(word + CONTINUE);
      return;
    }
    this.#file.putBe64(word);
    this.#file.putBuffer(this.#names[block] as Uint8Array);
    this.#last = block;
  }

  /** Check that a section is open and that pages are inside their block. */
  #check(operation: string, block: number, offset: number, length: number): void {
    const known = this.#blocks[block];
    const mask = this.#pageSize - 1;
    if (
      this.#isOpen &&
      known !== undefined &&
      length > 0 &&
      offset >= 0 &&
      offset % this.#pageSize === 0 &&
      (length & mask) === 0 &&
      offset + length <= known.usedLength
    ) {
      return;
    }
    this.#checkOpen(operation);
    throw this.#error(operation, this.#misplaced(known, block, offset, length));
  }

  #misplaced(
    known: PageSourceBlock | undefined,
    block: number,
    offset: number,
    length: number,
  ): string {
    if (known === undefined) {
      return `RAM block ${block} of ${this.#blocks.length} listed blocks (listBlocks must come before pages)`;
    }
    const where = `${length} bytes at offset ${offset} of "${known.name}"`;
    const pageSize = this.#pageSize;
    if (!(length > 0 && length % pageSize === 0 && offset % pageSize === 0)) {
      return `${where} are not whole pages of ${pageSize} bytes`;
    }
    return `${where} are outside the block of ${hex(known.usedLength)} bytes`;
  }

  #checkedPageSize(bytes: number): number {
    const isPower = Number.isSafeInteger(bytes) && (bytes & (bytes - 1)) === 0;
    if (isPower && bytes >= MIN_PAGE_SIZE && bytes <= MAX_PAGE_SIZE) return bytes;
    const reason = `a page size of ${bytes}, not a power of 2 from ${MIN_PAGE_SIZE} to ${MAX_PAGE_SIZE}`;
    throw this.#error('pageSize', reason);
  }

  #checkOpen(operation: string): void {
    if (!this.#isOpen) throw this.#error(operation, 'no "ram" section is open');
  }

  #error(operation: string, reason: string): Error {
    const position = this.#base + this.#file.tellFast();
    return writeError(`RamWriter.${operation}`, reason, position, this.#section);
  }
}

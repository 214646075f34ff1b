import { inflateSync } from 'node:zlib';
import { RAM_CONTROL_HOOK } from '../../contract/constants.ts';
import { compressBound } from '../../util/compress-bound.ts';
import type { RamBlock } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, RAM_FLAG } from '../format/wire.ts';
import { isKnownWord, probePageSize } from './page-size.ts';
import type { RamTable } from './ram-table.ts';
import { xbzrleFault } from './xbzrle.ts';

/*
 * RAM records: 64-bit words, each a page's offset and flags, most with something behind them.
 *
 *   word  [length and name of the block]  payload        the name is absent with the flag CONTINUE
 *
 * Nearly all are "the next page of the same block" with all their bytes looked ahead: `#fast` eats those
 * without a promise, runs of zero pages as one. Whatever else comes is `#one`'s, which waits for bytes.
 */

/** Where records stopped: at a word that is none of a page, or at the end of the input. */
export type RamMark = 'eos' | 'blocks' | 'flush' | 'end';

const { CONTINUE, ZERO, PAGE, XBZRLE, COMPRESS_PAGE, EOS, MEM_SIZE, HOOK } = RAM_FLAG;
const NEXT_ZERO = ZERO | CONTINUE;
const NEXT_PAGE = PAGE | CONTINUE;

/** Bytes of a word. */
const WORD = 8;

/** No record, but too few bytes for one. */
const STARVED = -1;

/** Flags lie below this, whatever the page size is. */
const FLAG_SPACE = 0x400;

const XBZRLE_HEADER = 3;
/** The only encoding there is. */
const XBZRLE_ENCODING = 0x01;
/** Shortest encoding: nothing unchanged, and one byte. */
const XBZRLE_LEAST = 3;

const UTF8 = new TextDecoder('utf-8');

/** The RAM records of one channel. */
export class RamRecords {
  readonly #input: StreamInput;
  readonly #table: RamTable;
  /** Which block a record with CONTINUE is about; it outlives sections. */
  #last: RamBlock | null = null;
  #word = 0;
  /** The size with a mark `blocks`: bytes of all blocks of the list that follows. */
  total = 0;

  constructor(input: StreamInput, table: RamTable) {
    this.#input = input;
    this.#table = table;
  }

  /**
   * Reads records up to the next word that is none of a page.
   *
   * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`, `unsupported`.
   */
  async run(): Promise<RamMark> {
    const input = this.#input;
    for (;;) {
      let flags: number;
      try {
        flags = this.#fast();
      } catch (error) {
        // A word beyond 2^53 is left where it is.
        if (!(error instanceof RangeError)) throw error;
        throw this.#hugeWord();
      }
      if (flags === STARVED) {
        if (await input.atEnd()) return 'end';
        await input.need(WORD, 'a RAM record');
        continue;
      }
      const mark = await this.#one(flags);
      if (mark !== null) return mark;
    }
  }

  /** Reads what is looked ahead; gives the flags of a word that is `#one`'s, or STARVED. */
  #fast(): number {
    const { file } = this.#input;
    const table = this.#table;
    const { onPage, pageSize, pageSizeKnown } = table;
    const mask = (pageSizeKnown ? pageSize : FLAG_SPACE) - 1;
    const last = this.#last;
    const end = last === null ? 0 : last.usedLength;
    let available = file.lookedAhead;
    let zeroAt = 0;
    let zeros = 0;
    let flags = STARVED;
    while (available >= WORD) {
      const word = file.getBe64();
      available -= WORD;
      flags = word & mask;
      const offset = word - flags;
      // Flags take less room than a page, so that a page of unknown size may lie out of line.
      const isInLine = pageSizeKnown || offset % pageSize === 0;
      if (flags === NEXT_ZERO && available > 0 && offset < end && isInLine) {
        const fill = file.getByte();
        available -= 1;
        if (fill !== 0) {
          if (zeros > 0) this.#zeros(last as RamBlock, zeroAt, zeros);
          zeros = 0;
          table.visit((last as RamBlock).index, offset);
          this.#filled(last as RamBlock, offset, fill);
        } else if (zeros > 0 && offset === zeroAt + zeros * pageSize) {
          zeros += 1;
        } else {
          if (zeros > 0) this.#zeros(last as RamBlock, zeroAt, zeros);
          zeroAt = offset;
          zeros = 1;
        }
      } else if (flags === NEXT_PAGE && available >= pageSize && offset < end && pageSizeKnown) {
        if (zeros > 0) {
          this.#zeros(last as RamBlock, zeroAt, zeros);
          zeros = 0;
        }
        const block = last as RamBlock;
        table.visit(block.index, offset);
        block.pages.normal += 1;
        if (onPage === null) file.skip(pageSize);
        else onPage(block, offset, file.getBufferInPlace(pageSize));
        available -= pageSize;
      } else {
        this.#word = word;
        if (zeros > 0) this.#zeros(last as RamBlock, zeroAt, zeros);
        return flags;
      }
    }
    if (zeros > 0) this.#zeros(last as RamBlock, zeroAt, zeros);
    return STARVED;
  }

  #zeros(block: RamBlock, offset: number, count: number): void {
    const { pageSize, onZero } = this.#table;
    this.#table.visit(block.index, offset);
    if (count > 1) this.#table.visit(block.index, offset + (count - 1) * pageSize);
    block.pages.zero += count;
    onZero?.(block, offset, count);
  }

  /** Reads one record of any kind, its word excepted; null if it was a page's. */
  async #one(flags: number): Promise<RamMark | null> {
    const input = this.#input;
    const offset = this.#word - flags;
    const at = input.position - WORD;
    const kind = flags & ~CONTINUE;
    if (!isKnownWord(kind)) {
      throw input.error('corrupt', `the RAM word ${hex(this.#word)} has no known flags`, at);
    }
    const isPage = kind === ZERO || kind === PAGE || kind === XBZRLE || kind === COMPRESS_PAGE;
    if (!isPage && kind !== flags) {
      const reason = `the RAM word ${hex(this.#word)} continues a block, but is of no page`;
      this.#table.diagnostics.report(input.error('corrupt', reason, at));
    }
    if (kind === MEM_SIZE) {
      this.total = offset;
      return 'blocks';
    }
    if (!isPage) {
      if (offset !== 0) {
        throw input.error('corrupt', `the RAM word ${hex(this.#word)} marks no page`, at);
      }
      if (kind === HOOK) this.#hook(at);
      return kind === EOS ? 'eos' : kind === HOOK ? null : 'flush';
    }
    const block = await this.#block(flags, at);
    if (!this.#table.pageSizeKnown) {
      const found = await probePageSize(input, this.#table, kind, block, this.#word);
      if (found !== null) await this.#table.setPageSize(found, at);
    }
    const { pageSize } = this.#table;
    if (offset % pageSize !== 0) {
      const reason = `a page at ${hex(offset)} of "${block.name}", which is no multiple of the page size ${pageSize}`;
      throw input.error('corrupt', reason, at);
    }
    const inside = offset < block.usedLength;
    if (inside) this.#table.visit(block.index, offset);
    else this.#outside(block, offset, at);
    if (kind === ZERO) await this.#zero(block, offset, inside);
    else if (kind === PAGE) await this.#page(block, offset, inside);
    else if (kind === XBZRLE) await this.#xbzrle(block, offset, inside);
    else await this.#compressed(block, offset, inside);
    return null;
  }

  async #block(flags: number, at: number): Promise<RamBlock> {
    const input = this.#input;
    if ((flags & CONTINUE) !== 0) {
      if (this.#last !== null) return this.#last;
      throw input.error('corrupt', 'a RAM record continues a block, and there was none yet', at);
    }
    await input.need(1, "a RAM block's name");
    const length = input.file.peekByte(0);
    await input.need(1 + length, "a RAM block's name");
    input.u8();
    const name = UTF8.decode(input.view(length));
    const block = this.#table.find(name);
    if (block === undefined) {
      throw input.error('corrupt', `a page of "${name}", which is no RAM block of the list`, at);
    }
    this.#last = block;
    return block;
  }

  #outside(block: RamBlock, offset: number, at: number): void {
    const reason = `a page at ${hex(offset)} of "${block.name}", which has ${hex(block.usedLength)} bytes`;
    this.#table.diagnostics.report(this.#input.error('corrupt', reason, at));
  }

  async #zero(block: RamBlock, offset: number, inside: boolean): Promise<void> {
    const input = this.#input;
    await input.need(1, 'the byte of a zero page');
    const fill = input.u8();
    if (!inside) return;
    if (fill !== 0) return this.#filled(block, offset, fill);
    block.pages.zero += 1;
    this.#table.onZero?.(block, offset, 1);
  }

  /** A page of one byte that is not zero: none that QEMU writes, and one that QEMU 7.2 takes. */
  #filled(block: RamBlock, offset: number, fill: number): void {
    const { pageSize, onPage } = this.#table;
    const reason = `a page filled with ${hex(fill)} at ${hex(offset)} of "${block.name}", which QEMU 10 refuses`;
    this.#table.diagnostics.warn(reason, this.#input.position - 1);
    block.pages.zero += 1;
    onPage?.(block, offset, new Uint8Array(pageSize).fill(fill));
  }

  async #page(block: RamBlock, offset: number, inside: boolean): Promise<void> {
    const input = this.#input;
    const { pageSize, onPage } = this.#table;
    await input.need(pageSize, `a page of "${block.name}"`);
    const bytes = input.view(pageSize);
    if (!inside) return;
    block.pages.normal += 1;
    onPage?.(block, offset, bytes);
  }

  async #xbzrle(block: RamBlock, offset: number, inside: boolean): Promise<void> {
    const input = this.#input;
    const { pageSize, onXbzrle } = this.#table;
    await input.need(XBZRLE_HEADER, 'the head of an XBZRLE page');
    const encoding = input.u8();
    const size = input.be16();
    if (encoding !== XBZRLE_ENCODING) {
      const reason = `an XBZRLE page of encoding ${hex(encoding)}, not 0x1`;
      throw input.error('corrupt', reason, input.position - XBZRLE_HEADER);
    }
    if (size < XBZRLE_LEAST || size > pageSize) {
      const reason = `an XBZRLE page of ${size} encoded bytes, not ${XBZRLE_LEAST} to ${pageSize}`;
      throw input.error('corrupt', reason, input.position - 2);
    }
    await input.need(size, 'an XBZRLE page');
    const at = input.position;
    const encoded = input.view(size);
    if (!inside) return;
    const fault = xbzrleFault(encoded, pageSize);
    if (fault === null) {
      block.pages.xbzrle += 1;
      onXbzrle?.(block, offset, encoded);
      return;
    }
    const page = `the XBZRLE page at ${hex(offset)} of "${block.name}"`;
    this.#table.diagnostics.report(input.error('corrupt', `${page} is malformed: ${fault}`, at));
  }

  async #compressed(block: RamBlock, offset: number, inside: boolean): Promise<void> {
    const input = this.#input;
    const { pageSize } = this.#table;
    await input.need(4, 'the length of a compressed page');
    const size = input.be32();
    const most = compressBound(pageSize);
    if (size > most) {
      const reason = `a compressed page of ${size} bytes, more than ${most}`;
      throw input.error('corrupt', reason, input.position - 4);
    }
    await input.need(size, 'a compressed page');
    const at = input.position;
    const bytes = input.view(size);
    if (!inside) return;
    this.#table.expectDisorder();
    const page = inflatePage(bytes, pageSize);
    if (typeof page !== 'string') {
      block.pages.compressed += 1;
      this.#table.onPage?.(block, offset, page);
      return;
    }
    const which = `the compressed page at ${hex(offset)} of "${block.name}"`;
    this.#table.diagnostics.report(input.error('corrupt', `${which} is malformed: ${page}`, at));
  }

  /** Has the file's hook load what a transport moved by other means. */
  #hook(at: number): void {
    const { file } = this.#input;
    file.ramControlLoadHook(RAM_CONTROL_HOOK);
    if (file.error === null) return;
    const reason = 'RAM that RDMA transports is not in the stream, and no hook loads it';
    const { section } = this.#input;
    const context = { position: at, section, cause: file.error };
    throw new MigrationStreamError('unsupported', reason, context);
  }

  #hugeWord(): MigrationStreamError {
    const bytes = this.#input.view(WORD);
    const word = Buffer.from(bytes).toString('hex');
    const at = this.#input.position - WORD;
    if (bytes[0] === ITEM.FOOTER) {
      const reason = `a footer (${word}) where RAM records go on: their end mark is missing`;
      return this.#input.error('corrupt', reason, at);
    }
    return this.#input.error('corrupt', `the RAM word 0x${word} is beyond any block`, at);
  }
}

/** One page out of a complete zlib stream, or what is wrong with it. */
function inflatePage(bytes: Uint8Array, pageSize: number): Uint8Array | string {
  try {
    const options = { maxOutputLength: pageSize, info: true };
    const { buffer, engine } = inflateSync(bytes, options) as unknown as {
      buffer: Buffer;
      engine: { bytesWritten: number };
    };
    if (buffer.length < pageSize) return `it has ${buffer.length} bytes when unpacked`;
    const left = bytes.length - engine.bytesWritten;
    return left === 0 ? buffer : `${left} bytes are left over`;
  } catch (error) {
    return (error as Error).message;
  }
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

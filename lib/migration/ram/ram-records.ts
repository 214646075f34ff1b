import { RAM_CONTROL_HOOK } from '../../contract/constants.ts';
import { hex } from '../../util/format.ts';
import type { RamBlock } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, RAM_FLAG } from '../format/wire.ts';
import { PagePayloads } from './page-payloads.ts';
import { isKnownRecord, probePageSize } from './page-size.ts';
import type { GuestRam } from './ram-table.ts';

/*
 * A RAM record is a 64-bit word, the offset and the flags of a page, and what belongs to it:
 *
 *   word  [length and name of the block]  payload        without a name if the flag CONTINUE is set
 *
 * Nearly all records are the next page of the same block, and all their bytes have arrived. `#readAhead`
 * parses those without a promise, and a run of zero pages as one. `#readOne` parses all other records, and
 * waits for their bytes.
 */

/** Why `run` stopped: a word that does not belong to a page, or the end of the input. */
export type RamMark = 'eos' | 'blocks' | 'flush' | 'end';

const { CONTINUE, ZERO, PAGE, XBZRLE, COMPRESS_PAGE, EOS, MEM_SIZE, HOOK } = RAM_FLAG;
const NEXT_ZERO = ZERO | CONTINUE;
const NEXT_PAGE = PAGE | CONTINUE;

const WORD_BYTES = 8;

/** Result of `#readAhead` if too few bytes have arrived for a record. */
const STARVED = -1;

/** All flags are below this value, whatever the page size. */
const FLAG_SPACE = 0x400;

const UTF8 = new TextDecoder('utf-8');

/** The RAM records of one channel. */
export class RamRecords {
  readonly #input: StreamInput;
  readonly #ram: GuestRam;
  readonly #payloads: PagePayloads;
  /** The block of the last page, which a record with CONTINUE refers to; it is kept across sections. */
  #last: RamBlock | null = null;
  #word = 0;
  #listedBytes = 0;

  constructor(input: StreamInput, ram: GuestRam) {
    this.#input = input;
    this.#ram = ram;
    this.#payloads = new PagePayloads(input, ram);
  }

  /** After `run` has returned `blocks`: the bytes of all blocks of the list that follows. */
  get listedBytes(): number {
    return this.#listedBytes;
  }

  /**
   * Read records up to the next word that does not belong to a page.
   *
   * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`, `unsupported`.
   */
  async run(): Promise<RamMark> {
    const input = this.#input;
    for (;;) {
      let flags: number;
      try {
        flags = this.#readAhead();
      } catch (error) {
        // `getBe64` leaves a word beyond 2^53 in the input.
        if (!(error instanceof RangeError)) throw error;
        throw this.#hugeWord();
      }
      if (flags === STARVED) {
        if (await input.atEnd()) return 'end';
        await input.need(WORD_BYTES, 'a RAM record');
        continue;
      }
      const mark = await this.#readOne(flags);
      if (mark !== null) return mark;
    }
  }

  /** Parse the records that have arrived. Return the flags of a word that is `#readOne`'s, or STARVED. */
  #readAhead(): number {
    const { file } = this.#input;
    const { blockTable, roundCounter } = this.#ram;
    const { page: onPage, placed: onPlaced } = this.#ram.dispatch;
    const { pageSize, isPageSizeKnown } = blockTable;
    const mask = (isPageSizeKnown ? pageSize : FLAG_SPACE) - 1;
    const last = this.#last;
    const end = last === null ? 0 : last.usedLength;
    let available = file.lookedAhead;
    // The position of a page is worked out from it: `position` calls through several objects.
    const endPosition = this.#input.position + available;
    let zeroAt = 0;
    let zeros = 0;
    let flags = STARVED;
    while (available >= WORD_BYTES) {
      const word = file.getBe64();
      available -= WORD_BYTES;
      flags = word & mask;
      const offset = word - flags;
      // FLAG_SPACE is smaller than a page, so the offset of a page of unknown size may be unaligned.
      const isAligned = isPageSizeKnown || offset % pageSize === 0;
      if (flags === NEXT_ZERO && available > 0 && offset < end && isAligned) {
        const fill = file.getByte();
        available -= 1;
        if (fill !== 0) {
          if (zeros > 0) this.#zeroRun(last as RamBlock, zeroAt, zeros);
          zeros = 0;
          roundCounter.visit((last as RamBlock).index, offset);
          this.#payloads.filled(last as RamBlock, offset, fill);
        } else if (zeros > 0 && offset === zeroAt + zeros * pageSize) {
          zeros += 1;
        } else {
          if (zeros > 0) this.#zeroRun(last as RamBlock, zeroAt, zeros);
          zeroAt = offset;
          zeros = 1;
        }
      } else if (flags === NEXT_PAGE && available >= pageSize && offset < end && isPageSizeKnown) {
        if (zeros > 0) {
          this.#zeroRun(last as RamBlock, zeroAt, zeros);
          zeros = 0;
        }
        const block = last as RamBlock;
        roundCounter.visit(block.index, offset);
        block.pages.normal += 1;
        if (onPlaced !== null) onPlaced(block, offset, pageSize, endPosition - available);
        if (onPage === null) file.skip(pageSize);
        else onPage(block, offset, file.getBufferInPlace(pageSize));
        available -= pageSize;
      } else {
        this.#word = word;
        if (zeros > 0) this.#zeroRun(last as RamBlock, zeroAt, zeros);
        return flags;
      }
    }
    if (zeros > 0) this.#zeroRun(last as RamBlock, zeroAt, zeros);
    return STARVED;
  }

  #zeroRun(block: RamBlock, offset: number, count: number): void {
    const { roundCounter, dispatch, pageSize } = this.#ram;
    roundCounter.visit(block.index, offset);
    if (count > 1) roundCounter.visit(block.index, offset + (count - 1) * pageSize);
    block.pages.zero += count;
    dispatch.zero?.(block, offset, count);
  }

  /** Read what follows a word. Return null if the word belongs to a page. */
  async #readOne(flags: number): Promise<RamMark | null> {
    const input = this.#input;
    const { blockTable, roundCounter, diagnostics } = this.#ram;
    const offset = this.#word - flags;
    const at = input.position - WORD_BYTES;
    const kind = flags & ~CONTINUE;
    if (!isKnownRecord(kind)) {
      const reason = `unknown combination of migration flags in RAM word ${hex(this.#word)}`;
      throw input.error('corrupt', reason, at);
    }
    const isPage = kind === ZERO || kind === PAGE || kind === XBZRLE || kind === COMPRESS_PAGE;
    if (!isPage && kind !== flags) {
      const reason = `RAM word ${hex(this.#word)} has the flag CONTINUE, but no page`;
      diagnostics.report(input.error('corrupt', reason, at));
    }
    if (kind === MEM_SIZE) {
      this.#listedBytes = offset;
      return 'blocks';
    }
    if (!isPage) {
      if (offset !== 0) {
        throw input.error('corrupt', `RAM word ${hex(this.#word)} has an offset, but no page`, at);
      }
      const { dispatch } = this.#ram;
      if (kind === HOOK) {
        this.#loadHook(at);
        dispatch.hook?.();
      } else if (kind !== EOS) {
        dispatch.multifdFlush?.();
      }
      return kind === EOS ? 'eos' : kind === HOOK ? null : 'flush';
    }
    const block = await this.#readBlock(flags, at);
    if (!blockTable.isPageSizeKnown) {
      const found = await probePageSize(input, blockTable, kind, block, this.#word);
      if (found !== null) await blockTable.setPageSize(found, at);
    }
    const { pageSize } = blockTable;
    if (offset % pageSize !== 0) {
      const where = `offset ${hex(offset)} of a page of "${block.name}"`;
      const reason = `${where} is not a multiple of the page size ${pageSize}`;
      throw input.error('corrupt', reason, at);
    }
    const isInside = offset < block.usedLength;
    if (isInside) roundCounter.visit(block.index, offset);
    else this.#reportOutside(block, offset, at);
    const payloads = this.#payloads;
    if (kind === ZERO) await payloads.zero(block, offset, isInside);
    else if (kind === PAGE) await payloads.normal(block, offset, isInside);
    else if (kind === XBZRLE) await payloads.xbzrle(block, offset, isInside);
    else await payloads.compressed(block, offset, isInside);
    return null;
  }

  async #readBlock(flags: number, at: number): Promise<RamBlock> {
    const input = this.#input;
    if ((flags & CONTINUE) !== 0) {
      if (this.#last !== null) return this.#last;
      const reason = 'the first RAM record has the flag CONTINUE, and no block to continue';
      throw input.error('corrupt', reason, at);
    }
    await input.need(1, "a RAM block's name");
    const length = input.file.peekByte(0);
    await input.need(1 + length, "a RAM block's name");
    const { position } = input;
    input.u8();
    const name = UTF8.decode(input.view(length));
    const block = this.#ram.blockTable.find(name);
    if (block === undefined) {
      throw input.error('corrupt', `page of "${name}", which the list of RAM blocks lacks`, at);
    }
    this.#last = block;
    this.#ram.dispatch.named?.(block, position);
    return block;
  }

  #reportOutside(block: RamBlock, offset: number, at: number): void {
    const length = hex(block.usedLength);
    const reason = `illegal RAM offset ${hex(offset)} in "${block.name}" of ${length} bytes`;
    this.#ram.diagnostics.report(this.#input.error('corrupt', reason, at));
  }

  /** Call the file's hook, which loads what a transport has moved outside the stream. */
  #loadHook(at: number): void {
    const { file } = this.#input;
    file.ramControlLoadHook(RAM_CONTROL_HOOK);
    if (file.error === null) return;
    const reason = 'RDMA moves RAM outside the stream, and the file has no hook that loads it';
    const { section } = this.#input;
    const context = { position: at, section, cause: file.error };
    throw new MigrationStreamError('unsupported', reason, context);
  }

  #hugeWord(): MigrationStreamError {
    const bytes = this.#input.view(WORD_BYTES);
    const word = Buffer.from(bytes).toString('hex');
    const at = this.#input.position - WORD_BYTES;
    if (bytes[0] === ITEM.FOOTER) {
      const reason = `footer (${word}) among the RAM records: their end mark (EOS) is missing`;
      return this.#input.error('corrupt', reason, at);
    }
    return this.#input.error('corrupt', `RAM word 0x${word} is beyond any block`, at);
  }
}

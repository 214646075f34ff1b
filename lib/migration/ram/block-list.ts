import { RAM_CONTROL_BLOCK_REG } from '../../contract/constants.ts';
import { quote } from '../../util/format.ts';
import type { RamBlock } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { LIMIT } from '../format/wire.ts';
import { noPages } from './page-counts.ts';
import type { GuestRam } from './ram-table.ts';

/** Facts that decide which fields the entries of a block list have. */
export interface BlockListLayout {
  /** OR of the page sizes of all blocks, if `POSTCOPY_ADVISE` had it: entries may have a page size then. */
  advisedPageSizes: bigint | null;
  /** Whether entries have a guest-physical address: the capability `x-ignore-shared`. */
  ignoreShared: boolean;
  /** Reads what follows an entry of a mapped-ram file, its pages included; null in other streams. */
  mapped: ((block: RamBlock) => Promise<void>) | null;
}

/** Smallest page size of any target. */
const MIN_PAGE_SIZE = 1024;

const TWO_53 = 9_007_199_254_740_992n;

/**
 * Read the list of RAM blocks, which follows a MEM_SIZE word.
 *
 * @param totalBytes - Bytes of all blocks, from that word.
 * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`.
 * @see QEMU `ram_save_setup` and `parse_ramblocks` in migration/ram.c
 */
export async function readBlockList(
  input: StreamInput,
  totalBytes: number,
  layout: BlockListLayout,
  ram: GuestRam,
): Promise<RamBlock[]> {
  const { blockTable, diagnostics } = ram;
  const blocks: RamBlock[] = [];
  const names = new Set<string>();
  let left = totalBytes;
  if (totalBytes > LIMIT.RAM) {
    throw input.error('corrupt', `RAM of ${totalBytes} bytes, at most ${LIMIT.RAM}`);
  }
  while (left > 0) {
    const offset = input.position;
    const entry = await readEntry(input, blocks.length);
    const { name, usedLength } = entry;
    if (blocks.length === LIMIT.BLOCKS) {
      throw input.error('corrupt', `more than ${LIMIT.BLOCKS} RAM blocks`, offset);
    }
    if (name === '') throw input.error('corrupt', 'RAM block without a name', offset);
    if (names.has(name)) {
      throw input.error('corrupt', `RAM block "${name}" is listed twice`, offset);
    }
    names.add(name);
    if (usedLength > left) {
      const rest = `only ${left} of ${totalBytes} bytes of RAM are left`;
      throw input.error('corrupt', `RAM block "${name}" has ${usedLength} bytes, ${rest}`, offset);
    }
    left -= usedLength;
    const hostPageSize = await readHostPageSize(input, layout, left);
    if (hostPageSize !== null && hostPageSize < blockTable.pageSize) {
      const sizes = `host pages of ${hostPageSize} bytes, smaller than the target's ${blockTable.pageSize}`;
      throw input.error('corrupt', `RAM block "${name}" has ${sizes}`, input.position - 8);
    }
    const address = layout.ignoreShared ? await readAddress(input) : null;
    const block: RamBlock = { ...entry, hostPageSize, address };
    const unit = blockTable.isPageSizeKnown ? blockTable.pageSize : MIN_PAGE_SIZE;
    if (usedLength % unit !== 0) {
      const size = `RAM block "${name}" of ${usedLength} bytes`;
      const reason = `${size} is not a whole number of pages of ${unit} bytes`;
      throw input.error('corrupt', reason, offset);
    }
    if (usedLength === 0) diagnostics.warn(`RAM block ${quote(name)} is empty`, offset);
    blocks.push(block);
    input.file.ramControlLoadHook(RAM_CONTROL_BLOCK_REG, name);
    if (layout.mapped === null) continue;
    // The pages follow each entry, and a visitor must know a block before it gets its pages.
    await blockTable.setBlocks([...blocks]);
    await layout.mapped(block);
  }
  return blocks;
}

async function readEntry(input: StreamInput, index: number): Promise<RamBlock> {
  const name = await input.counted("a RAM block's name");
  await input.need(8, "a RAM block's length");
  const usedLength = input.be64();
  if (usedLength > BigInt(LIMIT.RAM)) {
    const reason = `RAM block "${name}" has ${usedLength} bytes, at most ${LIMIT.RAM}`;
    throw input.error('corrupt', reason, input.position - 8);
  }
  return {
    index,
    name,
    usedLength: Number(usedLength),
    hostPageSize: null,
    address: null,
    pages: noPages(),
  };
}

/**
 * Read the page size of an entry, which is optional and which nothing announces.
 *
 * A page size begins with a zero byte and ends with ten zero bits. The next entry begins with the length of
 * its name, and the word after the list has flags in its last ten bits. Only an address may look the same:
 * it is told apart by the advised page sizes.
 */
async function readHostPageSize(
  input: StreamInput,
  { advisedPageSizes, ignoreShared }: BlockListLayout,
  left: number,
): Promise<number | null> {
  if (advisedPageSizes === null) return null;
  if (left > 0 && !ignoreShared) {
    await input.need(1, 'the list of RAM blocks');
    if (input.file.peekByte(0) !== 0) return null;
  }
  await input.need(8, 'the list of RAM blocks');
  const value = Buffer.from(input.file.peekBuffer(8)).readBigUInt64BE(0);
  const isPower = value !== 0n && (value & (value - 1n)) === 0n;
  if (left === 0 && !ignoreShared && (value & 0x3ffn) !== 0n) return null;
  if (ignoreShared && !(isPower && (value & advisedPageSizes) !== 0n)) return null;
  if (!isPower || value >= TWO_53) {
    throw input.error('corrupt', `RAM block with host pages of ${value} bytes`);
  }
  input.be64();
  return Number(value);
}

async function readAddress(input: StreamInput): Promise<bigint> {
  await input.need(8, "a RAM block's address");
  return input.be64();
}

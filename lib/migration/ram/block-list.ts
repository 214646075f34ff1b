import { RAM_CONTROL_BLOCK_REG } from '../../contract/constants.ts';
import type { RamBlock } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { LIMIT } from '../format/wire.ts';
import { noPages, type RamTable } from './ram-table.ts';

/** What decides which fields the entries of a block list have. */
export interface BlockListLayout {
  /** OR of the page sizes of all blocks, where `POSTCOPY_ADVISE` gave one: then entries may have theirs. */
  advisedPageSizes: bigint | null;
  /** Whether entries have a guest-physical address. */
  ignoreShared: boolean;
  /** Reads what stands behind each entry of a mapped-ram file, its pages included. */
  mapped: ((block: RamBlock) => Promise<void>) | null;
}

/** Smallest page of any target whose RAM has flags of their own. */
const MIN_PAGE = 1024;

const TWO_53 = 9_007_199_254_740_992n;

/**
 * Reads the list of RAM blocks, behind its word.
 *
 * @param total - Bytes of all blocks, from the word.
 * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`.
 */
export async function readBlockList(
  input: StreamInput,
  total: number,
  layout: BlockListLayout,
  table: RamTable,
): Promise<RamBlock[]> {
  const blocks: RamBlock[] = [];
  const names = new Set<string>();
  let left = total;
  if (total > LIMIT.RAM) {
    throw input.error('corrupt', `RAM of ${total} bytes, more than ${LIMIT.RAM}`);
  }
  while (left > 0) {
    const offset = input.position;
    const entry = await readEntry(input, blocks.length);
    const { name, usedLength } = entry;
    if (blocks.length === LIMIT.BLOCKS) {
      throw input.error('corrupt', `more than ${LIMIT.BLOCKS} RAM blocks`, offset);
    }
    if (name === '') throw input.error('corrupt', 'a RAM block without a name', offset);
    if (names.has(name)) throw input.error('corrupt', `RAM block "${name}" comes twice`, offset);
    names.add(name);
    if (usedLength > left) {
      const reason = `RAM block "${name}" has ${usedLength} bytes, and only ${left} of ${total} are left`;
      throw input.error('corrupt', reason, offset);
    }
    left -= usedLength;
    const hostPageSize = await readHostPageSize(input, layout, left);
    if (hostPageSize !== null && hostPageSize < table.pageSize) {
      const reason = `RAM block "${name}" has host pages of ${hostPageSize} bytes, less than the target's ${table.pageSize}`;
      throw input.error('corrupt', reason, input.position - 8);
    }
    const address = layout.ignoreShared ? await readAddress(input) : null;
    const block: RamBlock = { ...entry, hostPageSize, address };
    const unit = table.pageSizeKnown ? table.pageSize : MIN_PAGE;
    if (usedLength % unit !== 0) {
      const reason = `RAM block "${name}" has ${usedLength} bytes, no multiple of the page size ${unit}`;
      throw input.error('corrupt', reason, offset);
    }
    if (usedLength === 0) {
      table.diagnostics.warn(`RAM block "${name}" is empty`, offset);
    }
    blocks.push(block);
    input.file.ramControlLoadHook(RAM_CONTROL_BLOCK_REG, name);
    if (layout.mapped === null) continue;
    // The pages come in between the entries, and no visitor may get one of a block it does not know.
    await table.list([...blocks]);
    await layout.mapped(block);
  }
  return blocks;
}

async function readEntry(input: StreamInput, index: number): Promise<RamBlock> {
  const name = await input.counted("a RAM block's name");
  await input.need(8, "a RAM block's length");
  const usedLength = input.be64();
  if (usedLength > BigInt(LIMIT.RAM)) {
    const reason = `RAM block "${name}" of ${usedLength} bytes, more than ${LIMIT.RAM}`;
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
 * The page size of an entry, if it has one: nothing announces it. A page size begins with a zero byte and
 * ends with ten zero bits; the next entry begins with the length of its name, and the word behind the list
 * has flags in its last ten bits. Only an address may look the same: then the advised sizes decide.
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
    throw input.error('corrupt', `a RAM block with pages of ${value} bytes`);
  }
  input.be64();
  return Number(value);
}

async function readAddress(input: StreamInput): Promise<bigint> {
  await input.need(8, "a RAM block's address");
  return input.be64();
}

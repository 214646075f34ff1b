import type { RamBlock } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { RAM_FLAG } from '../format/wire.ts';
import type { BlockTable } from './block-table.ts';

/*
 * A stream states its page size only sometimes: in a subsection of the configuration (Arm), in a command
 * (postcopy), or in its VM description, which comes last. Otherwise the machine type decides, or the first
 * page: another record must begin after it.
 */

/** Page sizes to try, the most common first. */
const PROBED_SIZES = [4096, 8192, 16384, 1024] as const;
/** The page size if it is none of these: the probe would need too many bytes at once. */
const LARGEST_SIZE = 65_536;

/** The combinations of flags that a record may have, without CONTINUE. */
const KNOWN_FLAGS: ReadonlySet<number> = new Set([
  RAM_FLAG.ZERO,
  RAM_FLAG.MEM_SIZE,
  RAM_FLAG.PAGE,
  RAM_FLAG.EOS,
  RAM_FLAG.XBZRLE,
  RAM_FLAG.HOOK,
  RAM_FLAG.COMPRESS_PAGE,
  RAM_FLAG.MULTIFD_FLUSH,
]);

/** Bytes of a record's word. */
const WORD_BYTES = 8;
/** Most bytes of a block's name, its length included. */
const MAX_NAME_BYTES = 256;

/** Return whether these flags, without CONTINUE, are those of a record. */
export function isKnownRecord(flags: number): boolean {
  return KNOWN_FLAGS.has(flags);
}

/**
 * Find the page size from a record whose word and block have been read.
 *
 * @param flags - The flags of the record, without CONTINUE.
 * @param block - The block of the page.
 * @param word - The word of the record.
 * @returns The page size in bytes; null if this record does not show it.
 */
export async function probePageSize(
  input: StreamInput,
  table: BlockTable,
  flags: number,
  block: RamBlock,
  word: number,
): Promise<number | null> {
  const offset = word - (word % 1024);
  if (flags === RAM_FLAG.ZERO) return offset % table.pageSize === 0 ? null : 1024;
  if (flags !== RAM_FLAG.PAGE) return null;
  for (const size of PROBED_SIZES) {
    if (offset % size !== 0 || block.usedLength % size !== 0) continue;
    if (await recordFollows(input, table, block, size)) return size;
  }
  return LARGEST_SIZE;
}

/** Return whether a record begins after a page of this size. */
async function recordFollows(
  input: StreamInput,
  table: BlockTable,
  block: RamBlock,
  size: number,
): Promise<boolean> {
  const probed = size + WORD_BYTES + MAX_NAME_BYTES;
  if ((await input.file.fillOrEnd(probed)) < size + WORD_BYTES) return false;
  const bytes = Buffer.from(input.file.peekBuffer(probed));
  const word = bytes.readBigUInt64BE(size);
  if (word === BigInt(RAM_FLAG.EOS) || word === BigInt(RAM_FLAG.MULTIFD_FLUSH)) return true;
  const flags = Number(word % BigInt(size));
  const offset = word - BigInt(flags);
  if (!isKnownRecord(flags & ~RAM_FLAG.CONTINUE)) return false;
  if ((flags & RAM_FLAG.CONTINUE) !== 0) return offset < BigInt(block.usedLength);
  const nameAt = size + WORD_BYTES;
  const length = bytes[nameAt] as number;
  const named = table.find(bytes.toString('utf8', nameAt + 1, nameAt + 1 + length));
  return named !== undefined && offset < BigInt(named.usedLength);
}

import type { RamBlock } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { RAM_FLAG } from '../format/wire.ts';
import type { RamTable } from './ram-table.ts';

/*
 * A stream says the size of its pages only sometimes: by a subsection of the configuration (Arm), by a
 * command (postcopy), in its VM description, which comes last. Otherwise the machine type tells, or the
 * first page does: behind it another record must begin.
 */

/** Sizes that pages have, the usual one first. */
const CANDIDATES = [4096, 8192, 16384, 1024] as const;
/** What it is if it is none of these: more than can be looked at. */
const LARGEST = 65536;

/** Words that a record may have, without CONTINUE. */
const KINDS: ReadonlySet<number> = new Set([
  RAM_FLAG.ZERO,
  RAM_FLAG.MEM_SIZE,
  RAM_FLAG.PAGE,
  RAM_FLAG.EOS,
  RAM_FLAG.XBZRLE,
  RAM_FLAG.HOOK,
  RAM_FLAG.COMPRESS_PAGE,
  RAM_FLAG.MULTIFD_FLUSH,
]);

/** Machine types whose target has pages of one size only, which is not 4 KiB. */
const BY_MACHINE: ReadonlyMap<string, number> = new Map([
  ['clipper', 8192],
  ['axis-dev88', 8192],
  ['or1k-sim', 8192],
  ['sun4u', 8192],
  ['sun4v', 8192],
  ['niagara', 8192],
]);

/** Machine types that only targets with pages of 4 KiB have. */
const USUAL = /^(pc|isapc|q35|microvm|xenfv|xenpv|pc-.+|pseries.*|powernv.*|s390-ccw-virtio.*)$/;

/** The page size that a machine type has for certain; null if several targets have such a machine. */
export function pageSizeOfMachine(machine: string): number | null {
  return USUAL.test(machine) ? 4096 : (BY_MACHINE.get(machine) ?? null);
}

/** Whether flags, without CONTINUE, are those of a record. */
export function isKnownWord(kind: number): boolean {
  return KINDS.has(kind);
}

/**
 * Finds out the page size from a record whose word and block have been read.
 *
 * @returns Bytes; null if the record does not tell.
 */
export async function probePageSize(
  input: StreamInput,
  table: RamTable,
  kind: number,
  block: RamBlock,
  word: number,
): Promise<number | null> {
  const offset = word - (word % 1024);
  if (kind === RAM_FLAG.ZERO) return offset % table.pageSize === 0 ? null : 1024;
  if (kind !== RAM_FLAG.PAGE) return null;
  for (const size of CANDIDATES) {
    if (offset % size !== 0 || block.usedLength % size !== 0) continue;
    if (await recordFollows(input, table, block, size)) return size;
  }
  return LARGEST;
}

async function recordFollows(
  input: StreamInput,
  table: RamTable,
  block: RamBlock,
  size: number,
): Promise<boolean> {
  // The word, the length of a name, and the longest name.
  const reach = size + 8 + 1 + 255;
  if ((await input.file.fillOrEnd(reach)) < size + 8) return false;
  const bytes = Buffer.from(input.file.peekBuffer(reach));
  const word = bytes.readBigUInt64BE(size);
  if (word === BigInt(RAM_FLAG.EOS) || word === BigInt(RAM_FLAG.MULTIFD_FLUSH)) return true;
  const flags = Number(word % BigInt(size));
  const offset = word - BigInt(flags);
  if (!KINDS.has(flags & ~RAM_FLAG.CONTINUE)) return false;
  if ((flags & RAM_FLAG.CONTINUE) !== 0) return offset < BigInt(block.usedLength);
  const length = bytes[size + 8] as number;
  const named = table.find(bytes.toString('utf8', size + 9, size + 9 + length));
  return named !== undefined && offset < BigInt(named.usedLength);
}

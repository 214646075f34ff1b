import type { RamBlock } from '../format/events.ts';

/** The guest's memory, as a stream lists it. */
export interface GuestMemory {
  readonly blocks: readonly Pick<RamBlock, 'name' | 'usedLength' | 'hostPageSize'>[];
  /** Size of the target's pages in bytes. */
  readonly pageSize: number;
}

/** Says what is wrong with the name of a block, as a clause; null if there is such a block. */
export function blockFault(memory: GuestMemory, name: string): string | null {
  return blockOf(memory, name) === undefined ? `the guest has no RAM block "${name}"` : null;
}

/**
 * Says what is wrong with a range in a block, as a clause; null if it consists of pages of that block.
 *
 * @param start - In bytes, inside the block.
 */
export function rangeFault(
  memory: GuestMemory,
  name: string,
  start: number,
  length: number,
): string | null {
  const block = blockOf(memory, name);
  if (block === undefined) return blockFault(memory, name);
  const range = `${length} bytes from ${start} on`;
  if (start + length > block.usedLength) {
    return `${range} go beyond RAM block "${name}" of ${block.usedLength} bytes`;
  }
  const page = block.hostPageSize ?? memory.pageSize;
  if (start % page !== 0 || length % page !== 0) {
    return `${range} in RAM block "${name}" are no whole pages of ${page} bytes`;
  }
  return null;
}

/** Bytes of a bitmap with one bit for each target page of a block, in whole 64-bit words; null without the block. */
export function bitmapSize(memory: GuestMemory, name: string): number | null {
  const block = blockOf(memory, name);
  if (block === undefined) return null;
  return Math.ceil(block.usedLength / memory.pageSize / 64) * 8;
}

function blockOf(memory: GuestMemory, name: string): GuestMemory['blocks'][number] | undefined {
  return memory.blocks.find((block) => block.name === name);
}

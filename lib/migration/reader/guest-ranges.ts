import type { RamBlock } from '../format/events.ts';

/** The guest's RAM blocks, as a stream lists them. */
export interface GuestMemory {
  readonly blocks: readonly Pick<RamBlock, 'name' | 'usedLength' | 'hostPageSize'>[];
  /** Bytes of a target page. */
  readonly pageSize: number;
}

/** Return why the name of a block is refused, as a clause; null if the guest has such a block. */
export function blockFault(memory: GuestMemory, name: string): string | null {
  return blockOf(memory, name) === undefined ? `the guest has no RAM block "${name}"` : null;
}

/**
 * Return why a range of a block is refused, as a clause; null if it consists of pages of that block.
 *
 * @param start - Byte offset in the block.
 * @param length - Bytes.
 */
export function rangeFault(
  memory: GuestMemory,
  name: string,
  start: number,
  length: number,
): string | null {
  const block = blockOf(memory, name);
  if (block === undefined) return blockFault(memory, name);
  const range = `${length} bytes from offset ${start}`;
  if (start + length > block.usedLength) {
    return `${range} exceed RAM block "${name}" of ${block.usedLength} bytes`;
  }
  const page = block.hostPageSize ?? memory.pageSize;
  if (start % page !== 0 || length % page !== 0) {
    return `${range} in RAM block "${name}" are not whole pages of ${page} bytes`;
  }
  return null;
}

/**
 * Return the bytes of a bitmap with one bit for each target page of a block, in whole 64-bit words; null if
 * there is no such block.
 */
export function bitmapSize(memory: GuestMemory, name: string): number | null {
  const block = blockOf(memory, name);
  if (block === undefined) return null;
  return Math.ceil(block.usedLength / memory.pageSize / 64) * 8;
}

function blockOf(memory: GuestMemory, name: string): GuestMemory['blocks'][number] | undefined {
  return memory.blocks.find((block) => block.name === name);
}

import { LIMIT } from '../format/wire.ts';
import type { PageSourceBlock } from '../page-source/page-source.ts';

const MAX_NAME_BYTES = 255;

/** Return why QEMU would refuse a list of RAM blocks; undefined if it would not. */
export function blockListMistake(
  blocks: readonly PageSourceBlock[],
  pageSize: number,
): string | undefined {
  if (blocks.length > LIMIT.BLOCKS) {
    return `${blocks.length} RAM blocks, at most ${LIMIT.BLOCKS}`;
  }
  const names = new Set<string>();
  let totalBytes = 0;
  for (const block of blocks) {
    if (names.has(block.name)) return `RAM block "${block.name}" is listed twice`;
    names.add(block.name);
    totalBytes += block.usedLength;
    const mistake = sizeMistake(block, pageSize);
    if (mistake !== undefined) return mistake;
  }
  if (totalBytes > LIMIT.RAM) return `RAM of ${totalBytes} bytes, at most ${LIMIT.RAM}`;
  return firstNameMistake(blocks);
}

/** Return why the first name that does not fit is refused; undefined if all fit. */
export function firstNameMistake(blocks: readonly PageSourceBlock[]): string | undefined {
  for (const { name } of blocks) {
    const bytes = Buffer.byteLength(name);
    if (bytes === 0 || bytes > MAX_NAME_BYTES)
      return `a block name of ${bytes} bytes, not 1 to 255`;
  }
  return undefined;
}

/** Return a block's name with its length byte. */
export function countedName({ name }: PageSourceBlock): Uint8Array {
  const bytes = Buffer.from(name);
  return Buffer.concat([Uint8Array.of(bytes.length), bytes]);
}

function sizeMistake(
  { name, usedLength, hostPageSize }: PageSourceBlock,
  pageSize: number,
): string | undefined {
  // QEMU lists small blocks in units of the smallest target page.
  if (!Number.isSafeInteger(usedLength) || usedLength < 0 || usedLength % pageSize !== 0) {
    return `"${name}" of ${usedLength} bytes is not a whole number of pages of ${pageSize} bytes`;
  }
  if (hostPageSize !== null && (hostPageSize < pageSize || hostPageSize % pageSize !== 0)) {
    return `"${name}" has host pages of ${hostPageSize} bytes and target pages of ${pageSize}`;
  }
  return undefined;
}

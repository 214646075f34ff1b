/** Sizes of pages that a host may use for memory, the largest first. */
const CANDIDATES: readonly number[] = [2_097_152, 65_536, 16_384];

/**
 * Return a multiple of the destination's page size, inferred from the pages of a block that it has: it has all or
 * nothing of each of its own pages. Groups of pages that are larger than its own can be sent as well.
 *
 * @param usedLength - Bytes of the block.
 * @param bitmap - Bit `i % 8` of byte `i / 8` is 1 if it has target page `i`.
 * @param pageSize - Bytes of a target page.
 */
export function inferHostPageSize(
  usedLength: number,
  bitmap: Uint8Array,
  pageSize: number,
): number {
  const pages = usedLength / pageSize;
  const fits = (size: number): boolean =>
    size > pageSize && usedLength % size === 0 && isUniform(bitmap, pages, size / pageSize);
  return CANDIDATES.find(fits) ?? pageSize;
}

function isUniform(bitmap: Uint8Array, pages: number, group: number): boolean {
  for (let page = 0; page < pages; page++) {
    if (page % group !== 0 && hasBit(bitmap, page) !== hasBit(bitmap, page - 1)) return false;
  }
  return true;
}

function hasBit(bitmap: Uint8Array, index: number): boolean {
  return (((bitmap[index >>> 3] as number) >>> (index & 7)) & 1) === 1;
}

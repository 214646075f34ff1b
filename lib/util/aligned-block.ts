/*
 * Blocks that the kernel copies to and from. C libraries place large blocks 16 bytes after the start of a
 * page, which is a bad case of processors with "fast short rep mov": if the lower 12 bits of the destination
 * are a little greater than those of the source, AMD's Zen 3 reads a file at 2.4 GB/s instead of 8.8
 * (bench/block-offset.ts). The kernel's own buffers mostly begin at the start of a page, so ours begin in the
 * middle.
 */

/** Half a page. */
const OFFSET_BYTES = 2048;

/** Smallest size for which the offset pays off. */
const MIN_OFFSET_SIZE = 32_768;

/** Allocate an uninitialised block; no other view of its memory exists. */
export function allocateBlock(size: number): Buffer {
  if (size < MIN_OFFSET_SIZE) return Buffer.allocUnsafeSlow(size);
  return Buffer.from(Buffer.allocUnsafeSlow(size + OFFSET_BYTES).buffer, OFFSET_BYTES, size);
}

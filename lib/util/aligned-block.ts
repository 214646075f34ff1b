/*
 * Blocks that the kernel copies to and from. C libraries put large ones 16 bytes behind the start of a page,
 * and that is where processors with "fast short rep mov" have a bad case: where the lower 12 bits of the
 * destination are a little greater than those of the source, AMD's Zen 3 reads a file into such a block at
 * 2.4 GB/s instead of 8.8 (bench/block-offset.ts). What the kernel copies begins at the start of a page more
 * often than not, so blocks begin in the middle.
 */

/** Half a page. */
const OFFSET = 2048;

/** Size from which on it is worth that. */
const LEAST = 32_768;

/** Makes a block, not cleared, that is all that will ever be seen of its memory. */
export function allocateBlock(size: number): Buffer {
  if (size < LEAST) return Buffer.allocUnsafeSlow(size);
  return Buffer.from(Buffer.allocUnsafeSlow(size + OFFSET).buffer, OFFSET, size);
}

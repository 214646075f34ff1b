type Transferable = ArrayBuffer & { transfer?: (length: number) => ArrayBuffer };

/** The buffer that Node shares has `poolSize` bytes and, since Node 26, some more for its alignment. */
const MIN_FREED_BYTES = 2 * Buffer.poolSize;

/**
 * Free the memory of a view at once, where Node can (22 and later): the garbage collector sees only a small object, and
 * lets tens of MiB of them gather in each thread. The view has no bytes after that, and no other view of its buffer.
 *
 * @param bytes - Alone in its buffer; left as it is if the buffer can be the one that Node shares among small ones.
 */
export function freeMemory({ buffer }: Uint8Array): void {
  if (buffer.byteLength >= MIN_FREED_BYTES) (buffer as Transferable).transfer?.(0);
}

/*
 * How `relay` takes the bytes of a file, past the stream: chunks come out of blocks that are read into again
 * once the sinks have taken them. Memory of its own for each chunk costs as much as moving the bytes does
 * (bench/relay.ts).
 */

/** The chunks of a file that is being transferred. */
export interface ChunkSource {
  /** Return the next chunk, to be given to `recycleChunk()`; null if it has to be waited for. */
  takeChunk(): Uint8Array | null;
  /** Use the memory of a chunk again. */
  recycleChunk(chunk: Uint8Array): void;
  /** Wait for the next chunk; return false at the end of the stream. */
  waitForChunk(): Promise<boolean>;
  /** Deliver the end, or the bytes that follow, to the stream again. */
  stopTransfer(): void;
}

import { FRAME_BYTES } from '../format/limits.ts';

/** Frames whose contents fit in one block of memory. */
const BLOCK_FRAMES = 64;

/**
 * Memory for the contents of frames. It is shared with threads, which fill it, and used again: memory of its own for
 * each frame costs more in garbage collection than the reading. The memory that was used last is used first, because
 * the processor may still have it in a cache.
 */
export class FrameMemory {
  readonly #free: Uint8Array[] = [];

  /** Return memory for the contents of a frame, with any bytes in it. */
  take(): Uint8Array {
    if (this.#free.length === 0) this.#grow();
    return this.#free.pop() as Uint8Array;
  }

  /** Take back memory that nothing reads or fills any more. */
  giveBack(memory: Uint8Array): void {
    this.#free.push(memory);
  }

  #grow(): void {
    const block = new SharedArrayBuffer(BLOCK_FRAMES * FRAME_BYTES);
    for (let frame = BLOCK_FRAMES - 1; frame >= 0; frame--) {
      this.#free.push(new Uint8Array(block, frame * FRAME_BYTES, FRAME_BYTES));
    }
  }
}

/*
 * A read that finds its bytes in the page cache is a copy of some 50 µs. In the thread pool it takes half as long
 * again, and its caller waits until one thread has woken another, twice (bench/commands.ts).
 */

/** Milliseconds of reading on the calling thread before one read in the pool, at which the event loop gets a turn. */
const TURN_MS = 10;

/** Longest time in milliseconds of a read from the page cache, even on a busy machine. */
const MAX_INLINE_MS = 5;

/** Reads in the pool after one that took longer. */
const POOL_READS = 4;

/** Decides which reads of a file run on the calling thread: nearly all, as long as they return at once. */
export class InlineReads {
  #inlineMs = 0;
  #poolReads = 0;

  /** Return whether the next read is to run on the calling thread. */
  next(): boolean {
    if (this.#poolReads === 0) return true;
    this.#poolReads -= 1;
    return false;
  }

  /** Account for a read on the calling thread that took `ms` milliseconds. */
  took(ms: number): void {
    this.#inlineMs += ms;
    if (this.#inlineMs < TURN_MS && ms <= MAX_INLINE_MS) return;
    this.#poolReads = ms > MAX_INLINE_MS ? POOL_READS : 1;
    this.#inlineMs = 0;
  }
}

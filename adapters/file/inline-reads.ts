/*
 * A read that finds its bytes in the page cache is a copy of some 50 µs. In the thread pool it takes half as long
 * again, and its caller waits until one thread has woken another, twice (bench/commands.ts).
 */

/** Milliseconds of reading on the calling thread after which the event loop gets a turn. */
const TURN_MS = 10;

/** Longest time in milliseconds of a read from the page cache, even on a busy machine. */
const MAX_INLINE_MS = 5;

/** Reads in the pool after one that took longer. */
const POOL_READS = 4;

/** How a read runs: on the calling thread, at once or in the next turn of the event loop; or in the thread pool. */
export type ReadMode = 'now' | 'nextTurn' | 'inPool';

/** Decides how the reads of a file run: nearly all on the calling thread, as long as they return at once. */
export class InlineReads {
  #inlineMs = 0;
  #poolReads = 0;

  /** Return how the next read is to run. */
  next(): ReadMode {
    if (this.#poolReads > 0) {
      this.#poolReads -= 1;
      return 'inPool';
    }
    if (this.#inlineMs < TURN_MS) return 'now';
    this.#inlineMs = 0;
    return 'nextTurn';
  }

  /** Account for a read that ran at once, and took `ms` milliseconds. */
  took(ms: number): void {
    this.#inlineMs += ms;
    if (ms <= MAX_INLINE_MS) return;
    this.#poolReads = POOL_READS;
    this.#inlineMs = 0;
  }
}

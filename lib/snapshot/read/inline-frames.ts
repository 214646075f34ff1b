import { setImmediate as turn } from 'node:timers/promises';
import type { CachedPack, FrameCache } from './frame-cache.ts';

/*
 * A frame that is stored as it is costs a read from the page cache and a SHA-256. Where the reader does that itself,
 * right before it uses the bytes, they are still in the processor's cache, and no thread has to be started and woken:
 * that saves a third of the processor time of a restore (bench/store.ts).
 */

/** Milliseconds of opening frames after which the event loop gets a turn. */
const TURN_MS = 10;

/** Longest time in milliseconds that opening a frame takes whose bytes are in the page cache. */
const MAX_OPEN_MS = 1;

/** Frames in a row that take longer if the bytes come from a disk: a busy machine delays one now and then. */
const SLOW_FRAMES = 3;

/** Frames that are left to threads, which read ahead, after slow ones, and after one whose pack was not open. */
const FRAMES_FOR_THREADS = 128;

/** Opens frames on the calling thread, when the reader comes to them, as long as that needs no waiting. */
export class InlineFrames {
  readonly #cache: FrameCache;
  #turnMs = 0;
  #slowFrames = 0;
  #framesForThreads = 0;

  constructor(cache: FrameCache) {
    this.#cache = cache;
  }

  /** Whether frames that are stored as they are need not be read ahead. */
  get isOn(): boolean {
    return this.#framesForThreads === 0;
  }

  /** Return the contents of a frame that are not at hand, as `FrameCache.find` does; null if the caller has to wait. */
  open(pack: CachedPack, index: number): Uint8Array | null {
    if (!this.isOn || this.isTurnDue || pack.frames.has(index)) return null;
    if (!pack.reader.isStoredAsIs(index)) return null;
    const began = performance.now();
    const bytes = this.#cache.openNow(pack, index);
    const ms = performance.now() - began;
    this.#turnMs += ms;
    this.#slowFrames = ms > MAX_OPEN_MS ? this.#slowFrames + 1 : 0;
    if (bytes === null || this.#slowFrames === SLOW_FRAMES) {
      this.#framesForThreads = FRAMES_FOR_THREADS;
      this.#slowFrames = 0;
    }
    return bytes;
  }

  /** Account for contents that were at hand. */
  found(): void {
    if (this.#framesForThreads > 0) this.#framesForThreads -= 1;
  }

  /** Whether the event loop had no turn for long. */
  get isTurnDue(): boolean {
    return this.#turnMs >= TURN_MS;
  }

  /** Let the event loop have its turn. */
  async giveTurn(): Promise<void> {
    this.#turnMs = 0;
    await turn();
  }
}

import type { Extent } from '../memory/ram-image.ts';

/** Bytes that are read and compared at a time: a multiple of every page size. */
export const WINDOW_BYTES = 1_048_576;

/** A part of a block that at least one of two sources may have data in. */
export interface Window {
  /** Offset in the block, a multiple of `WINDOW_BYTES`. */
  readonly at: number;
  /** In bytes; less than `WINDOW_BYTES` at the end of the block only. */
  readonly length: number;
  readonly hasA: boolean;
  readonly hasB: boolean;
}

/**
 * Yield the windows of a block in which there are extents, in ascending order.
 *
 * @param a - Extents of one source, as `PageSource.extents` yields them.
 * @param b - Extents of the other.
 * @param length - Bytes of the block to look at.
 */
export function* windowsOf(
  a: Iterable<Extent>,
  b: Iterable<Extent>,
  length: number,
): Generator<Window> {
  const left = new ExtentHead(a);
  const right = new ExtentHead(b);
  for (;;) {
    const window = Math.min(left.window, right.window);
    const at = window * WINDOW_BYTES;
    if (at >= length) return;
    const hasA = left.pass(window);
    const hasB = right.pass(window);
    yield { at, length: Math.min(WINDOW_BYTES, length - at), hasA, hasB };
  }
}

/** Walks through extents by windows. */
class ExtentHead {
  readonly #extents: Iterator<Extent>;
  /** Window of the next byte of an extent; infinity after the last one. */
  window = 0;
  /** Where the current extent ends. */
  #end = 0;

  constructor(extents: Iterable<Extent>) {
    this.#extents = extents[Symbol.iterator]();
    this.#next();
  }

  /** Pass the bytes of a window; return whether there were any. */
  pass(window: number): boolean {
    if (this.window !== window) return false;
    const end = (window + 1) * WINDOW_BYTES;
    while (this.window === window) {
      if (this.#end > end) this.window += 1;
      else this.#next();
    }
    return true;
  }

  #next(): void {
    const next = this.#extents.next();
    if (next.done === true) {
      this.window = Infinity;
      return;
    }
    this.window = Math.floor(next.value.at / WINDOW_BYTES);
    this.#end = next.value.at + next.value.length;
  }
}

import { Buffer } from 'node:buffer';
import { type PageView, pageView } from './encode-xbzrle.ts';
import { createScannedMemory, type ZeroScan } from './zero-scan.ts';

/** A buffer for a run of pages, with views that are made once. */
export class PageBuffer {
  readonly pageSize: number;
  /** Most pages of a run. */
  readonly capacity: number;
  /** The pages one by one. */
  readonly pages: readonly PageView[];
  /** The first N pages, at index N. */
  readonly runs: readonly Buffer[];
  readonly #isZero: ZeroScan;

  /**
   * @param pageSize - Bytes of a page; a multiple of 128.
   * @param capacity - Most pages of a run.
   */
  constructor(pageSize: number, capacity: number) {
    this.pageSize = pageSize;
    this.capacity = capacity;
    const { memory, isZero } = createScannedMemory(pageSize * capacity);
    const at = (page: number): number => page * pageSize;
    this.pages = Array.from({ length: capacity }, (_, page) =>
      pageView(memory, at(page), pageSize),
    );
    this.runs = Array.from({ length: capacity + 1 }, (_, count) =>
      Buffer.from(memory, 0, at(count)),
    );
    this.#isZero = isZero;
  }

  /** Return whether a page is all zeros. */
  isZero(page: number): boolean {
    return this.#isZero(page * this.pageSize, this.pageSize) !== 0;
  }
}

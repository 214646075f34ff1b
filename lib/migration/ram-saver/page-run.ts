import { Buffer } from 'node:buffer';
import type { PageSource } from '../page-source/page-source.ts';
import { ZeroPage } from '../page-source/zero-page.ts';
import type { PageView } from './encode-xbzrle.ts';
import { PageBuffer } from './page-buffer.ts';

/** Bytes that are read from the source at a time: they fit in the cache of a processor's core. */
const READ_BYTES = 262_144;
/** Bytes of a view: the caller asks after each whether the file is full, whose memory stays in the cache then. */
const VIEW_BYTES = 65_536;
/** Bytes of a view after one of zeros: nothing is copied from it, and one comparison costs less than several. */
const ZERO_VIEW_BYTES = READ_BYTES;

/**
 * A run of pages of a source: a copy in a buffer, or the source's own memory where the source has a view of it.
 * That saves a copy, but what a page holds may change at any time.
 */
export class PageRun {
  readonly #source: PageSource;
  readonly #pageSize: number;
  readonly #buffer: PageBuffer;
  readonly #zeroPage: ZeroPage;
  /** The source's own memory; null while the buffer has the run. */
  #view: Buffer | null = null;
  /** As many zeros as a view has bytes at most. */
  readonly #zeros = Buffer.alloc(ZERO_VIEW_BYTES);
  #isZeroRun = false;

  constructor(source: PageSource) {
    const { pageSize } = source;
    this.#source = source;
    this.#pageSize = pageSize;
    this.#buffer = new PageBuffer(pageSize, Math.max(1, READ_BYTES / pageSize));
    this.#zeroPage = new ZeroPage(pageSize);
  }

  /** Return the most pages that may be loaded next. */
  maxPages(mustCopy: boolean): number {
    if (mustCopy || this.#source.view === undefined) return this.#buffer.capacity;
    return (this.#isZeroRun ? ZERO_VIEW_BYTES : VIEW_BYTES) / this.#pageSize;
  }

  /** Whether all pages that were loaded are known to be zeros. */
  get isZeroRun(): boolean {
    return this.#isZeroRun;
  }

  /**
   * Load pages.
   *
   * @param block - Number of the block.
   * @param first - Number of the first page in the block.
   * @param count - Number of pages, up to `maxPages`.
   * @param mustCopy - Whether the pages have to stay as they are until the next run.
   * @throws {QemuFileError} (or rejects) what the source throws.
   */
  load(block: number, first: number, count: number, mustCopy: boolean): void | Promise<void> {
    const source = this.#source;
    const offset = first * this.#pageSize;
    const memory = mustCopy ? null : (source.view?.(block, offset, count * this.#pageSize) ?? null);
    if (memory !== null) {
      const view = Buffer.from(memory.buffer, memory.byteOffset, memory.length);
      this.#view = view;
      this.#isZeroRun = view.length >= VIEW_BYTES && this.#isAllZeros(view);
      return undefined;
    }
    this.#view = null;
    this.#isZeroRun = false;
    return source.read(block, offset, this.#buffer.runs[count] as Buffer);
  }

  /** Return whether a page of the run is all zeros. */
  isZero(at: number): boolean {
    const view = this.#view;
    if (view === null) return this.#buffer.isZero(at);
    return this.#zeroPage.isAt(view, at * this.#pageSize);
  }

  #isAllZeros(view: Buffer): boolean {
    return view[0] === 0 && view.compare(this.#zeros, 0, view.length) === 0;
  }

  /** Return a page of the run. */
  page(at: number): Uint8Array {
    const view = this.#view;
    if (view === null) return this.copiedPage(at).bytes;
    const pageSize = this.#pageSize;
    return new Uint8Array(view.buffer, view.byteOffset + at * pageSize, pageSize);
  }

  /** Return a page of a run that was loaded with `mustCopy`. */
  copiedPage(at: number): PageView {
    return this.#buffer.pages[at] as PageView;
  }
}

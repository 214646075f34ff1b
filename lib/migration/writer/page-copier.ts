import { abortError } from '../../contract/errors.ts';
import type { PageSource } from '../page-source/page-source.ts';
import { ZeroPage } from '../page-source/zero-page.ts';

/** Bytes that are read from the source at a time. */
const CHUNK_BYTES = 1_048_576;
/** Most pages of zeros that are written without asking whether the target is full. */
const MAX_ZERO_RUN = 16_384;

/** Where pages are written: records of a stream, or places in a file. */
export interface PageTarget {
  /** Write adjacent pages; call `onRelease` when their memory may be used again. */
  page(block: number, offset: number, bytes: Uint8Array, onRelease: () => void): void;
  /** Write a run of pages of zeros. */
  zero(block: number, offset: number, count: number): void;
  /** Wait until there is room for more. */
  ready(): void | Promise<void>;
}

/** Copies pages of a source to a target, pages of zeros apart, through buffers that are used again. */
export class PageCopier {
  readonly #pages: PageSource;
  readonly #target: PageTarget;
  readonly #signal: AbortSignal | undefined;
  readonly #free: Buffer[] = [];
  readonly #zeroPage: ZeroPage;

  constructor(pages: PageSource, target: PageTarget, signal: AbortSignal | undefined) {
    this.#pages = pages;
    this.#target = target;
    this.#signal = signal;
    this.#zeroPage = new ZeroPage(pages.pageSize);
  }

  /**
   * Copy all blocks, in the order of addresses.
   *
   * @param onProgress - Called with the bytes of memory that were dealt with.
   * @param isOmitted - Returns by its name whether a block is left out. Default: none.
   */
  async copyAll(
    onProgress: ((bytes: number) => void) | undefined,
    isOmitted: (name: string) => boolean = () => false,
  ): Promise<void> {
    const pages = this.#pages;
    let done = 0;
    for (const [index, { name, usedLength }] of pages.blocks.entries()) {
      if (isOmitted(name)) continue;
      let at = 0;
      for (const extent of pages.extents(index)) {
        await this.#zeros(index, at, extent.at);
        await this.#copy(index, extent.at, extent.length);
        at = extent.at + extent.length;
        onProgress?.(done + at);
      }
      await this.#zeros(index, at, usedLength);
      done += usedLength;
      onProgress?.(done);
    }
  }

  /** Write zeros from byte `at` to byte `end` of a block. */
  async #zeros(block: number, at: number, end: number): Promise<void> {
    const { pageSize } = this.#pages;
    for (let from = at; from < end; ) {
      const count = Math.min((end - from) / pageSize, MAX_ZERO_RUN);
      this.#target.zero(block, from, count);
      from += count * pageSize;
      await this.#ready();
    }
  }

  /** Write the contents of a block from byte `at`. */
  async #copy(block: number, at: number, length: number): Promise<void> {
    for (let done = 0; done < length; ) {
      const take = Math.min(CHUNK_BYTES, length - done);
      const buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES);
      const bytes = take === CHUNK_BYTES ? buffer : buffer.subarray(0, take);
      const reading = this.#pages.read(block, at + done, bytes);
      if (reading !== undefined) await reading;
      this.#write(block, at + done, bytes, buffer);
      done += take;
      await this.#ready();
    }
  }

  /** Write pages in runs: of zeros, and of others by reference. */
  #write(block: number, offset: number, bytes: Buffer, buffer: Buffer): void {
    const target = this.#target;
    const zeroPage = this.#zeroPage;
    const { pageSize } = this.#pages;
    const { length } = bytes;
    let references = 1;
    const release = (): void => {
      references -= 1;
      if (references === 0) this.#free.push(buffer);
    };
    let from = 0;
    let isZero = zeroPage.isAt(bytes, 0);
    while (from < length) {
      const wasZero = isZero;
      let end = from;
      do {
        end += pageSize;
        if (end < length) isZero = zeroPage.isAt(bytes, end);
      } while (end < length && isZero === wasZero);
      if (wasZero) {
        target.zero(block, offset + from, (end - from) / pageSize);
      } else {
        references += 1;
        target.page(block, offset + from, bytes.subarray(from, end), release);
      }
      from = end;
    }
    release();
  }

  async #ready(): Promise<void> {
    const signal = this.#signal;
    if (signal?.aborted) throw abortError(signal, 'writeSavedGuest');
    await this.#target.ready();
  }
}

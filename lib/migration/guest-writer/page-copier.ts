import { abortError } from '../../contract/errors.ts';
import { noop } from '../../util/noop.ts';
import type { PageSource } from '../page-source/page-source.ts';
import type { PageTarget } from './page-target.ts';
import { ZeroRunSplitter } from './zero-run-splitter.ts';

/** Bytes that are read from the source at a time. */
const CHUNK_BYTES = 1_048_576;
/** Most pages of zeros that are written without asking whether the target is full. */
export const MAX_ZERO_RUN = 16_384;

/** A part of a block that is being read. */
interface Chunk {
  readonly block: number;
  readonly offset: number;
  readonly bytes: Buffer;
  readonly reading: Promise<void> | void;
}

/** Copies pages of a source to a target, pages of zeros apart. One chunk is read while the one before is written. */
export class PageCopier {
  readonly #pages: PageSource;
  readonly #target: PageTarget;
  readonly #signal: AbortSignal | undefined;
  readonly #splitter: ZeroRunSplitter;
  readonly #buffers: readonly Buffer[] = [
    Buffer.allocUnsafeSlow(CHUNK_BYTES),
    Buffer.allocUnsafeSlow(CHUNK_BYTES),
  ];
  #reads = 0;
  /** The chunk that is read and not yet written. */
  #next: Chunk | null = null;

  constructor(pages: PageSource, target: PageTarget, signal: AbortSignal | undefined) {
    this.#pages = pages;
    this.#target = target;
    this.#signal = signal;
    this.#splitter = new ZeroRunSplitter(target, pages.pageSize);
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
        if (extent.at > at) await this.#zeros(index, at, extent.at);
        await this.#copy(index, extent.at, extent.length);
        at = extent.at + extent.length;
        onProgress?.(done + at);
      }
      await this.#zeros(index, at, usedLength);
      done += usedLength;
      onProgress?.(done);
    }
    await this.#writeNext();
  }

  /** Write zeros from byte `at` to byte `end` of a block. */
  async #zeros(block: number, at: number, end: number): Promise<void> {
    await this.#writeNext();
    const { pageSize } = this.#pages;
    for (let from = at; from < end; ) {
      const count = Math.min((end - from) / pageSize, MAX_ZERO_RUN);
      this.#target.zero(block, from, count);
      from += count * pageSize;
      await this.#ready();
    }
  }

  /** Write the contents of a block from byte `at`; the last chunk stays for `#writeNext`. */
  async #copy(block: number, at: number, length: number): Promise<void> {
    for (let done = 0; done < length; ) {
      const take = Math.min(CHUNK_BYTES, length - done);
      const buffer = this.#buffers[this.#reads % 2] as Buffer;
      this.#reads += 1;
      const bytes = take === CHUNK_BYTES ? buffer : buffer.subarray(0, take);
      const offset = at + done;
      const reading = this.#pages.read(block, offset, bytes);
      // Its failure is thrown when the chunk is written, unless the one before fails.
      reading?.catch(noop);
      await this.#writeNext();
      this.#next = { block, offset, bytes, reading };
      done += take;
    }
  }

  /** Write the chunk that was read last. */
  async #writeNext(): Promise<void> {
    const chunk = this.#next;
    if (chunk === null) return;
    this.#next = null;
    const { block, offset, bytes, reading } = chunk;
    if (reading !== undefined) await reading;
    this.#splitter.write(block, offset, bytes);
    await this.#ready();
  }

  async #ready(): Promise<void> {
    const signal = this.#signal;
    if (signal?.aborted) throw abortError(signal, 'writeSavedGuest');
    await this.#target.ready();
  }
}

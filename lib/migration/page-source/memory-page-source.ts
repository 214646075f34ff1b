import { QemuFileError } from '../../contract/errors.ts';
import type { Extent } from '../memory/ram-image.ts';
import type { LivePageSource } from './live-page-source.ts';
import type { PageSourceBlock } from './page-source.ts';

/** A block of memory that a program owns. */
export interface MemoryBlock {
  /** Name of the RAM block, as QEMU has it. */
  readonly name: string;
  /** The contents; a multiple of the page size. */
  readonly memory: Uint8Array;
}

const PAGE_SIZE = 4096;

/** Memory of a program as guest memory. The program reports its changes with `markDirty`. */
export class MemoryPageSource implements LivePageSource {
  readonly pageSize: number;
  readonly blocks: readonly PageSourceBlock[];
  readonly #memory: readonly Uint8Array[];
  /** A bit for each page that changed since the last `dirty`. */
  readonly #dirty: readonly Uint32Array[];

  /**
   * @param blocks - The blocks, in the order in which they are listed.
   * @param pageSize - Bytes of a target page. Default 4096.
   * @throws {QemuFileError} `EINVAL` for a block that is not a whole number of pages.
   */
  constructor(blocks: readonly MemoryBlock[], pageSize: number = PAGE_SIZE) {
    this.pageSize = pageSize;
    for (const { name, memory } of blocks) {
      if (memory.length % pageSize === 0) continue;
      const reason = `"${name}" of ${memory.length} bytes is not a whole number of pages of ${pageSize} bytes`;
      throw new QemuFileError('EINVAL', reason, { operation: 'MemoryPageSource' });
    }
    this.#memory = blocks.map(({ memory }) => memory);
    this.#dirty = blocks.map(
      ({ memory }) => new Uint32Array(Math.ceil(memory.length / pageSize / 32)),
    );
    this.blocks = blocks.map(({ name, memory }) => ({
      name,
      usedLength: memory.length,
      hostPageSize: null,
      address: null,
    }));
  }

  /**
   * Report that bytes of a block changed. Call it after the change.
   *
   * @param block - Number of the block.
   * @param offset - Offset in the block, in bytes.
   * @param length - Number of bytes.
   * @throws {QemuFileError} `EINVAL` for bytes outside the block.
   */
  markDirty(block: number, offset: number, length: number): void {
    const memory = this.#memory[block];
    const words = this.#dirty[block];
    const isInside = memory !== undefined && offset >= 0 && offset + length <= memory.length;
    if (words === undefined || !isInside) {
      const reason = `${length} bytes at ${offset} are outside block ${block}`;
      throw new QemuFileError('EINVAL', reason, { operation: 'markDirty' });
    }
    const end = Math.ceil((offset + length) / this.pageSize);
    for (let page = Math.floor(offset / this.pageSize); page < end; page++) {
      words[page >>> 5] = (words[page >>> 5] as number) | (1 << (page & 31));
    }
  }

  *extents(block: number): Generator<Extent> {
    const length = this.#memory[block]?.length ?? 0;
    if (length > 0) yield { at: 0, length };
  }

  read(block: number, offset: number, target: Uint8Array): void {
    const memory = this.#memory[block] as Uint8Array;
    target.set(memory.subarray(offset, offset + target.length));
  }

  view(block: number, offset: number, length: number): Uint8Array {
    return (this.#memory[block] as Uint8Array).subarray(offset, offset + length);
  }

  dirty(block: number, bitmap: Uint32Array): void {
    const words = this.#dirty[block] as Uint32Array;
    for (let at = 0; at < words.length; at++) {
      bitmap[at] = (bitmap[at] as number) | (words[at] as number);
    }
    words.fill(0);
  }
}

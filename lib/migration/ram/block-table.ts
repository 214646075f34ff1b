import { printable } from '../../util/format.ts';
import type { RamBlock } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';

/** Page size of nearly every target, assumed until the stream states another. */
const DEFAULT_PAGE_SIZE = 4096;

/** Called with all blocks when blocks are added or the page size changes; awaited. */
export type BlocksListener = (
  blocks: readonly RamBlock[],
  pageSize: number,
) => void | Promise<void>;

/** The RAM blocks of a guest and its page size. */
export class BlockTable {
  readonly #onChange: BlocksListener;
  readonly #byName = new Map<string, RamBlock>();
  #blocks: readonly RamBlock[] = [];
  #pageSize: number = DEFAULT_PAGE_SIZE;
  #isPageSizeKnown = false;

  constructor(onChange: BlocksListener) {
    this.#onChange = onChange;
  }

  /** The blocks in the order of the stream's list; empty before the list has come. */
  get blocks(): readonly RamBlock[] {
    return this.#blocks;
  }

  /** Bytes of a target page. */
  get pageSize(): number {
    return this.#pageSize;
  }

  /** Whether the page size is known, and not the default. */
  get isPageSizeKnown(): boolean {
    return this.#isPageSizeKnown;
  }

  /** Return the block of this name. */
  find(name: string): RamBlock | undefined {
    return this.#byName.get(name);
  }

  /** Set the list of blocks. */
  async setBlocks(blocks: readonly RamBlock[]): Promise<void> {
    this.#blocks = blocks;
    for (const block of blocks) this.#byName.set(block.name, block);
    await this.#onChange(blocks, this.#pageSize);
  }

  /**
   * Set the page size.
   *
   * @param bytes - Bytes of a target page.
   * @param position - Offset in the stream of the field that states it.
   * @throws {MigrationStreamError} (rejects) `corrupt` if a block is not a whole number of such pages.
   */
  async setPageSize(bytes: number, position: number): Promise<void> {
    const misfit = this.#blocks.find(({ usedLength }) => usedLength % bytes !== 0);
    if (misfit !== undefined) {
      const block = `RAM block "${printable(misfit.name)}" of ${misfit.usedLength} bytes`;
      const reason = `${block} is not a whole number of pages of ${bytes} bytes`;
      throw new MigrationStreamError('corrupt', reason, { position });
    }
    this.#isPageSizeKnown = true;
    if (bytes === this.#pageSize) return;
    this.#pageSize = bytes;
    if (this.#blocks.length > 0) await this.#onChange(this.#blocks, bytes);
  }
}

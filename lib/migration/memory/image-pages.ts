import type { RamBlock } from '../format/events.ts';
import type { PageSource, PageSourceBlock } from './page-source.ts';
import type { Extent, RamImage } from './ram-image.ts';

/** The pages of a `RamImage` as a source, once its stream was read. */
export class ImagePages implements PageSource {
  readonly pageSize: number;
  readonly blocks: readonly PageSourceBlock[];
  readonly #image: RamImage;
  readonly #blocks: readonly RamBlock[];

  /**
   * @param image - Closed by `close()`. It must keep the pages of all blocks.
   * @param blocks - The blocks, as the reader of the stream has them.
   */
  constructor(image: RamImage, blocks: readonly RamBlock[], pageSize: number) {
    this.#image = image;
    this.#blocks = blocks;
    this.blocks = blocks;
    this.pageSize = pageSize;
  }

  extents(block: number): Iterable<Extent> {
    return this.#image.extents(this.#blocks[block] as RamBlock);
  }

  read(block: number, offset: number, target: Uint8Array): void {
    this.#image.read(this.#blocks[block] as RamBlock, offset, target);
  }

  close(): void {
    this.#image.close();
  }
}

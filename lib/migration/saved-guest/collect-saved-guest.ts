import type { PageVisitor, RamBlock } from '../format/events.ts';
import type { StreamSource } from '../format/stream-source.ts';
import type { PageStore } from '../memory/page-store.ts';
import { type Extent, RamImage } from '../memory/ram-image.ts';
import type { PageSource, PageSourceBlock } from '../page-source/page-source.ts';
import { type CollectFrameOptions, collectFrame } from './collect-frame.ts';
import type { SavedGuest } from './saved-guest.ts';

/** Options of `collectSavedGuest`. */
export interface CollectSavedGuestOptions extends CollectFrameOptions {
  /** Return the store for the contents of a block. The caller closes it, after the guest. */
  store: (block: RamBlock) => PageStore;
}

/**
 * Read a stream of any kind to its end and keep the guest, its memory in a store of the caller.
 *
 * @param source - A `QemuFile`, or chunks of bytes. Its next byte is the stream's first. It stays open.
 * @param options - Where the memory is kept, and facts that the caller knows about the stream.
 * @returns The guest. Closing it does not close the stores.
 * @throws {MigrationStreamError} (rejects) as `MigrationReader`; `unsupported` for a stream without RAM, with its
 *   pages in channels that were not given, or with a command that QEMU does not know; `truncated` if pages that postcopy
 *   discarded did not come after that.
 * @throws {QemuFileError} (rejects) the errors of the source and the stores.
 * @example
 * ```js
 * using scratch = openScratchStore();
 * const guest = await collectSavedGuest(createReadStream('vm.mig'), { store: scratch.store });
 * ```
 */
export async function collectSavedGuest(
  source: StreamSource,
  options: CollectSavedGuestOptions,
): Promise<SavedGuest> {
  const image = new RamImage({ store: options.store });
  let blocks: readonly RamBlock[] = [];
  let pageSize = 0;
  const pages: PageVisitor = {
    blocks(listed, size) {
      blocks = listed;
      pageSize = size;
      image.blocks(listed, size);
    },
    page: (block, offset, bytes) => image.page(block, offset, bytes),
    zero: (block, offset, count) => image.zero(block, offset, count),
    xbzrle: (block, offset, encoded) => image.xbzrle(block, offset, encoded),
  };
  const frame = await collectFrame(source, pages, options);
  return { ...frame, pages: new ImagePages(image, blocks, pageSize), close: async () => {} };
}

/** The guest memory of an image. */
class ImagePages implements PageSource {
  readonly pageSize: number;
  readonly blocks: readonly PageSourceBlock[];
  readonly #image: RamImage;
  readonly #blocks: readonly RamBlock[];

  constructor(image: RamImage, blocks: readonly RamBlock[], pageSize: number) {
    this.#image = image;
    this.#blocks = blocks;
    this.pageSize = pageSize;
    this.blocks = blocks.map(({ name, usedLength, hostPageSize, address }) => {
      return { name, usedLength, hostPageSize, address };
    });
  }

  extents(block: number): Iterable<Extent> {
    return this.#image.extents(this.#blocks[block] as RamBlock);
  }

  read(block: number, offset: number, target: Uint8Array): void {
    this.#image.read(this.#blocks[block] as RamBlock, offset, target);
  }
}

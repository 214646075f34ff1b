import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import type { FoundDescription } from '../devices/find-vm-description.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { openSource, type StreamSource } from '../format/stream-source.ts';
import type { PageSource, PageSourceBlock } from '../memory/page-source.ts';
import type { PageStore } from '../memory/page-store.ts';
import { type Extent, RamImage } from '../memory/ram-image.ts';
import { MigrationReader } from '../reader/migration-reader.ts';
import { hasPagesElsewhere } from './multifd-pages.ts';
import { readFrame, type StreamBytes } from './read-frame.ts';
import type { SavedGuest } from './saved-guest.ts';

/** Options of `collectSavedGuest`. */
export interface CollectSavedGuestOptions {
  /** Return the store for the contents of a block. The caller closes it, after the guest. */
  store: (block: RamBlock) => PageStore;
  /** The additional channels of the migration; as for `MigrationReader`. */
  channels?: readonly StreamSource[] | undefined;
  /** What may be the VM description, if it was looked up at the end of the file; as for `MigrationReader`. */
  description?: FoundDescription | undefined;
  /** Offset in its file of the stream's first byte; as for `MigrationReader`. Default 0. */
  fileOffset?: number | undefined;
  /** Called with each fault after which the stream can still be read. Default: the first one is thrown. */
  onFault?: ((fault: MigrationStreamError) => void) | undefined;
}

/**
 * Read a stream of any kind to its end and keep the guest, its memory in a store of the caller.
 *
 * @param source - A `QemuFile`, or chunks of bytes. Its next byte is the stream's first. It stays open.
 * @param options - Where the memory is kept, and what is known about the stream.
 * @returns The guest. Closing it does not close the stores.
 * @throws {MigrationStreamError} (rejects) as `MigrationReader`; `unsupported` for a stream without RAM, or with its
 *   pages in channels that are not given.
 * @throws {QemuFileError} (rejects) the errors of the source and the stores.
 * @example
 * ```js
 * using scratch = openScratchStore();
 * const guest = await collectSavedGuest(process.stdin, { store: scratch.store });
 * ```
 */
export async function collectSavedGuest(
  source: StreamSource,
  options: CollectSavedGuestOptions,
): Promise<SavedGuest> {
  const { store, channels, description, fileOffset, onFault } = options;
  const image = new RamImage({ store });
  const opened = openSource(source);
  const passed = new PassedBytes(opened.file);
  const pages: PageVisitor = {
    blocks: (blocks, pageSize) => image.blocks(blocks, pageSize),
    page(block, offset, bytes) {
      image.page(block, offset, bytes);
      passed.release(reader.position - bytes.length);
    },
    zero: (block, offset, count) => image.zero(block, offset, count),
    xbzrle(block, offset, encoded) {
      image.xbzrle(block, offset, encoded);
      passed.release(reader.position - encoded.length);
    },
  };
  const reader: MigrationReader = new MigrationReader(passed.file, {
    pages,
    channels,
    description,
    fileOffset,
    onFault,
  });
  try {
    const frame = await readFrame(reader, passed);
    if ((channels ?? []).length === 0 && hasPagesElsewhere(reader)) {
      const reason = 'its pages are in multifd channels, which were not given';
      throw new MigrationStreamError('unsupported', reason, {});
    }
    const { blocks, pageSize } = reader.ram;
    return { ...frame, pages: new ImagePages(image, blocks, pageSize), close: async () => {} };
  } finally {
    await passed.file.close().catch(noop);
    await opened.close();
  }
}

/** A file that passes on the bytes of another one, and remembers those that were not released. */
class PassedBytes implements StreamBytes {
  readonly file: QemuFile;
  readonly #chunks: Buffer[] = [];
  /** Offset in the stream of the first remembered byte. */
  #from = 0;

  constructor(source: QemuFile) {
    this.file = new QemuFile({
      getBuffer: async () => {
        if (source.lookedAhead === 0 && (await source.fillOrEnd(1)) === 0) return 0;
        const chunk = source.getBuffer(source.lookedAhead);
        this.#chunks.push(chunk);
        return chunk;
      },
    });
  }

  take(from: number, to: number): Uint8Array {
    const bytes = new Uint8Array(to - from);
    let at = this.#from;
    for (const chunk of this.#chunks) {
      const start = Math.max(from - at, 0);
      const end = Math.min(to - at, chunk.length);
      if (start < end) bytes.set(chunk.subarray(start, end), at + start - from);
      at += chunk.length;
    }
    return bytes;
  }

  release(before: number): void {
    let count = 0;
    for (const chunk of this.#chunks) {
      if (this.#from + chunk.length > before) break;
      this.#from += chunk.length;
      count += 1;
    }
    if (count > 0) this.#chunks.splice(0, count);
  }
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

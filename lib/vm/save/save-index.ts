import type { MigrationEvent, PageVisitor } from '../../migration/format/events.ts';
import { PageIndexBuilder } from '../../migration/page-index/page-index-builder.ts';
import type { RamTable } from '../../migration/ram/ram-table.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';

/** Size in bytes of the look-ahead, whose memory is used again and again. */
const LOOK_AHEAD_SIZE = 262_144;

/** Makes the page index of a stream while the check of a save reads it. */
export class SaveIndex {
  /** The stream; the check reads it from here. */
  readonly file: QemuFile;
  readonly #builder: PageIndexBuilder;
  #ram: RamTable | null = null;

  /** @param stream - The stream; it stays open. */
  static async create(stream: QemuFile): Promise<SaveIndex> {
    return new SaveIndex(stream, await PageIndexBuilder.create());
  }

  private constructor(stream: QemuFile, builder: PageIndexBuilder) {
    this.#builder = builder;
    this.file = new QemuFile(
      {
        async getBuffer(target) {
          const length = Math.min(target.length, await stream.fillOrEnd(1));
          const bytes = stream.getBufferInPlace(length);
          builder.addBytes(bytes);
          target.set(bytes);
          return length;
        },
      },
      { lookAheadSize: LOOK_AHEAD_SIZE },
    );
  }

  /** Receives the places of the pages. */
  get pages(): PageVisitor {
    return this.#builder.pages;
  }

  /** Add the next event of the check's reader. */
  addEvent(event: MigrationEvent, ram: RamTable): void {
    this.#ram = ram;
    this.#builder.addEvent(event);
  }

  /** Return the index; or, if the stream cannot be indexed, the reason as a clause. */
  finish(): Uint8Array | string {
    return this.#ram === null ? 'the stream is empty' : this.#builder.finish(this.#ram);
  }
}

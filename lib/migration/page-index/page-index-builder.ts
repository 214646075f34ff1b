import { toQemuFileError } from '../../contract/errors.ts';
import { Digest, loadDigest } from '../../util/digest.ts';
import type { MigrationEvent, PageVisitor } from '../format/events.ts';
import { LIMIT } from '../format/wire.ts';
import { DiscardedPages } from '../memory/discarded-pages.ts';
import type { RamTable } from '../ram/ram-table.ts';
import { EXTENT_BYTES } from '../stream-pages/extent-cache.ts';
import { PagePlaces } from '../stream-pages/page-places.ts';
import { decodePageIndex } from './decode-page-index.ts';
import { encodePageIndex } from './encode-page-index.ts';
import { lowerHalf, type Place } from './page-index.ts';

/**
 * Makes the index of a sequential stream while a reader reads it. Pass it the stream's bytes and the reader's events,
 * and pass `pages` to the reader as a page visitor.
 */
export class PageIndexBuilder {
  /** Receives the places of the pages. Never throws: what cannot be indexed must not fail the reading. */
  readonly pages: PageVisitor;
  readonly #places = new PagePlaces(() => false);
  readonly #discarded = new DiscardedPages();
  readonly #sections: Place[] = [];
  readonly #digests: number[] = [];
  #configuration: Place | null = null;
  #description: Place | null = null;
  #hasFooters = false;
  #digest: Digest;
  /** Bytes of the stream so far. */
  #size = 0;
  #problem: string | null = null;

  /** Return a builder, once the hash is loaded. */
  static async create(): Promise<PageIndexBuilder> {
    await loadDigest();
    return new PageIndexBuilder();
  }

  private constructor() {
    this.#digest = new Digest();
    const places = this.#places;
    const discarded = this.#discarded;
    this.pages = {
      blocks(blocks, pageSize) {
        places.blocks(blocks, pageSize);
        discarded.blocks(blocks, pageSize);
      },
      placed: (block, offset, length, position) => {
        if (this.#problem !== null) return;
        try {
          places.placed(block, offset, length, position);
          discarded.sent(block, offset, length);
        } catch (error) {
          this.#problem = toQemuFileError(error).reason;
        }
      },
      zero: (block, offset, count) => {
        if (this.#problem !== null) return;
        try {
          places.zero(block, offset, count);
          discarded.zero(block, offset, count);
        } catch (error) {
          this.#problem = toQemuFileError(error).reason;
        }
      },
      xbzrle: () => {
        this.#problem ??= 'it has XBZRLE pages';
      },
    };
  }

  /** Add the next bytes of the stream. */
  addBytes(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      const room = EXTENT_BYTES - (this.#size % EXTENT_BYTES);
      const part = bytes.subarray(at, at + room);
      this.#digest.update(part);
      at += part.length;
      this.#size += part.length;
      if (this.#size % EXTENT_BYTES === 0) this.#endExtent();
    }
  }

  /** Add the next event of the reader. */
  addEvent(event: MigrationEvent): void {
    try {
      this.#discarded.follow(event);
    } catch (error) {
      this.#problem ??= toQemuFileError(error).reason;
    }
    if (event.type === 'configuration') {
      this.#configuration = { from: event.offset, to: event.offset + event.bytes };
      if (event.configuration.capabilities.includes('mapped-ram')) {
        this.#problem ??= 'it is a mapped-ram file, whose bitmaps are its index';
      }
    } else if (event.type === 'sectionEnd') {
      const { name, kind, offset } = event.section;
      if (event.footer !== null) this.#hasFooters = true;
      if (name === 'ram' && (kind === 'part' || kind === 'end')) return;
      this.#addSection({ from: offset, to: event.footer ?? event.offset });
    } else if (event.type === 'vmDescription') {
      this.#description = { from: event.offset, to: event.offset + event.bytes };
    } else if (event.type === 'command' && event.command.name === 'UNKNOWN') {
      this.#problem ??= `it has the command ${event.number}, which QEMU does not know`;
    }
  }

  /**
   * Return the index, after the last byte and the last event; or, if the stream cannot be indexed, the reason as a
   * clause.
   *
   * @param ram - The RAM of the reader.
   */
  finish({ blocks, pageSize, usesMultifd }: RamTable): Uint8Array | string {
    if (usesMultifd) this.#problem ??= 'its pages are in multifd channels';
    if (blocks.length === 0) this.#problem ??= 'the stream has no section "ram"';
    this.#problem ??= this.#discarded.describe();
    if (this.#problem !== null) return this.#problem;
    if (this.#size % EXTENT_BYTES > 0) this.#endExtent();
    try {
      const bytes = encodePageIndex({
        pageSize,
        size: this.#size,
        blocks,
        configuration: this.#configuration,
        description: this.#description,
        hasFooters: this.#hasFooters,
        sections: this.#sections,
        runs: this.#places.finish(),
        digests: Uint32Array.from(this.#digests),
      });
      // An index that would be refused later must not be written.
      decodePageIndex(bytes);
      return bytes;
    } catch (error) {
      return toQemuFileError(error).reason;
    }
  }

  #endExtent(): void {
    this.#digests.push(lowerHalf(this.#digest));
    this.#digest = new Digest();
  }

  #addSection(place: Place): void {
    if (this.#sections.length < LIMIT.LISTED) this.#sections.push(place);
    else this.#problem ??= `it has more than ${LIMIT.LISTED} sections`;
  }
}

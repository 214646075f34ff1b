import { Digest } from '../../util/digest.ts';
import type { MigrationEvent, RamBlock, Section } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamSource } from '../format/stream-source.ts';
import { LIMIT } from '../format/wire.ts';
import type { MigrationReader } from '../reader/migration-reader.ts';
import type { BlockDigest, Manifest, SectionDigest } from './manifest.ts';

/*
 * Bytes pass here before the reader gets them, and which section they belong to is known only afterwards:
 * chunks are kept until then. Of RAM sections, which are large, they are used up while the reader is
 * at work in them; all else is small.
 *
 *   source ── through() ──► reader ── events ──► add()
 */

/** Bytes that are kept at most until it is known what they belong to; a reader may look half as far ahead. */
const MAX_HELD: number = 4 * LIMIT.DEVICE_TAIL;

interface Chunk {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Digests of a stream and of its sections, and with them its manifest. To be made once `loadDigest` is done. */
export class StreamDigests {
  readonly #whole = new Digest();
  readonly #sections: SectionDigest[] = [];
  #chunks: Chunk[] = [];
  /** All bytes that have passed. */
  #bytes = 0;
  /** Offset of the next byte that is not used up. */
  #used = 0;
  #section: Digest | null = null;
  #isRam = false;
  #machine: string | null = null;
  #reader: MigrationReader | null = null;

  /** The chunks of a source, noted on their way to a reader. */
  async *through(source: StreamSource): AsyncGenerator<Uint8Array, void> {
    for await (const bytes of source as AsyncIterable<Uint8Array>) {
      this.#whole.update(bytes);
      this.#chunks.push({ offset: this.#bytes, bytes });
      this.#bytes += bytes.length;
      yield bytes;
      // The reader wants more: it has gone through what it had, unless it looks for the end of a section,
      // which it gives up before so many bytes.
      const isMuch = this.#bytes - this.#used > MAX_HELD;
      if ((this.#isRam || isMuch) && this.#reader !== null) this.#use(this.#reader.position);
    }
  }

  /** Says which reader the chunks go to. */
  watch(reader: MigrationReader): void {
    this.#reader = reader;
  }

  /** Takes in the reader's next event. */
  add(event: MigrationEvent): void {
    if (event.type === 'configuration') {
      this.#machine = event.configuration.machine;
    } else if (event.type === 'section') {
      this.#use(event.section.offset);
      this.#section = new Digest();
      this.#isRam = event.section.name === 'ram';
    } else if (event.type === 'sectionEnd') {
      const { section } = event;
      this.#use(section.offset + section.bytes);
      if (this.#sections.length === LIMIT.LISTED) {
        const reason = `more than ${LIMIT.LISTED} sections and pieces of them are too many for a manifest`;
        throw new MigrationStreamError('unsupported', reason, { position: section.offset });
      }
      this.#sections.push(digestOf(section, this.#section as Digest));
      this.#section = null;
      this.#isRam = false;
    }
  }

  /**
   * Gives the manifest, once the reader is done and all chunks have passed.
   *
   * @param blocks - Null without RAM.
   * @param digest - XXH64 of what a block holds in the end.
   */
  async manifest(
    blocks: readonly RamBlock[] | null,
    pageSize: number,
    digest: (block: RamBlock) => Promise<string>,
  ): Promise<Manifest> {
    const digests: BlockDigest[] = [];
    for (const block of blocks ?? []) {
      const { name, usedLength } = block;
      digests.push({ name, usedLength, xxh64: await digest(block) });
    }
    return {
      format: 'qemu-file-manifest',
      version: 1,
      machine: this.#machine,
      bytes: this.#bytes,
      xxh64: this.#whole.hex(),
      sections: this.#sections,
      ram: blocks === null ? null : { pageSize, blocks: digests },
    };
  }

  /** Uses up bytes to an offset: for the section that is open, if one is. */
  #use(to: number): void {
    let done = 0;
    for (const { offset, bytes } of this.#chunks) {
      if (offset >= to) break;
      const end = Math.min(to - offset, bytes.length);
      if (this.#section !== null && end > this.#used - offset) {
        this.#section.update(bytes.subarray(Math.max(0, this.#used - offset), end));
      }
      if (end < bytes.length) break;
      done += 1;
    }
    this.#chunks.splice(0, done);
    this.#used = Math.max(this.#used, to);
  }
}

function digestOf(section: Section, digest: Digest): SectionDigest {
  const { sectionId, name, instanceId, kind, offset, bytes } = section;
  return { sectionId, name, instanceId, kind, offset, bytes, xxh64: digest.hex() };
}

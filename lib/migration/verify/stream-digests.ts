import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { Digest } from '../../util/digest.ts';
import type { MigrationEvent, RamBlock, Section } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamSource } from '../format/stream-source.ts';
import { LIMIT } from '../format/wire.ts';
import type { MigrationReader } from '../reader/migration-reader.ts';
import type { BlockDigest, Manifest, SectionDigest } from './manifest.ts';

/*
 * Bytes pass through here before the reader gets them; the section they belong to is known only afterwards.
 * Chunks are buffered until then. RAM sections are large, so their chunks are hashed while the reader is
 * inside the section; everything else is small.
 *
 *   source ── through() ──► reader ── events ──► add()
 */

/** Most bytes buffered until their section is known; the reader may look half as far ahead. */
const MAX_BUFFERED_BYTES: number = 4 * LIMIT.DEVICE_TAIL;

interface BufferedChunk {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Hashes a stream and its sections, and builds the manifest. Requires `loadDigest` to have finished. */
export class StreamDigests {
  readonly #whole = new Digest();
  readonly #hasSections: boolean;
  readonly #sections: SectionDigest[] = [];
  #chunks: BufferedChunk[] = [];
  /** Bytes that have passed. */
  #bytes = 0;
  /** The file whose chunks they are, which reads into them again once they are hashed. */
  #file: ReturnType<QemuFile['startTransfer']> | null = null;
  /** Offset of the next byte to hash. */
  #consumed = 0;
  #section: Digest | null = null;
  #isRam = false;
  #machine: string | null = null;
  #reader: MigrationReader | null = null;

  /** @param options - `sections: false` hashes the stream as a whole only; it has no manifest then. */
  constructor({ sections = true }: { sections?: boolean } = {}) {
    this.#hasSections = sections;
  }

  /** Yield the chunks of a source and record them on their way to the reader. */
  async *through(source: StreamSource): AsyncGenerator<Uint8Array, void> {
    for await (const bytes of source instanceof QemuFile ? this.#chunksOf(source) : source) {
      this.#whole.update(bytes);
      this.#chunks.push({ offset: this.#bytes, bytes });
      this.#bytes += bytes.length;
      yield bytes;
      // The reader asks for more, so it has consumed what it had, unless it scans for the end of a section.
      // It stops scanning before MAX_BUFFERED_BYTES.
      const isMuch = this.#bytes - this.#consumed > MAX_BUFFERED_BYTES;
      if ((this.#isRam || isMuch) && this.#reader !== null) this.#consume(this.#reader.position);
    }
  }

  async *#chunksOf(file: QemuFile): AsyncGenerator<Uint8Array, void> {
    const chunks = file.startTransfer();
    this.#file = chunks;
    for (;;) {
      const chunk = chunks.takeChunk();
      if (chunk !== null) yield chunk;
      else if (!(await chunks.waitForChunk())) break;
    }
    if (file.error !== null) throw file.error;
  }

  /** Set the reader that receives the chunks. */
  watch(reader: MigrationReader): void {
    this.#reader = reader;
  }

  /** Process the reader's next event. */
  add(event: MigrationEvent): void {
    if (event.type === 'configuration') {
      this.#machine = event.configuration.machine;
    } else if (event.type === 'section') {
      this.#consume(event.section.offset);
      this.#section = this.#hasSections ? new Digest() : null;
      this.#isRam = event.section.name === 'ram';
    } else if (event.type === 'sectionEnd') {
      const { section } = event;
      this.#consume(section.offset + section.bytes);
      this.#isRam = false;
      if (!this.#hasSections) return;
      if (this.#sections.length === LIMIT.LISTED) {
        const reason = `the stream has more than ${LIMIT.LISTED} sections, the most that a manifest can list`;
        throw new MigrationStreamError('unsupported', reason, { position: section.offset });
      }
      this.#sections.push(digestOf(section, this.#section as Digest));
      this.#section = null;
    }
  }

  /** Return whether the bytes that have passed are those that a manifest was made of. */
  matches({ bytes, xxh64 }: Manifest): boolean {
    return this.#bytes === bytes && this.#whole.hex() === xxh64;
  }

  /**
   * Return the manifest. Call it once the reader has finished and all chunks have passed.
   *
   * @param blocks - The RAM blocks; null for a stream without RAM.
   * @param pageSize - Page size in bytes.
   * @param digest - Returns the XXH64 of the final contents of a block, 16 hexadecimal digits.
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

  /** Hash the buffered bytes before an offset into the open section, if one is open, and drop them. */
  #consume(to: number): void {
    let done = 0;
    for (const { offset, bytes } of this.#chunks) {
      if (offset >= to) break;
      const end = Math.min(to - offset, bytes.length);
      if (this.#section !== null && end > this.#consumed - offset) {
        this.#section.update(bytes.subarray(Math.max(0, this.#consumed - offset), end));
      }
      if (end < bytes.length) break;
      done += 1;
      this.#file?.recycleChunk(bytes);
    }
    this.#chunks.splice(0, done);
    this.#consumed = Math.max(this.#consumed, to);
  }
}

function digestOf(section: Section, digest: Digest): SectionDigest {
  const { sectionId, name, instanceId, kind, offset, bytes } = section;
  return { sectionId, name, instanceId, kind, offset, bytes, xxh64: digest.hex() };
}

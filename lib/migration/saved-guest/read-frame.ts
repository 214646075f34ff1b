import type { MaybePromise } from '../../contract/ops.ts';
import type { Configuration, MigrationEvent, Section } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { unknownCommand } from '../format/unknown-command.ts';
import { LIMIT } from '../format/wire.ts';
import type { Place } from '../page-index/page-index.ts';
import type { MigrationReader } from '../reader/migration-reader.ts';
import type { SavedGuest, SavedSection } from './saved-guest.ts';

/** Most bytes of all sections other than `ram`. */
const MAX_SECTION_BYTES = 268_435_456;

/** Bytes of the type and the id of a section. */
const SHORT_HEADER_BYTES = 5;
/** Bytes of the length of a name, the instance and the version. */
const LONG_HEADER_BYTES = 9;

/** The bytes of a stream that is being read. */
export interface StreamBytes {
  /** Return a copy of a part that the reader has passed. */
  take(from: number, to: number): MaybePromise<Uint8Array>;
  /** Forget the bytes before a position. */
  release?(before: number): void;
}

/** A saved guest without its memory. */
export type GuestFrame = Omit<SavedGuest, 'pages' | 'close'>;

/**
 * Read a stream to its end, and keep everything except RAM.
 *
 * @param reader - Reads the stream; its visitor gets the pages.
 * @param bytes - The bytes of the same stream.
 * @param onEvent - Called with each event.
 * @param onPages - Called before the first section with pages, with the parts read so far; awaited.
 * @throws {MigrationStreamError} (rejects) as the reader; `unsupported` for a stream without RAM, with too much
 *   beside it, or with a command that QEMU does not know.
 */
export async function readFrame(
  reader: MigrationReader,
  bytes: StreamBytes,
  onEvent?: (event: MigrationEvent) => void,
  onPages?: (frame: GuestFrame) => Promise<void>,
): Promise<GuestFrame> {
  const frame = new Frame(bytes);
  let hasPages = false;
  for await (const event of reader) {
    await frame.add(event);
    onEvent?.(event);
    if (hasPages || onPages === undefined || event.type !== 'section') continue;
    const { name, kind } = event.section;
    if (name !== 'ram' || kind === 'start' || kind === 'full') continue;
    hasPages = true;
    await onPages(frame.finish(event.offset));
  }
  return frame.finish(reader.position);
}

/** The parts of a stream that were kept so far. */
export class Frame {
  readonly #bytes: StreamBytes;
  readonly #sections: SavedSection[] = [];
  #configuration: Configuration | null = null;
  #configurationBytes: Uint8Array | null = null;
  #descriptionText: Uint8Array | null = null;
  hasFooters = false;
  #ram: Section | null = null;
  #sectionsBeforeRam = 0;
  #kept = 0;

  constructor(bytes: StreamBytes) {
    this.#bytes = bytes;
  }

  /** Keep the contents of an event. */
  async add(event: MigrationEvent): Promise<void> {
    if (event.type === 'configuration') {
      const { offset, bytes, configuration } = event;
      await this.configure(configuration, { from: offset, to: offset + bytes });
    } else if (event.type === 'section') {
      this.#bytes.release?.(event.offset);
      this.begin(event.section);
    } else if (event.type === 'sectionEnd') {
      if (event.footer !== null) this.hasFooters = true;
      await this.keep(event.section, event.footer ?? event.offset);
    } else if (event.type === 'vmDescription') {
      const { offset, bytes } = event;
      await this.describe({ from: offset, to: offset + bytes });
    } else if (event.type === 'command' && event.command.name === 'UNKNOWN') {
      throw unknownCommand(event.number, event.offset);
    }
  }

  /** Keep the configuration section. */
  async configure(configuration: Configuration, { from, to }: Place): Promise<void> {
    this.#configuration = configuration;
    this.#configurationBytes = await this.#bytes.take(from, to);
  }

  /** Keep the VM description. */
  async describe({ from, to }: Place): Promise<void> {
    this.#descriptionText = await this.#bytes.take(from + SHORT_HEADER_BYTES, to);
  }

  /** Note that a section begins. */
  begin(section: Section): void {
    if (section.name !== 'ram' || section.kind !== 'start') return;
    this.#ram = section;
    this.#sectionsBeforeRam = this.#sections.length;
  }

  /** Keep a section's body, which ends at `end`. */
  async keep(section: Section, end: number): Promise<void> {
    const { kind, sectionId, name, instanceId, versionId, offset } = section;
    if (name === 'ram' && kind !== 'full') return;
    const isLong = kind === 'start' || kind === 'full';
    const header = SHORT_HEADER_BYTES + (isLong ? LONG_HEADER_BYTES + Buffer.byteLength(name) : 0);
    const start = offset + header;
    this.#kept += end - start;
    if (this.#kept > MAX_SECTION_BYTES || this.#sections.length >= LIMIT.LISTED) {
      const reason = `the sections other than "ram" are more than ${LIMIT.LISTED} or have more than ${MAX_SECTION_BYTES} bytes`;
      throw new MigrationStreamError('unsupported', reason, { position: offset, section });
    }
    const body = await this.#bytes.take(start, end);
    this.#sections.push({ kind, sectionId, name, instanceId, versionId, body });
  }

  finish(position: number): GuestFrame {
    const ram = this.#ram;
    if (ram === null) {
      const reason = 'the stream has no section "ram"';
      throw new MigrationStreamError('unsupported', reason, { position });
    }
    const { sectionId, instanceId, versionId } = ram;
    return {
      configuration: this.#configuration,
      configurationBytes: this.#configurationBytes,
      hasFooters: this.hasFooters,
      ram: { sectionId, instanceId, versionId },
      sections: [...this.#sections],
      sectionsBeforeRam: this.#sectionsBeforeRam,
      descriptionText: this.#descriptionText,
    };
  }
}

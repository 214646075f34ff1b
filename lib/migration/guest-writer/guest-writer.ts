import { QemuFileError } from '../../contract/errors.ts';
import type { Configuration } from '../format/events.ts';
import type { PageSourceBlock } from '../page-source/page-source.ts';
import type { GuestFrame } from '../saved-guest/read-frame.ts';
import type { SavedSection } from '../saved-guest/saved-guest.ts';
import { MappedRamWriter } from '../writer/mapped-ram-writer.ts';
import type { MigrationWriter } from '../writer/migration-writer.ts';
import type { PageTarget } from './page-target.ts';

const MAPPED_RAM = 'mapped-ram';
const IGNORE_SHARED = 'x-ignore-shared';

/** Where the pages of a stream lie: as records in one section, or each at a place of its own in the file. */
export type StreamLayout = 'sequential' | 'mapped-ram';

/** Writes a guest as a stream of one round: what precedes the pages, then the pages, then the rest. */
export class GuestWriter {
  readonly #writer: MigrationWriter;
  readonly #layout: StreamLayout;
  readonly #signal: AbortSignal | undefined;
  #mapped: MappedRamWriter | null = null;
  /** Sections that were written before the pages. */
  #written = 0;

  /** @param writer - A writer with nothing written. Its file is flushed, not closed. */
  constructor(writer: MigrationWriter, layout: StreamLayout, signal: AbortSignal | undefined) {
    this.#writer = writer;
    this.#layout = layout;
    this.#signal = signal;
  }

  /**
   * Write everything that precedes the pages.
   *
   * @param frame - The guest; of its sections, those that precede the pages are enough.
   * @param blocks - Its RAM blocks.
   * @returns Where the pages go.
   * @throws {QemuFileError} (rejects) `ENOTSUP` for a guest that cannot be in a mapped-ram file: of an old machine
   *   type, or with shared memory; the error of the file.
   */
  async begin(frame: GuestFrame, blocks: readonly PageSourceBlock[]): Promise<PageTarget> {
    const writer = this.#writer;
    const isMapped = this.#layout === 'mapped-ram';
    const configured = configurationOf(frame, isMapped);
    writer.header();
    if (configured !== null) writer.configuration(configured);
    const before = frame.sections.slice(0, frame.sectionsBeforeRam ?? 0);
    for (const section of before) writer.section(section, section.body);
    writer.beginSection({ ...frame.ram, name: 'ram', kind: 'start' });
    if (isMapped) {
      this.#mapped = new MappedRamWriter(writer.file, writer.ram.pageSize);
      await this.#mapped.listBlocks(blocks);
    } else {
      writer.ram.listBlocks(listedBlocks(frame, blocks));
    }
    writer.endSection();
    this.#written = before.length + this.#writeSections(frame, 'start');
    if (this.#mapped !== null) return this.#mapped;
    writer.beginSection({ ...frame.ram, name: 'ram', kind: 'part' });
    return recordTarget(writer, this.#signal);
  }

  /**
   * Return whether a guest has sections which the pages should have followed, and which `begin` did not know.
   *
   * @param frame - The whole guest.
   */
  lacksSections(frame: GuestFrame): boolean {
    const before = frame.sectionsBeforeRam ?? 0;
    const started = frame.sections.slice(before).filter(({ kind }) => kind === 'start');
    return before + started.length !== this.#written;
  }

  /**
   * Write everything that follows the pages.
   *
   * @param frame - The whole guest.
   * @param mustDescribe - Write a VM description even if the guest has none.
   * @throws {QemuFileError} (rejects) the error of the file.
   */
  async end(frame: GuestFrame, mustDescribe: boolean): Promise<void> {
    const writer = this.#writer;
    const { descriptionText } = frame;
    if (this.#mapped === null) writer.endSection();
    else await this.#mapped.finish();
    this.#writeSections(frame, 'part');
    writer.beginSection({ ...frame.ram, name: 'ram', kind: 'end' });
    writer.endSection();
    this.#writeSections(frame, 'end');
    this.#writeSections(frame, 'full');
    writer.end();
    if (descriptionText !== null) writer.vmDescription(descriptionText);
    else if (mustDescribe) writer.vmDescription();
    await writer.file.flush({ signal: this.#signal });
  }

  /** Write the sections of a kind that did not come before `ram`; return their number. */
  #writeSections(frame: GuestFrame, kind: SavedSection['kind']): number {
    const later = frame.sections.slice(frame.sectionsBeforeRam ?? 0);
    const sections = later.filter((section) => section.kind === kind);
    for (const section of sections) this.#writer.section(section, section.body);
    return sections.length;
  }
}

/** Return the configuration as it was sent, unless the layout needs another. */
function configurationOf(
  { configuration, configurationBytes }: GuestFrame,
  isMapped: boolean,
): Configuration | Uint8Array | null {
  const refuse = (why: string): never => {
    const reason = `the guest cannot be in a mapped-ram file: ${why}`;
    throw new QemuFileError('ENOTSUP', reason, { operation: 'writeSavedGuest' });
  };
  if (configuration === null) {
    return isMapped ? refuse('its machine type has no configuration section') : null;
  }
  const { capabilities } = configuration;
  if (isMapped && capabilities.includes(IGNORE_SHARED)) refuse(`it has ${IGNORE_SHARED}`);
  if (capabilities.includes(MAPPED_RAM) === isMapped && configurationBytes !== null) {
    return configurationBytes;
  }
  const others = capabilities.filter((name) => name !== MAPPED_RAM);
  return { ...configuration, capabilities: isMapped ? [...others, MAPPED_RAM] : others };
}

/** Return the blocks with the fields that QEMU expects in a list: host page sizes belong to postcopy. */
function listedBlocks(
  { configuration }: GuestFrame,
  blocks: readonly PageSourceBlock[],
): PageSourceBlock[] {
  const isShared = configuration?.capabilities.includes(IGNORE_SHARED) === true;
  return blocks.map(({ name, usedLength, address }) => ({
    name,
    usedLength,
    hostPageSize: null,
    address: isShared ? (address ?? 0n) : null,
  }));
}

/** Return a target that writes pages as records of the open section. */
function recordTarget({ ram, file }: MigrationWriter, signal: AbortSignal | undefined): PageTarget {
  return {
    page: (block, offset, bytes) => ram.page(block, offset, bytes),
    zero: (block, offset, count) => ram.zero(block, offset, count),
    ready: () => (file.rateLimitExceeded() ? file.drain({ signal }) : undefined),
  };
}

import { channels } from '../../contract/diagnostics-channels.ts';
import { skipToFooter } from '../devices/scan-for-footer.ts';
import type { DeviceSection, MigrationEvent, Section, SectionKind } from '../format/events.ts';
import { quoteSection } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM } from '../format/wire.ts';
import type { RamSections } from '../ram/ram-sections.ts';
import { HandlerSections } from '../savevm-handlers/handler-sections.ts';
import type { StreamState } from './stream-state.ts';

const FOOTER_BYTES = 5;

/** QEMU's names of the items that are sections. */
const ITEM_NAMES = {
  start: 'SECTION_START',
  part: 'SECTION_PART',
  end: 'SECTION_END',
  full: 'SECTION_FULL',
} as const;

/** Reads the sections of one stream: header, body, footer. */
export class SectionReader {
  readonly #state: StreamState;
  readonly #ram: RamSections;
  readonly #fileOffset: number;
  readonly #handlers: HandlerSections;
  #hasWarnedScanned = false;
  /** Ids of live sections of unknown layout. */
  readonly #unknown = new Set<number>();
  /** The section that was read last. */
  previous: Section | null = null;

  /** @param fileOffset - Offset in its file of the stream's first byte. */
  constructor(state: StreamState, ram: RamSections, fileOffset: number) {
    this.#state = state;
    this.#ram = ram;
    this.#fileOffset = fileOffset;
    this.#handlers = new HandlerSections(state.diagnostics);
  }

  /** Read a section, after its type byte. */
  async *read(
    input: StreamInput,
    kind: SectionKind,
    inPackage: boolean,
  ): AsyncGenerator<MigrationEvent, void> {
    const section = await this.#state.sections.read(input, kind);
    this.previous = section;
    input.section = section;
    if (channels.migrationSection.hasSubscribers) publish(section);
    yield { type: 'section', offset: section.offset, section };
    yield* this.#body(input, section, inPackage);
    const footer = await this.#footer(input, section);
    section.bytes = input.position - section.offset;
    yield { type: 'sectionEnd', offset: input.position, section, footer };
  }

  /** Warn, once, if the ends of device sections were found by their footers. */
  *warnScanned(offset: number): Generator<MigrationEvent, void> {
    if (!this.#state.devices.hasScanned || this.#hasWarnedScanned) return;
    this.#hasWarnedScanned = true;
    const cause = this.#state.isXen
      ? 'this is device state of Xen (xen-save-devices-state), which has no VM description'
      : 'there is no VM description';
    const message =
      `${cause}: the ends of device sections were found by looking for footers, ` +
      'and their state is not decoded';
    yield { type: 'warning', offset, message };
  }

  async *#body(
    input: StreamInput,
    section: Section,
    inPackage: boolean,
  ): AsyncGenerator<MigrationEvent, void> {
    const { configuration, footers, advisedPageSizes, devices, isSearched } = this.#state;
    if (section.name === 'ram' && section.kind !== 'full') {
      const capabilities = configuration?.capabilities ?? [];
      yield* this.#ram.read(input, section, {
        advisedPageSizes,
        ignoreShared: capabilities.includes('x-ignore-shared'),
        isMapped: capabilities.includes('mapped-ram'),
        fileOffset: this.#fileOffset,
      });
      return;
    }
    if (await this.#skipHandler(input, section)) return;
    if (section.kind !== 'full') return this.#skipUnknown(input, section);
    const keep = !inPackage && !isSearched;
    const device = await devices.read(input, section, footers ?? configuration !== null, keep);
    if (device !== null) yield deviceEvent(device);
    yield* this.warnScanned(section.offset);
  }

  async #skipHandler(input: StreamInput, section: Section): Promise<boolean> {
    const { name, kind, versionId } = section;
    // A section that is described has a known length.
    if (kind === 'full' && this.#state.devices.isExpected(section)) return false;
    if ((await this.#handlers.skip(name, kind, versionId, input)) === null) return false;
    if (this.#handlers.isEndOptional(name)) this.#state.sections.makeEndOptional(section.sectionId);
    return true;
  }

  /** Skip a body of a live section that QEMU does not have: vendors and forks add their own. */
  async #skipUnknown(input: StreamInput, section: Section): Promise<void> {
    const { footers, configuration, sections, diagnostics } = this.#state;
    const { sectionId, offset } = section;
    if (!(footers ?? configuration !== null)) {
      const reason =
        'the section has an unknown layout and cannot be skipped without section footers';
      throw input.error('unsupported', reason, offset);
    }
    const bytes = await skipToFooter(input, sectionId, (id) => sections.isIterable(id));
    sections.makeEndOptional(sectionId);
    this.#state.unknownSection ??= quoteSection(section);
    if (this.#unknown.has(sectionId)) return;
    this.#unknown.add(sectionId);
    const reason = `the layout is unknown: ${bytes} bytes were skipped up to the section footer, unchecked, and so are its further pieces`;
    diagnostics.warn(reason, offset, section);
  }

  /** Read a section's footer; return its offset, null in a stream without footers. */
  async #footer(input: StreamInput, section: Section): Promise<number | null> {
    const state = this.#state;
    const at = input.position;
    await input.need(1, 'a section footer');
    const isFooter = input.file.peekByte(0) === ITEM.FOOTER;
    state.footers ??= isFooter;
    if (!state.footers && !isFooter) return null;
    if (state.footers !== isFooter) {
      const problem = isFooter
        ? 'a section footer, although the sections before it have none'
        : 'no section footer after its body';
      throw input.error('corrupt', `${problem}: bytes are missing or damaged`, at);
    }
    await input.need(FOOTER_BYTES, 'a section footer');
    input.u8();
    const sectionId = input.be32();
    if (sectionId !== section.sectionId) {
      const reason = `the section footer has id ${sectionId}, not ${section.sectionId}`;
      state.diagnostics.report(input.error('corrupt', reason, at + 1));
    }
    return at;
  }
}

/** Return the event of a device's state. */
export function deviceEvent(device: DeviceSection): MigrationEvent {
  return { type: 'device', offset: device.section.offset, ...device };
}

function publish({ kind, sectionId, name, instanceId, versionId, offset }: Section): void {
  const type = ITEM_NAMES[kind];
  const position = offset;
  channels.migrationSection.publish({ type, sectionId, name, instanceId, versionId, position });
}

import type { DeviceSection, MigrationEvent, Section, SectionKind } from '../format/events.ts';
import { quoteSection } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM } from '../format/wire.ts';
import type { RamSections } from '../ram/ram-sections.ts';
import { HandlerSections } from '../savevm-handlers/handler-sections.ts';
import type { StreamState } from './stream-state.ts';

const FOOTER_BYTES = 5;

/** Reads the sections of one stream: header, body, footer. */
export class SectionReader {
  readonly #state: StreamState;
  readonly #ram: RamSections;
  readonly #fileOffset: number;
  readonly #foreign: HandlerSections;
  #saidScan = false;
  /** The section that was read last. */
  previous: Section | null = null;

  /** @param fileOffset - Where in its file the stream begins. */
  constructor(state: StreamState, ram: RamSections, fileOffset: number) {
    this.#state = state;
    this.#ram = ram;
    this.#fileOffset = fileOffset;
    this.#foreign = new HandlerSections(state.diagnostics);
  }

  /** Reads a section, behind its type byte. */
  async *read(
    input: StreamInput,
    kind: SectionKind,
    inPackage: boolean,
  ): AsyncGenerator<MigrationEvent, void> {
    const section = await this.#state.sections.read(input, kind);
    this.previous = section;
    input.section = section;
    yield { type: 'section', offset: section.offset, section };
    yield* this.#body(input, section, inPackage);
    const footer = await this.#footer(input, section);
    section.bytes = input.position - section.offset;
    yield { type: 'sectionEnd', offset: input.position, section, footer };
  }

  /** Says once, if it is so, that bodies were told apart by their footers. */
  *sayScan(offset: number): Generator<MigrationEvent, void> {
    if (!this.#state.devices.hasScanned || this.#saidScan) return;
    this.#saidScan = true;
    const message =
      'there is no VM description: the ends of device sections were found by looking for footers, ' +
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
    if (await this.#skipForeign(input, section)) return;
    if (section.kind !== 'full') {
      const reason = `what comes in pieces as ${quoteSection(section)} is not known, and cannot be skipped`;
      throw input.error('unsupported', reason, section.offset);
    }
    const keep = !inPackage && !isSearched;
    const device = await devices.read(input, section, footers ?? configuration !== null, keep);
    if (device !== null) yield deviceEvent(device);
    yield* this.sayScan(section.offset);
  }

  async #skipForeign(input: StreamInput, section: Section): Promise<boolean> {
    const { name, kind, versionId } = section;
    // Where it is described, its length is known for certain.
    if (kind === 'full' && this.#state.devices.isExpected(section)) return false;
    return (await this.#foreign.skip(name, kind, versionId, input)) !== null;
  }

  /** Reads a section's footer; gives its offset, null in a stream without them. */
  async #footer(input: StreamInput, section: Section): Promise<number | null> {
    const state = this.#state;
    const at = input.position;
    await input.need(1, 'a footer');
    const isFooter = input.file.peekByte(0) === ITEM.FOOTER;
    state.footers ??= isFooter;
    if (!state.footers && !isFooter) return null;
    if (state.footers !== isFooter) {
      const wrong = isFooter ? 'a footer, where others have none' : 'no footer behind its body';
      throw input.error('corrupt', `${wrong}: bytes are missing, or were taken for others`, at);
    }
    await input.need(FOOTER_BYTES, 'a footer');
    input.u8();
    const sectionId = input.be32();
    if (sectionId !== section.sectionId) {
      const reason = `a footer of section ${sectionId}, not ${section.sectionId}`;
      state.diagnostics.report(input.error('corrupt', reason, at + 1));
    }
    return at;
  }
}

/** The event of a device's state. */
export function deviceEvent(device: DeviceSection): MigrationEvent {
  return { type: 'device', offset: device.section.offset, ...device };
}

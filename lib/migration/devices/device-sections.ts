import type { DeviceDescription, VmDescription } from '../format/device-types.ts';
import type { Diagnostics } from '../format/diagnostics.ts';
import type { DeviceSection, Section } from '../format/events.ts';
import type { SectionTable } from '../format/section-headers.ts';
import { MigrationStreamError, quoteSection } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, LIMIT } from '../format/wire.ts';
import { bodySize } from './body-size.ts';
import { DescribedDevices } from './described-devices.ts';
import { scanForFooter } from './scan-for-footer.ts';
import { decodeState } from './state-decoder.ts';

/*
 * Device sections carry no length. With the VM description it is added up; without one the next footer
 * is looked for.
 */

/** Values that all devices of a stream may have: real ones have some ten thousands. */
const MAX_VALUES = 8_388_608;

/** The bodies of a stream's device sections. */
export class DeviceSections {
  readonly #sections: SectionTable;
  readonly #diagnostics: Diagnostics;
  #described: DescribedDevices | null = null;
  /** Bodies that came before the description, which may still come. */
  #undecoded: DeviceSection[] = [];
  /** Bytes of these. */
  #kept = 0;
  readonly #budget = { values: MAX_VALUES };
  /** Whether any body was found by its footer for want of a description. */
  hasScanned = false;

  constructor(sections: SectionTable, diagnostics: Diagnostics) {
    this.#sections = sections;
    this.#diagnostics = diagnostics;
  }

  /** Whether the description is known. */
  get isDescribed(): boolean {
    return this.#described !== null;
  }

  /** Takes in the description; gives the sections that came before it, each decoded when it is asked for. */
  describe({ devices }: VmDescription): Iterable<DeviceSection> {
    this.#described = new DescribedDevices(devices);
    return this.#decodeKept(this.#undecoded.splice(0));
  }

  *#decodeKept(kept: readonly DeviceSection[]): Generator<DeviceSection, void> {
    for (const device of kept) {
      const description = this.#take(device.section);
      yield { ...device, state: this.#decode(description, device) };
    }
  }

  /** The sections that came before a description that never did. */
  takeUndecoded(): DeviceSection[] {
    if (this.#undecoded.length > 0) this.hasScanned = true;
    return this.#undecoded.splice(0);
  }

  /** The devices of the description that have not come. */
  missing(): string[] {
    const left = this.#described?.left() ?? [];
    return left.map(({ name, instance_id }) => quoteSection({ name, instanceId: instance_id }));
  }

  /** Whether the description has such a section, and it has not come yet. */
  isExpected({ name, instanceId }: Section): boolean {
    return this.#described?.has(name, instanceId) ?? false;
  }

  #take({ name, instanceId }: Section): DeviceDescription | undefined {
    return this.#described?.take(name, instanceId);
  }

  /**
   * Reads a body, up to its footer.
   *
   * @param footers - Whether sections have one.
   * @param keep - Whether a description may still come.
   * @returns The device, unless it is kept until the description has come.
   * @throws {MigrationStreamError} (rejects) `truncated`; `corrupt` if nothing tells where it ends;
   *   `unsupported` without both description and footers.
   */
  async read(
    input: StreamInput,
    section: Section,
    footers: boolean,
    keep: boolean,
  ): Promise<DeviceSection | null> {
    const bodyOffset = input.position;
    const description = this.#take(section);
    let body: Buffer;
    if (description !== undefined) {
      body = await this.#bySize(input, section, description, footers);
    } else {
      if (this.#described !== null) {
        this.#diagnostics.report(
          input.error('corrupt', 'the VM description does not have it', section.offset),
        );
      }
      if (!footers) {
        const reason =
          'nothing tells where it ends: there are neither a VM description nor footers';
        throw input.error('unsupported', reason, bodyOffset);
      }
      body = await this.#byFooter(input, section, Buffer.alloc(0));
      if (!keep || this.#described !== null) this.hasScanned = true;
    }
    const device: DeviceSection = { section, bodyOffset, body, state: null };
    if (keep && this.#described === null) {
      this.#kept += body.length;
      if (this.#kept > LIMIT.DEVICE_TAIL) {
        const reason = `the ${this.#kept} bytes of device sections so far are too many to wait for a VM description with`;
        throw input.error('unsupported', reason, bodyOffset);
      }
      this.#undecoded.push(device);
      return null;
    }
    return { ...device, state: this.#decode(description, device) };
  }

  /** By what the description adds up to, if a footer follows there. */
  async #bySize(
    input: StreamInput,
    section: Section,
    description: DeviceDescription,
    footers: boolean,
  ): Promise<Buffer> {
    const size = bodySize(description);
    const body = await input.bytes(size, 'the state of a device');
    if (!footers) return body;
    await input.need(5, 'a footer');
    const mark = Buffer.from(input.file.peekBuffer(5));
    if (mark[0] === ITEM.FOOTER && mark.readUInt32BE(1) === section.sectionId) return body;
    const end = input.position;
    let found: Buffer;
    try {
      found = await this.#byFooter(input, section, body);
    } catch (error) {
      if (!(error instanceof MigrationStreamError)) throw error;
      const reason = `no footer behind the ${size} bytes that its description adds up to`;
      throw input.error('corrupt', reason, end);
    }
    const reason = `its body has ${found.length} bytes, its description adds up to ${size}`;
    this.#diagnostics.report(input.error('corrupt', reason, end));
    return found;
  }

  #byFooter(input: StreamInput, section: Section, start: Buffer): Promise<Buffer> {
    return scanForFooter(input, section.sectionId, start, (id) => this.#sections.isIterable(id));
  }

  /** The state, or null if the description does not fit: then that is reported. */
  #decode(
    description: DeviceDescription | undefined,
    { section, bodyOffset, body }: DeviceSection,
  ): DeviceSection['state'] {
    // Of another size, that has been reported.
    if (description === undefined || body.length !== bodySize(description)) return null;
    const { version = section.versionId } = description;
    if (version !== section.versionId) {
      const { versionId, offset } = section;
      const reason = `it is of version ${versionId}, by the VM description of ${version}`;
      this.#diagnostics.report(
        new MigrationStreamError('corrupt', reason, { position: offset, section }),
      );
    }
    try {
      const where = { bodyOffset, section, diagnostics: this.#diagnostics, budget: this.#budget };
      return decodeState(description, body, where);
    } catch (error) {
      if (!(error instanceof MigrationStreamError)) throw error;
      this.#diagnostics.report(error);
      return null;
    }
  }
}

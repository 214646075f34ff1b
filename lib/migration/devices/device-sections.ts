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
 * Device sections carry no length. With the VM description, the length is the sum of the fields' sizes;
 * without one, the reader searches for the section's footer.
 */

/** Values that all devices of a stream may have together; real streams have some ten thousands. */
const MAX_VALUES = 8_388_608;

/** The bodies of a stream's device sections. */
export class DeviceSections {
  readonly #sections: SectionTable;
  readonly #diagnostics: Diagnostics;
  #described: DescribedDevices | null = null;
  /** Sections that came before the VM description, which may still come. */
  #undecoded: DeviceSection[] = [];
  /** Bytes of their bodies. */
  #undecodedBytes = 0;
  readonly #budget = { values: MAX_VALUES };
  /** Whether the end of any body was found by its footer, because there was no VM description. */
  hasScanned = false;

  constructor(sections: SectionTable, diagnostics: Diagnostics) {
    this.#sections = sections;
    this.#diagnostics = diagnostics;
  }

  /** Whether the VM description is known. */
  get isDescribed(): boolean {
    return this.#described !== null;
  }

  /** Use the VM description from now on; return the sections that came before it, decoded one by one. */
  describe({ devices }: VmDescription): Iterable<DeviceSection> {
    this.#described = new DescribedDevices(devices);
    return this.#decodeKept(this.#undecoded.splice(0));
  }

  *#decodeKept(kept: readonly DeviceSection[]): Generator<DeviceSection, void> {
    for (const device of kept) {
      const description = this.#take(device.section);
      yield this.#decode(description, device);
    }
  }

  /** Return the sections that came before, when no VM description followed. */
  takeUndecoded(): DeviceSection[] {
    if (this.#undecoded.length > 0) this.hasScanned = true;
    return this.#undecoded.splice(0);
  }

  /** Return the names of the described devices whose sections did not come. */
  missing(): string[] {
    const left = this.#described?.left() ?? [];
    return left.map(({ name, instance_id }) => quoteSection({ name, instanceId: instance_id }));
  }

  /** Return whether the VM description lists this section, and it has not come yet. */
  isExpected({ name, instanceId }: Section): boolean {
    return this.#described?.has(name, instanceId) ?? false;
  }

  #take({ name, instanceId }: Section): DeviceDescription | undefined {
    return this.#described?.take(name, instanceId);
  }

  /**
   * Read a body, up to its footer.
   *
   * @param hasFooters - Whether sections have footers.
   * @param mayWait - Whether a VM description may still come.
   * @returns The device; null if it waits for the VM description.
   * @throws {MigrationStreamError} (rejects) `truncated`; `corrupt` if no footer is found; `unsupported` if
   *   there are neither a VM description nor footers.
   */
  async read(
    input: StreamInput,
    section: Section,
    hasFooters: boolean,
    mayWait: boolean,
  ): Promise<DeviceSection | null> {
    const bodyOffset = input.position;
    const description = this.#take(section);
    let body: Buffer;
    if (description !== undefined && description.unusable === undefined) {
      body = await this.#bySize(input, section, description, hasFooters);
    } else {
      if (this.#described !== null && description === undefined) {
        this.#diagnostics.report(
          input.error('corrupt', 'the section is not listed in the VM description', section.offset),
        );
      }
      if (!hasFooters) {
        const reason =
          'the end of the section cannot be found without a VM description or section footers';
        throw input.error('unsupported', reason, bodyOffset);
      }
      body = await this.#byFooter(input, section, Buffer.alloc(0));
      if (description === undefined && (!mayWait || this.#described !== null))
        this.hasScanned = true;
    }
    const device: DeviceSection = { section, bodyOffset, body, state: null, description: null };
    if (mayWait && this.#described === null) {
      this.#undecodedBytes += body.length;
      if (this.#undecodedBytes > LIMIT.DEVICE_TAIL) {
        const reason = `more than ${LIMIT.DEVICE_TAIL} bytes of device sections came before the VM description`;
        throw input.error('unsupported', reason, bodyOffset);
      }
      this.#undecoded.push(device);
      return null;
    }
    return this.#decode(description, device);
  }

  /** Read as many bytes as the description adds up to; search for the footer if it does not follow there. */
  async #bySize(
    input: StreamInput,
    section: Section,
    description: DeviceDescription,
    hasFooters: boolean,
  ): Promise<Buffer> {
    const size = bodySize(description);
    const body = await input.bytes(size, 'the state of a device');
    if (!hasFooters) return body;
    await input.need(5, 'a footer');
    const mark = Buffer.from(input.file.peekBuffer(5));
    if (mark[0] === ITEM.FOOTER && mark.readUInt32BE(1) === section.sectionId) return body;
    const end = input.position;
    let found: Buffer;
    try {
      found = await this.#byFooter(input, section, body);
    } catch (error) {
      if (!(error instanceof MigrationStreamError)) throw error;
      const reason = `no section footer after the ${size} bytes of its description`;
      throw input.error('corrupt', reason, end);
    }
    const reason = `its body has ${found.length} bytes, but its description adds up to ${size}`;
    this.#diagnostics.report(input.error('corrupt', reason, end));
    return found;
  }

  #byFooter(input: StreamInput, section: Section, start: Buffer): Promise<Buffer> {
    return scanForFooter(input, section.sectionId, start, (id) => this.#sections.isIterable(id));
  }

  /** Return the device with its state; as it is, with a fault reported, if the description does not fit. */
  #decode(description: DeviceDescription | undefined, device: DeviceSection): DeviceSection {
    const { section, bodyOffset, body } = device;
    // Another size was reported when the body was read.
    if (description === undefined || description.unusable !== undefined) return device;
    if (body.length !== bodySize(description)) return device;
    const { version = section.versionId } = description;
    if (version !== section.versionId) {
      const { versionId, offset } = section;
      const reason = `it has version ${versionId}, but the VM description has version ${version}`;
      this.#diagnostics.report(
        new MigrationStreamError('corrupt', reason, { position: offset, section }),
      );
    }
    try {
      const where = { bodyOffset, section, diagnostics: this.#diagnostics, budget: this.#budget };
      return { ...device, state: decodeState(description, body, where), description };
    } catch (error) {
      if (!(error instanceof MigrationStreamError)) throw error;
      this.#diagnostics.report(error);
      return device;
    }
  }
}

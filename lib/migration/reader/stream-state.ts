import { DeviceSections } from '../devices/device-sections.ts';
import type { VmDescription } from '../format/device-types.ts';
import type { Diagnostics } from '../format/diagnostics.ts';
import type { Configuration, DeviceSection, PageVisitor } from '../format/events.ts';
import { SectionTable } from '../format/section-headers.ts';
import { GuestRam } from '../ram/ram-table.ts';

/** State of one stream while it is read. */
export class StreamState {
  readonly diagnostics: Diagnostics;
  readonly sections: SectionTable = new SectionTable();
  readonly devices: DeviceSections;
  readonly ram: GuestRam;

  configuration: Configuration | null = null;
  /** Whether sections have footers; null until the first section was read. */
  footers: boolean | null = null;
  /** OR of the host page sizes of all RAM blocks, from POSTCOPY_ADVISE. */
  advisedPageSizes: bigint | null = null;
  /** Whether POSTCOPY_LISTEN came: no VM description follows the end mark then. */
  isPostcopy = false;
  /** Offset in the stream of the VM description, once known. */
  descriptionAt: number | null = null;
  /** Quoted name of a live section of unknown layout, whose bodies were skipped; null if there is none. */
  unknownSection: string | null = null;
  /** Whether the rest of the stream was searched for the VM description. */
  isSearched = false;

  constructor(pages: PageVisitor, diagnostics: Diagnostics) {
    this.diagnostics = diagnostics;
    this.devices = new DeviceSections(this.sections, diagnostics);
    this.ram = new GuestRam(pages, diagnostics);
  }

  /** Whether this is device state of Xen: device sections with footers only, no configuration and no RAM. */
  get isXen(): boolean {
    return this.configuration === null && this.footers === true && !this.sections.hasIterables;
  }

  /**
   * Use the VM description from now on.
   *
   * @param offset - Offset in the stream of its type byte; null if unknown.
   * @returns The device sections that came before it.
   */
  async describe(
    description: VmDescription,
    offset: number | null,
  ): Promise<Iterable<DeviceSection>> {
    this.descriptionAt = offset;
    const { blockTable } = this.ram;
    if (!blockTable.isPageSizeKnown)
      await blockTable.setPageSize(description.page_size, offset ?? 0);
    return this.devices.describe(description);
  }
}

import { DeviceSections } from '../devices/device-sections.ts';
import type { KnownDescription } from '../devices/find-vm-description.ts';
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
  /** The VM description, once known. */
  found: KnownDescription | null = null;
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
   * @returns The device sections that came before it.
   */
  async describe(found: KnownDescription): Promise<Iterable<DeviceSection>> {
    this.found = found;
    const { description, offset } = found;
    const { blockTable } = this.ram;
    if (!blockTable.isPageSizeKnown) await blockTable.setPageSize(description.page_size, offset);
    return this.devices.describe(description);
  }
}

import { DeviceSections } from '../devices/device-sections.ts';
import type { VmDescription } from '../format/device-types.ts';
import type { Diagnostics } from '../format/diagnostics.ts';
import type { Configuration, DeviceSection, PageVisitor } from '../format/events.ts';
import { SectionTable } from '../format/section-headers.ts';
import { RamTable } from '../ram/ram-table.ts';

/** What is known of a stream while it is read. */
export class StreamState {
  readonly diagnostics: Diagnostics;
  readonly sections: SectionTable = new SectionTable();
  readonly devices: DeviceSections;
  readonly ram: RamTable;

  configuration: Configuration | null = null;
  /** Whether sections have footers; null before the first one has ended. */
  footers: boolean | null = null;
  /** OR of the page sizes of all RAM blocks, if postcopy was advised. */
  advisedPageSizes: bigint | null = null;
  /** Whether device state goes to a destination that is waiting for it: no description follows then. */
  isPostcopy = false;
  /** Offset in the stream of the VM description, once that is known. */
  descriptionAt: number | null = null;
  /** Whether a description that has not been found will not be: the rest of the stream was searched. */
  isSearched = false;

  constructor(pages: PageVisitor, diagnostics: Diagnostics) {
    this.diagnostics = diagnostics;
    this.devices = new DeviceSections(this.sections, diagnostics);
    this.ram = new RamTable(pages, diagnostics);
  }

  /**
   * Takes in the VM description.
   *
   * @param offset - Of its type byte.
   * @returns The device sections that have waited for it.
   */
  async describe(
    description: VmDescription,
    offset: number | null,
  ): Promise<Iterable<DeviceSection>> {
    this.descriptionAt = offset;
    const { ram } = this;
    if (!ram.pageSizeKnown) await ram.setPageSize(description.page_size, offset ?? 0);
    return this.devices.describe(description);
  }
}

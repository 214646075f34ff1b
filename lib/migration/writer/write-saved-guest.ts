import type { Configuration } from '../format/events.ts';
import type { PageSource, PageSourceBlock } from '../memory/page-source.ts';
import type { SavedGuest, SavedSection } from '../saved-guest/saved-guest.ts';
import type { MigrationWriter, SectionHeader } from './migration-writer.ts';
import { PageCopier } from './page-copier.ts';

/** Capabilities of the layout that the guest came in, which do not apply to the one that is written. */
const LAYOUT_CAPABILITIES: ReadonlySet<string> = new Set(['mapped-ram']);
const IGNORE_SHARED = 'x-ignore-shared';

/** Options of `writeSavedGuest`. */
export interface WriteSavedGuestOptions {
  /** Ends the work with `ECANCELED`. */
  signal?: AbortSignal | undefined;
  /** Called with the number of bytes of guest memory that were dealt with, pages of zeros included. */
  onProgress?: ((bytes: number) => void) | undefined;
}

/**
 * Write a saved guest as a stream of one round: each page once, in the order of addresses, pages of zeros as
 * ZERO records, and the other sections as they came. The header comes first and the VM description, if there
 * is one, last.
 *
 * @param guest - The guest; it stays open.
 * @param writer - A writer with nothing written, made with `writerOptionsOf(guest)`. Its file is flushed, not
 *   closed.
 * @throws {QemuFileError} (rejects) the errors of the guest's pages and of the writer's file; `ECANCELED`.
 */
export async function writeSavedGuest(
  guest: SavedGuest,
  writer: MigrationWriter,
  options: WriteSavedGuestOptions = {},
): Promise<void> {
  const { configuration, pages, descriptionText } = guest;
  const ram = { ...guest.ram, name: 'ram' };
  const early = guest.sections.slice(0, guest.sectionsBeforeRam ?? 0);
  const later = guest.sections.slice(early.length);
  const isShared = configuration?.capabilities.includes(IGNORE_SHARED) === true;

  writer.header();
  const configured = configurationOf(guest);
  if (configured !== null) writer.configuration(configured);
  for (const section of early) writer.section(section, section.body);
  writer.beginSection({ ...ram, kind: 'start' });
  writer.ram.listBlocks(listedBlocks(pages, isShared));
  writer.endSection();
  writeSections(later, 'start', writer);
  await writePages(pages, { ...ram, kind: 'part' }, writer, options);
  writeSections(later, 'part', writer);
  writer.beginSection({ ...ram, kind: 'end' });
  writer.endSection();
  writeSections(later, 'end', writer);
  writeSections(later, 'full', writer);
  writer.end();
  if (descriptionText !== null) writer.vmDescription(descriptionText);
  await writer.file.flush({ signal: options.signal });
}

/** Return the options of a writer for a guest. */
export function writerOptionsOf({ hasFooters, pages }: SavedGuest): {
  hasFooters: boolean;
  pageSize: number;
} {
  return { hasFooters, pageSize: pages.pageSize };
}

/** Return the configuration as it was sent, unless it has capabilities of another layout. */
function configurationOf({
  configuration,
  configurationBytes,
}: SavedGuest): Configuration | Uint8Array | null {
  if (configuration === null) return null;
  const capabilities = configuration.capabilities.filter((name) => !LAYOUT_CAPABILITIES.has(name));
  const isSame = capabilities.length === configuration.capabilities.length;
  return isSame && configurationBytes !== null
    ? configurationBytes
    : { ...configuration, capabilities };
}

/** Return the blocks with the fields that QEMU expects in a list: host page sizes belong to postcopy. */
function listedBlocks({ blocks }: PageSource, isShared: boolean): PageSourceBlock[] {
  return blocks.map(({ name, usedLength, address }) => ({
    name,
    usedLength,
    hostPageSize: null,
    address: isShared ? (address ?? 0n) : null,
  }));
}

function writeSections(
  sections: readonly SavedSection[],
  kind: SavedSection['kind'],
  writer: MigrationWriter,
): void {
  for (const section of sections) {
    if (section.kind === kind) writer.section(section, section.body);
  }
}

/** Write all pages in one PART. */
async function writePages(
  pages: PageSource,
  section: SectionHeader,
  writer: MigrationWriter,
  { signal, onProgress }: WriteSavedGuestOptions,
): Promise<void> {
  writer.beginSection(section);
  const copier = new PageCopier(pages, writer, signal);
  let done = 0;
  for (const [index, { usedLength }] of pages.blocks.entries()) {
    let at = 0;
    for (const extent of pages.extents(index)) {
      await copier.zeros(index, at, extent.at);
      await copier.copy(index, extent.at, extent.length);
      at = extent.at + extent.length;
      onProgress?.(done + at);
    }
    await copier.zeros(index, at, usedLength);
    done += usedLength;
    onProgress?.(done);
  }
  writer.endSection();
}

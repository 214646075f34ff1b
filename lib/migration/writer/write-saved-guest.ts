import { QemuFileError } from '../../contract/errors.ts';
import type { Configuration } from '../format/events.ts';
import type { PageSource, PageSourceBlock } from '../page-source/page-source.ts';
import type { SavedGuest, SavedSection } from '../saved-guest/saved-guest.ts';
import { MappedRamWriter } from './mapped-ram-writer.ts';
import type { MigrationWriter } from './migration-writer.ts';
import { PageCopier } from './page-copier.ts';

const MAPPED_RAM = 'mapped-ram';
const IGNORE_SHARED = 'x-ignore-shared';

/** Where the pages of a stream lie: as records in one section, or each at a place of its own in the file. */
export type StreamLayout = 'sequential' | 'mapped-ram';

/** Options of `writeSavedGuest`. */
export interface WriteSavedGuestOptions {
  /** Default `sequential`. With `mapped-ram`, the writer's file must be able to seek. */
  layout?: StreamLayout | undefined;
  /** Returns whether the pages of a block are left out of a sequential stream, because the loader has them. Default: none. */
  omitPages?: ((name: string) => boolean) | undefined;
  /** Write a VM description even if the guest has none: of the sizes of its sections. Default false. */
  mustDescribe?: boolean | undefined;
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
 * @throws {QemuFileError} (rejects) the errors of the guest's pages and of the writer's file; `ECANCELED`;
 *   `ENOTSUP` for a guest that cannot be in a mapped-ram file: of an old machine type, or with shared memory.
 */
export async function writeSavedGuest(
  guest: SavedGuest,
  writer: MigrationWriter,
  options: WriteSavedGuestOptions = {},
): Promise<void> {
  const { descriptionText } = guest;
  const isMapped = options.layout === 'mapped-ram';
  const ram = { ...guest.ram, name: 'ram' };
  const early = guest.sections.slice(0, guest.sectionsBeforeRam ?? 0);
  const later = guest.sections.slice(early.length);

  const configured = configurationOf(guest, isMapped);
  writer.header();
  if (configured !== null) writer.configuration(configured);
  for (const section of early) writer.section(section, section.body);
  writer.beginSection({ ...ram, kind: 'start' });
  const mapped = isMapped ? await writeMapped(guest.pages, writer, options) : null;
  if (mapped === null) writer.ram.listBlocks(listedBlocks(guest));
  writer.endSection();
  writeSections(later, 'start', writer);
  if (mapped === null) {
    writer.beginSection({ ...ram, kind: 'part' });
    await writeRecords(guest.pages, writer, options);
    writer.endSection();
  }
  writeSections(later, 'part', writer);
  writer.beginSection({ ...ram, kind: 'end' });
  writer.endSection();
  writeSections(later, 'end', writer);
  writeSections(later, 'full', writer);
  writer.end();
  if (descriptionText !== null) writer.vmDescription(descriptionText);
  else if (options.mustDescribe === true) writer.vmDescription();
  await writer.file.flush({ signal: options.signal });
}

/** Return the options of a writer for a guest. */
export function writerOptionsOf({ hasFooters, pages }: SavedGuest): {
  hasFooters: boolean;
  pageSize: number;
} {
  return { hasFooters, pageSize: pages.pageSize };
}

/** Return the configuration as it was sent, unless the layout needs another. */
function configurationOf(
  { configuration, configurationBytes }: SavedGuest,
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
function listedBlocks({ pages, configuration }: SavedGuest): PageSourceBlock[] {
  const isShared = configuration?.capabilities.includes(IGNORE_SHARED) === true;
  return pages.blocks.map(({ name, usedLength, address }) => ({
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

/** Write all pages as records of the open section. */
async function writeRecords(
  pages: PageSource,
  { ram, file }: MigrationWriter,
  { omitPages, signal, onProgress }: WriteSavedGuestOptions,
): Promise<void> {
  const target = {
    page: (block: number, offset: number, bytes: Uint8Array, onRelease: () => void) =>
      ram.pageAsync(block, offset, bytes, onRelease),
    zero: (block: number, offset: number, count: number) => ram.zero(block, offset, count),
    ready: () => (file.rateLimitExceeded() ? file.drain({ signal }) : undefined),
  };
  await new PageCopier(pages, target, signal).copyAll(onProgress, omitPages);
}

/** Write the list of blocks, and all pages to their places. */
async function writeMapped(
  pages: PageSource,
  { file }: MigrationWriter,
  { signal, onProgress }: WriteSavedGuestOptions,
): Promise<MappedRamWriter> {
  const mapped = new MappedRamWriter(file, pages.pageSize);
  await mapped.listBlocks(pages.blocks);
  const target = {
    page: (block: number, offset: number, bytes: Uint8Array, onRelease: () => void) => {
      mapped.page(block, offset, bytes);
      onRelease();
    },
    zero: (block: number, offset: number, count: number) => mapped.zero(block, offset, count),
    ready: () => mapped.ready(),
  };
  await new PageCopier(pages, target, signal).copyAll(onProgress);
  await mapped.finish();
  return mapped;
}

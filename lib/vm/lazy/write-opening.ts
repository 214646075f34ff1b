import type { Configuration } from '../../migration/format/events.ts';
import type { SavedGuest, SavedSection } from '../../migration/saved-guest/saved-guest.ts';
import type { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import type { DestinationMemory, LazyBlock } from './destination-memory.ts';
import { START_PING } from './return-path-listener.ts';

/** The value of the PING that QEMU answers before it looks at the guest. */
export const FIRST_PING = 1;

/**
 * Write a postcopy migration up to the point where pages are served: the first part of the stream, with an empty
 * precopy phase, and the package that starts the guest. A PART of `ram` is open afterwards.
 *
 * @param guest - The guest.
 * @param memory - Its memory at the destination.
 * @param basePageSize - Bytes of an ordinary page of the destination's host.
 * @param writer - A writer with nothing written.
 * @see QEMU `postcopy_start` in migration/migration.c
 */
export function writeOpening(
  guest: SavedGuest,
  memory: DestinationMemory,
  basePageSize: number,
  writer: MigrationWriter,
): void {
  const early = guest.sections.slice(0, guest.sectionsBeforeRam ?? 0);
  const later = guest.sections.slice(early.length);
  const ram = { name: 'ram', ...guest.ram };
  writer.header();
  const configuration = configurationOf(guest);
  if (configuration !== null) writer.configuration(configuration);
  // QEMU opens the return path before it answers.
  writer.command({ name: 'OPEN_RETURN_PATH' });
  writer.command({ name: 'PING', value: FIRST_PING });
  const sizes = memory.blocks.map(({ hostPageSize }) => BigInt(hostPageSize));
  writer.command({
    name: 'POSTCOPY_ADVISE',
    pageSizes: sizes.reduce((all, size) => all | size, BigInt(basePageSize)),
    targetPageSize: memory.pageSize,
  });
  writeSections(early, ['full'], writer);
  writer.beginSection({ kind: 'start', ...ram });
  writer.ram.listBlocks(
    memory.blocks.map(({ name, usedLength, hostPageSize }) => ({
      name,
      usedLength,
      hostPageSize: hostPageSize === basePageSize ? null : hostPageSize,
      address: null,
    })),
  );
  writer.endSection();
  for (const kind of ['start', 'part', 'end'] as const) writeSections(later, [kind], writer);
  // Without a discard, QEMU loses its own state at LISTEN and waits forever.
  const { name, hostPageSize } = largest(memory.blocks);
  writer.command({
    name: 'POSTCOPY_RAM_DISCARD',
    block: name,
    ranges: [{ start: 0, length: hostPageSize }],
  });
  writer.beginPackage();
  writer.command({ name: 'POSTCOPY_LISTEN' });
  writeSections(later, ['full'], writer);
  writer.command({ name: 'PING', value: START_PING });
  writer.command({ name: 'POSTCOPY_RUN' });
  writer.endPackage();
  writer.beginSection({ kind: 'part', ...ram });
}

/** Write what ends a postcopy migration. Every page with data must have been written. */
export function writeClosing({ ram }: SavedGuest, writer: MigrationWriter): void {
  writer.endSection();
  writer.beginSection({ kind: 'end', name: 'ram', ...ram });
  writer.endSection();
  writer.end();
}

/** Return the configuration as it was sent, without the capability of the file's layout. */
function configurationOf({
  configuration,
  configurationBytes,
}: SavedGuest): Configuration | Uint8Array | null {
  if (configuration === null) return null;
  const capabilities = configuration.capabilities.filter((name) => name !== 'mapped-ram');
  const isSame = capabilities.length === configuration.capabilities.length;
  return isSame && configurationBytes !== null
    ? configurationBytes
    : { ...configuration, capabilities };
}

function writeSections(
  sections: readonly SavedSection[],
  kinds: readonly SavedSection['kind'][],
  writer: MigrationWriter,
): void {
  for (const section of sections) {
    if (kinds.includes(section.kind)) writer.section(section, section.body);
  }
}

function largest(blocks: readonly LazyBlock[]): LazyBlock {
  return blocks.reduce((one, other) => (other.usedLength > one.usedLength ? other : one));
}

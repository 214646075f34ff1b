import type { MigrationEvent, RamBlock, Section } from '../../../lib/migration/format/events.ts';
import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';
import { RamImage } from '../../../lib/migration/memory/ram-image.ts';
import type { PageSource } from '../../../lib/migration/page-source/page-source.ts';
import type { ReaderOptions } from '../../../lib/migration/reader/migration-reader.ts';
import { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import type { SavedGuest, SavedSection } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { chunksOf, sectionHeaderBytes } from '../reading/read-stream.ts';

/** Return a guest with this memory and without devices, except for the given parts. */
export function bareGuest(pages: PageSource, parts: Partial<SavedGuest> = {}): SavedGuest {
  return {
    configuration: null,
    configurationBytes: null,
    hasFooters: true,
    ram: { sectionId: 2, instanceId: 0, versionId: 4 },
    sections: [],
    descriptionText: null,
    pages,
    close: () => Promise.resolve(),
    ...parts,
  };
}

/** Return the guest of a stream that is in memory, all of it in memory. */
export async function savedGuestOf(
  bytes: Buffer,
  options: ReaderOptions = {},
): Promise<SavedGuest> {
  const image = new RamImage({ store: () => new MemoryPageStore() });
  const reader = new MigrationReader(chunksOf([bytes]), { ...options, pages: image });
  const events: MigrationEvent[] = [];
  for await (const event of reader) events.push(event);
  const sections: SavedSection[] = [];
  let ram: Section | null = null;
  let sectionsBeforeRam = 0;
  let configurationBytes: Buffer | null = null;
  let descriptionText: Buffer | null = null;
  let hasFooters = true;
  for (const event of events) {
    if (event.type === 'configuration') {
      configurationBytes = bytes.subarray(event.offset, event.offset + event.bytes);
    } else if (event.type === 'vmDescription') {
      descriptionText = bytes.subarray(event.offset + 5, event.offset + event.bytes);
    } else if (event.type === 'sectionEnd') {
      const { section, footer } = event;
      hasFooters = footer !== null;
      if (section.name === 'ram') {
        ram ??= section;
        continue;
      }
      if (ram === null) sectionsBeforeRam += 1;
      const body = bytes.subarray(
        section.offset + sectionHeaderBytes(section),
        footer ?? event.offset,
      );
      sections.push({ ...section, body });
    }
  }
  const { blocks, pageSize } = reader.ram;
  const contents = blocks.map((block) => contentsOf(image, block));
  return {
    configuration: reader.configuration,
    configurationBytes,
    hasFooters,
    ram: ram ?? { sectionId: 0, instanceId: 0, versionId: 4 },
    sections,
    sectionsBeforeRam,
    descriptionText,
    pages: {
      pageSize,
      blocks,
      extents: (block) => image.extents(blocks[block] as RamBlock),
      read: (block, offset, target) => {
        const from = contents[block] as Buffer;
        target.set(from.subarray(offset, offset + target.length));
      },
    },
    close: () => Promise.resolve(),
  };
}

/** Return the memory of a guest, block by block, as buffers of the caller. */
export async function copyMemory({
  pages,
}: SavedGuest): Promise<{ name: string; memory: Buffer }[]> {
  const blocks: { name: string; memory: Buffer }[] = [];
  for (const [block, { name, usedLength }] of pages.blocks.entries()) {
    const memory = Buffer.alloc(usedLength);
    await pages.read(block, 0, memory);
    blocks.push({ name, memory });
  }
  return blocks;
}

function contentsOf(image: RamImage, block: RamBlock): Buffer {
  const bytes = Buffer.alloc(block.usedLength);
  image.read(block, 0, bytes);
  return bytes;
}

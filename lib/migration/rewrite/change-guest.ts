import { Buffer } from 'node:buffer';
import { bodySize } from '../devices/body-size.ts';
import { DescribedDevices } from '../devices/described-devices.ts';
import { decodeState } from '../devices/state-decoder.ts';
import { parseVmDescription } from '../devices/vm-description.ts';
import type { DeviceDescription } from '../format/device-types.ts';
import type { DeviceSection } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { PageSource } from '../page-source/page-source.ts';
import type { SavedGuest, SavedSection } from '../saved-guest/saved-guest.ts';
import type { CopyOptions, DeviceEdits } from './copy-stream.ts';
import { renameBlocks } from './rename-blocks.ts';

/**
 * Return a saved guest with the changes that `copyStream` makes to a stream.
 *
 * @param guest - The guest; it stays as it is. Closing either of the two closes both.
 * @param changes - The changes.
 * @throws {QemuFileError} `EINVAL` for a block that the guest lacks; the errors of the changes of devices.
 * @throws {MigrationStreamError} `corrupt` for a VM description that is damaged, where devices are to change.
 */
export function changeGuest(
  guest: SavedGuest,
  { renameBlocks, dropDescription, devices }: CopyOptions,
): SavedGuest {
  const { pages, sections, descriptionText } = guest;
  return {
    ...guest,
    pages: renameBlocks === undefined ? pages : renamePages(pages, renameBlocks),
    sections: devices === undefined ? sections : editSections(sections, descriptionText, devices),
    descriptionText: dropDescription === true ? null : descriptionText,
    close: () => guest.close(),
  };
}

function renamePages(pages: PageSource, renamed: ReadonlyMap<string, string>): PageSource {
  return {
    pageSize: pages.pageSize,
    blocks: renameBlocks(pages.blocks, renamed),
    extents: (block) => pages.extents(block),
    read: (block, offset, target) => pages.read(block, offset, target),
  };
}

function editSections(
  sections: readonly SavedSection[],
  descriptionText: Uint8Array | null,
  edits: DeviceEdits,
): SavedSection[] {
  const description = descriptionText === null ? null : parseVmDescription(descriptionText, 0);
  const described = new DescribedDevices(description?.devices ?? []);
  const edited = sections.map((section) => {
    if (section.kind !== 'full') return section;
    const device = decodeSection(section, described.take(section.name, section.instanceId));
    const body = edits.edit(device);
    return body === null ? section : { ...section, body };
  });
  edits.finish();
  return edited;
}

/** Decode a section as the reader does; it stays undecoded where its description does not fit. */
function decodeSection(
  saved: SavedSection,
  description: DeviceDescription | undefined,
): DeviceSection {
  const { buffer, byteOffset, length } = saved.body;
  const body = Buffer.from(buffer, byteOffset, length);
  const section = { ...saved, offset: 0, bytes: length };
  const device: DeviceSection = { section, bodyOffset: 0, body, state: null, description: null };
  if (description === undefined || description.unusable !== undefined) return device;
  if (length !== bodySize(description)) return device;
  try {
    const state = decodeState(description, body, { bodyOffset: 0, section });
    return { ...device, state, description };
  } catch (error) {
    if (error instanceof MigrationStreamError) return device;
    throw error;
  }
}

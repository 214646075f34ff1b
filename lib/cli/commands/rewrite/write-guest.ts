import { QemuFileError } from '../../../contract/errors.ts';
import { openScratchStore, type ScratchStore } from '../../../extract/scratch-store.ts';
import {
  writerOptionsOf,
  writeSavedGuest,
} from '../../../migration/guest-writer/write-saved-guest.ts';
import { changeGuest } from '../../../migration/rewrite/change-guest.ts';
import type { CopyOptions } from '../../../migration/rewrite/copy-stream.ts';
import { OrderedCopy } from '../../../migration/rewrite/ordered-copy.ts';
import { collectSavedGuest } from '../../../migration/saved-guest/collect-saved-guest.ts';
import { openSavedGuestWith } from '../../../migration/saved-guest/open-saved-guest.ts';
import type { SavedGuest } from '../../../migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../../migration/writer/migration-writer.ts';
import { QemuFile } from '../../../qemu-file/qemu-file.ts';
import { isMappedRam } from '../../../relay/rebase-mapped-ram.ts';
import { parseEndpoint } from '../../endpoints/endpoint.ts';
import { sizeOf } from '../../endpoints/open-endpoints.ts';
import { type OpenStream, openStream } from '../../endpoints/open-stream.ts';
import type { Output, Rewritten } from './output.ts';
import type { RewriteFlags } from './rewrite-command.ts';

const NO_DESCRIPTION =
  'there is no VM description: the device sections were written as they came, undescribed';

/** Stream, output and changes of `writeGuest`. */
export interface GuestRewrite {
  /** The endpoint that the stream comes from, as typed. */
  fromText: string;
  stream: OpenStream;
  output: Output;
  flags: RewriteFlags;
  /** Whether the stream has mapped-ram. Default: it is looked up. */
  isMapped?: boolean | undefined;
  changes?: CopyOptions | undefined;
  signal: AbortSignal;
}

/**
 * Write the guest of a stream in one round: each page once.
 *
 * @throws {QemuFileError} (rejects) the errors of the stream, of the output, and of `changeGuest`.
 */
export async function writeGuest(rewrite: GuestRewrite): Promise<Rewritten> {
  using scratch = openScratchStore();
  const { fromText, stream, output, flags, isMapped, changes = {}, signal } = rewrite;
  const { outer, unwrapped } = stream;
  const { layout = 'sequential' } = flags;
  const size = sizeOf(parseEndpoint(fromText), outer);
  // The pass over a mapped-ram file needs no pages, and seeks over them.
  const hasPlaces = isMapped ?? (unwrapped.seekable && (await isMappedRam(unwrapped.file)));
  const ordered =
    !hasPlaces && output.canRestart
      ? new OrderedCopy(output.file, layout, signal, changes.renameBlocks)
      : undefined;
  const guest = (await openInPlace(rewrite, ordered)) ?? (await openInScratch(rewrite, scratch));
  try {
    const notes = guest.descriptionText === null ? [NO_DESCRIPTION] : [];
    const streamBytes = unwrapped.seekable ? size : undefined;
    const before = channelBytes(stream) + (streamBytes ?? unwrapped.file.getPosition);
    const changed = changeGuest(guest, changes);
    if (ordered !== undefined) {
      if (!startsAlike(guest, changed)) ordered.stop();
      if (await ordered.finish(changed)) return { before, after: ordered.position, notes };
      if (ordered.position > 0) await output.restart();
    }
    const writer = new MigrationWriter(output.file, writerOptionsOf(changed));
    await writeSavedGuest(changed, writer, { layout, signal });
    return { before, after: writer.position, notes };
  } finally {
    await guest.close();
  }
}

/** Return whether no section changes that comes before the pages. */
function startsAlike({ sections, sectionsBeforeRam }: SavedGuest, changed: SavedGuest): boolean {
  const before = sections.slice(0, sectionsBeforeRam ?? 0);
  return before.every((section, index) => section === changed.sections[index]);
}

/** Return how many bytes were read from the further channels. */
function channelBytes({ channels }: OpenStream): number {
  return channels.reduce((sum, file) => sum + (file instanceof QemuFile ? file.getPosition : 0), 0);
}

/** Open the guest with its pages read from the stream's file; null if they have no places there. */
async function openInPlace(
  { stream, signal }: GuestRewrite,
  ordered: OrderedCopy | undefined,
): Promise<SavedGuest | null> {
  const { unwrapped, channels, description } = stream;
  if (!unwrapped.seekable || channels.length > 0) return null;
  try {
    return await openSavedGuestWith(unwrapped, { description, signal }, ordered);
  } catch (error) {
    if (!(error instanceof QemuFileError) || error.code !== 'ENOTSUP') throw error;
    ordered?.stop();
    return null;
  }
}

/** Open the guest with its memory in a scratch file. */
async function openInScratch(
  { fromText, stream, flags, signal }: GuestRewrite,
  scratch: ScratchStore,
): Promise<SavedGuest> {
  // `openInPlace` has read a stream with random access up to its first page without a place.
  if (!stream.unwrapped.seekable || stream.channels.length > 0) return collect(stream, scratch);
  const { snapshot, quiet = false } = flags;
  const from = parseEndpoint(fromText);
  const again = await openStream({ from, channels: [], snapshot, signal, quiet });
  try {
    return await collect(again, scratch);
  } finally {
    await again.close();
  }
}

function collect(
  { unwrapped, channels, description }: OpenStream,
  { store }: ScratchStore,
): Promise<SavedGuest> {
  const { file, fileOffset } = unwrapped;
  return collectSavedGuest(file, { store, channels, description, fileOffset });
}

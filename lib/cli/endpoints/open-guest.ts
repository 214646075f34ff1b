import type { ScratchStore } from '../../extract/scratch-store.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';
import { collectSavedGuest } from '../../migration/saved-guest/collect-saved-guest.ts';
import { openSavedGuest } from '../../migration/saved-guest/open-saved-guest.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { isSnapshot, openSnapshotGuest } from './endpoint.ts';
import { openStream, type StreamChoice } from './open-stream.ts';

/**
 * Open a stream as a guest: with its pages read from the file where the stream has random access, otherwise with its
 * memory in a scratch store.
 *
 * @param onOpen - Called with the outermost file, whose position shows the progress of reading.
 * @throws {MigrationStreamError} (rejects) the fault of a stream that is damaged, incomplete or not supported.
 *   {QemuFileError} as `openStream`; the errors of the file and of the store.
 */
export async function openGuest(
  choice: StreamChoice,
  scratch: ScratchStore,
  onOpen: (outer: QemuFile) => void,
): Promise<SavedGuest> {
  const { from, signal } = choice;
  if (isSnapshot(from)) return openSnapshotGuest(from, signal);
  const guest = await openInPlace(choice);
  if (guest !== null) return guest;
  const stream = await openStream(choice);
  try {
    const { outer, unwrapped, description, channels } = stream;
    onOpen(outer);
    const { file, fileOffset } = unwrapped;
    return await collectSavedGuest(file, {
      store: scratch.store,
      channels,
      description,
      fileOffset,
    });
  } finally {
    await stream.close();
  }
}

/** Open a stream whose pages are read from its file; null if it has to be read front to back. */
async function openInPlace(choice: StreamChoice): Promise<SavedGuest | null> {
  // What can be read once only, such as a pipe, must not be opened to find out.
  if (choice.from.scheme !== 'file' || choice.channels.length > 0) return null;
  const stream = await openStream(choice);
  try {
    const { unwrapped, description } = stream;
    if (!unwrapped.seekable) {
      await stream.close();
      return null;
    }
    return await openSavedGuest(unwrapped, { description, signal: choice.signal });
  } catch (error) {
    await stream.close();
    if (error instanceof MigrationStreamError && error.fault === 'unsupported') return null;
    throw error;
  }
}

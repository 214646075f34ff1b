import { checkFile } from '../../qemu-file/check-file.ts';
import { noop } from '../../util/noop.ts';
import type { Unwrapped } from '../containers/unwrap.ts';
import { openPositionedReads, type PositionedReads } from '../stream-pages/positioned-reads.ts';
import type { OpenSavedGuestOptions } from './open-saved-guest-options.ts';
import { openWithIndex } from './open-with-index.ts';
import type { PassFollower } from './open-with-pass.ts';
import type { SavedGuest } from './saved-guest.ts';

/**
 * Open a recorded stream as a guest with random access to its memory. One pass over the stream finds the places of
 * its pages; the pages themselves are read when they are asked for.
 *
 * @param stream - A stream in a file that can seek, as `unwrap` returns it: sequential or mapped-ram, bare, in a save
 *   image of libvirt or in a qcow2 snapshot. The guest owns it; it is closed if this rejects.
 * @param options - Facts that the caller knows about the stream.
 * @returns The guest.
 * @throws {MigrationStreamError} (rejects) `unsupported` (`ENOTSUP`) for a stream whose memory has no random access:
 *   compressed as a whole, from a pipe, with XBZRLE or compressed pages, or with pages in multifd channels;
 *   or with a command that QEMU does not know; `truncated` if pages that postcopy discarded did not come after that;
 *   otherwise as `MigrationReader`.
 * @throws {QemuFileError} (rejects) `EBADMSG` for an index that is damaged or belongs to another file; `ENOTSUP` for one of
 *   another version; `ENOMEM` if the pages are in too many places; `ECANCELED` if aborted; the error of the file.
 * @example
 * ```js
 * const guest = await openSavedGuest(await unwrap(await openFrom('file:vm.mig')));
 * const page = new Uint8Array(guest.pages.pageSize);
 * await guest.pages.read(0, 0x100000, page);
 * await guest.close();
 * ```
 */
export function openSavedGuest(
  stream: Unwrapped,
  options: OpenSavedGuestOptions = {},
): Promise<SavedGuest> {
  return openSavedGuestWith(stream, options, undefined);
}

/**
 * Open a recorded stream as `openSavedGuest` does, with a follower of the pass over it.
 *
 * @param follower - Gets the pages, without an index.
 * @throws As `openSavedGuest`; (rejects) the errors of the follower.
 */
export async function openSavedGuestWith(
  stream: Unwrapped,
  options: OpenSavedGuestOptions,
  follower: PassFollower | undefined,
): Promise<SavedGuest> {
  checkFile('openSavedGuest', 'stream.file', stream?.file);
  let reads: PositionedReads | undefined;
  try {
    reads = await openPositionedReads(stream);
    if (options.index !== undefined) return await openWithIndex(reads, options.index);
    // A restore with an index starts sooner without the modules that read a whole stream.
    const { openWithPass } = await import('./open-with-pass.ts');
    return await openWithPass(reads, stream.fileOffset, options, follower);
  } catch (error) {
    await (reads ?? stream.file).close().catch(noop);
    throw error;
  }
}

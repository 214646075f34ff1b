import { checkGuest } from '../saved-guest/check-guest.ts';
import type { SavedGuest } from '../saved-guest/saved-guest.ts';
import type { MigrationWriter } from '../writer/migration-writer.ts';
import { GuestWriter, type StreamLayout } from './guest-writer.ts';
import { PageCopier } from './page-copier.ts';

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
  checkGuest('writeSavedGuest', 'guest', guest);
  const { layout = 'sequential', omitPages, mustDescribe = false, signal, onProgress } = options;
  const guestWriter = new GuestWriter(writer, layout, signal);
  const target = await guestWriter.begin(guest, guest.pages.blocks);
  await new PageCopier(guest.pages, target, signal).copyAll(onProgress, omitPages);
  await guestWriter.end(guest, mustDescribe);
}

/** Return the options of a writer for a guest. */
export function writerOptionsOf({ hasFooters, pages }: SavedGuest): {
  hasFooters: boolean;
  pageSize: number;
} {
  return { hasFooters, pageSize: pages.pageSize };
}

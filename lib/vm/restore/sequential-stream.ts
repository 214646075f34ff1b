import { memoryPair } from '../../../adapters/memory/memory-pair.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import {
  writerOptionsOf,
  writeSavedGuest,
} from '../../migration/guest-writer/write-saved-guest.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';

/** Bytes between the writer and the reader of the stream. */
const BUFFER_BYTES = 1_048_576;

/** Return a file to read a guest from, written as a sequential stream while it is read. */
export function sequentialStream(guest: SavedGuest, signal: AbortSignal | undefined): QemuFile {
  const [near, far] = memoryPair({ highWaterMark: BUFFER_BYTES });
  const to = new QemuFile(near, { readable: false });
  to.on('error', noop);
  const write = async (): Promise<void> => {
    try {
      await writeSavedGuest(guest, new MigrationWriter(to, writerOptionsOf(guest)), { signal });
      await to.close();
    } catch (error) {
      to.destroy(toQemuFileError(error));
      await to.close().catch(noop);
    }
  };
  void write();
  return new QemuFile(far, { writable: false });
}

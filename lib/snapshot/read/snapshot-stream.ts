import { toQemuFileError } from '../../contract/errors.ts';
import {
  writerOptionsOf,
  writeSavedGuest,
} from '../../migration/guest-writer/write-saved-guest.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { ChunkPipe } from '../chunk-pipe.ts';

/** Bytes that are written at a time. */
const BATCH_BYTES = 1_048_576;

/** Bytes that are read at a time. */
const READ_BYTES = 262_144;

/**
 * Return a file from which a guest is read as a migration stream of one round, each page once.
 *
 * @param guest - The guest. Closing the file closes it.
 * @param onClose - Called when the guest is closed.
 */
export function streamOf(
  guest: SavedGuest,
  onClose: () => Promise<void> = async () => {},
): QemuFile {
  const pipe = new ChunkPipe();
  const stop = new AbortController();
  const output = new QemuFile(
    { writevBuffer: (buffers) => pipe.write(buffers) },
    { stagingSize: BATCH_BYTES },
  );
  output.on('error', noop);
  let writing: Promise<void> | undefined;
  const write = async (): Promise<void> => {
    try {
      const writer = new MigrationWriter(output, writerOptionsOf(guest));
      await writeSavedGuest(guest, writer, { signal: stop.signal });
      await output.close();
      pipe.end();
    } catch (error) {
      const failure = toQemuFileError(error);
      pipe.end(failure);
      output.destroy(failure);
    }
  };
  return new QemuFile({
    getBuffer(space) {
      writing ??= write();
      return pipe.read(space);
    },
    async close() {
      stop.abort();
      pipe.leave();
      await writing;
      await guest.close();
      await onClose();
    },
    sizes: { lookAheadSize: READ_BYTES },
  });
}

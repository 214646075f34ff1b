import { toQemuFileError } from '../../contract/errors.ts';
import { mapStream } from '../../migration/rewrite/map-stream.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { CheckTap } from '../../relay/check-tap.ts';
import { noop } from '../../util/noop.ts';

/**
 * Return a sink that writes a sequential stream to a file as mapped-ram. Closing it closes the file; destroying it
 * destroys the file.
 *
 * @param to - A file that can seek; owned by the sink from now on.
 */
export function mappedRamSink(to: QemuFile): QemuFile {
  to.on('error', noop);
  const tap = new CheckTap((stream) => mapStream(stream, to));
  tap.file.on('error', noop);
  const failed = tap.done.then(() => new Promise<never>(noop));
  failed.catch(noop);
  return new QemuFile({
    async writevBuffer(buffers) {
      for (const buffer of buffers) tap.file.putBufferAsync(buffer);
      await Promise.race([tap.file.flush(), failed]);
      return buffers.reduce((sum, { length }) => sum + length, 0);
    },
    async close(error) {
      if (error === undefined) {
        try {
          await tap.file.close();
          await tap.done;
          await to.close();
          return;
        } catch (failure) {
          to.destroy(toQemuFileError(failure));
          await to.close().catch(noop);
          throw failure;
        }
      }
      tap.file.destroy(error);
      await tap.done.catch(noop);
      to.destroy(error);
      await to.close().catch(noop);
    },
  });
}

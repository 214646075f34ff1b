import { QemuFileError } from '../../contract/errors.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { ChunkPipe } from '../chunk-pipe.ts';

/** Bytes that the consumer reads at a time. */
const READ_BYTES = 262_144;

/**
 * Return a file whose bytes are read by a consumer in this process. Closing the file ends the bytes, and waits for
 * what the consumer makes of them; a consumer that fails makes the file fail.
 *
 * @param consume - Reads the file that it is given to its end; called at once.
 */
export function sinkOf(consume: (file: QemuFile) => Promise<unknown>): QemuFile {
  const pipe = new ChunkPipe();
  const input = new QemuFile({
    getBuffer: (space) => pipe.read(space),
    sizes: { lookAheadSize: READ_BYTES },
  });
  let isConsumed = false;
  const consumer = consume(input).finally(async () => {
    isConsumed = true;
    pipe.leave();
    await input.close().catch(noop);
  });
  consumer.catch(noop);
  return new QemuFile({
    async writevBuffer(buffers) {
      const total = await pipe.write(buffers);
      if (isConsumed) await consumer;
      return total;
    },
    async close(error) {
      pipe.end(
        error &&
          new QemuFileError('ECANCELED', 'the stream was given up before its end', {
            operation: 'writeSnapshot',
            cause: error,
          }),
      );
      try {
        await consumer;
      } catch (failure) {
        if (error === undefined) throw failure;
      }
    },
    sizes: { stagingSize: 262_144, highWaterMark: 1_048_576 },
  });
}

import { finished, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type CompressFormat, compressTo } from '../../adapters/index.ts';
import { toQemuFileError } from '../contract/errors.ts';
import { QemuFile } from '../qemu-file/qemu-file.ts';
import { noop } from '../util/noop.ts';

/** Where a stream is saved to. */
export type VmSink = QemuFile | Writable;

/**
 * Gives a file whose bytes go into a sink, compressed or as they are. When it is closed in order the sink has
 * got, and finished, everything; when it is destroyed, so is the sink.
 *
 * @param sink - Is the file's from now on.
 * @throws {QemuFileError} As `compressTo`.
 */
export function sinkFile(sink: VmSink, format: CompressFormat | undefined): QemuFile {
  if (format === undefined) return isQemuFile(sink) ? sink : throughStream(sink, whole(sink));
  const compressor = compressTo(format);
  return throughStream(compressor, pipeline(compressor, sink), sink);
}

function isQemuFile(sink: VmSink): sink is QemuFile {
  return 'putBufferAsync' in sink;
}

/** Settles when a stream has finished with what it was given, and has closed. */
function whole(stream: Writable): Promise<void> {
  return new Promise((resolve, reject) => {
    finished(stream, { readable: false }, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

/**
 * @param stream - Takes the bytes.
 * @param done - Settles when these are where they belong.
 * @param last - Where they end up, if that is another stream.
 */
function throughStream(stream: Writable, done: Promise<void>, last: VmSink = stream): QemuFile {
  done.catch(noop);
  // What comes late, when nobody waits for the stream any more, must not end the process.
  stream.on('error', noop);
  last.on('error', noop);
  /** What the last stream failed with is told rather than what came of that. */
  const failureOf = async (error: unknown): Promise<Error> => {
    const cause = isQemuFile(last) ? last.error : last.errored;
    const ended = await done.then(
      () => error,
      (failure: unknown) => failure,
    );
    return toQemuFileError(cause ?? ended);
  };
  return new QemuFile({
    writevBuffer: (buffers) =>
      new Promise((resolve, reject) => {
        const total = buffers.reduce((sum, { length }) => sum + length, 0);
        const onTaken = (error: Error | null | undefined): void => {
          if (error) void failureOf(error).then(reject);
          else resolve(total);
        };
        // Those that call back later have taken those before.
        buffers.forEach((buffer, index) => {
          if (index === buffers.length - 1) stream.write(buffer, onTaken);
          else stream.write(buffer);
        });
      }),
    close: async (error) => {
      if (error !== undefined) {
        stream.destroy(error);
        await done.catch(noop);
        // The pipeline has destroyed it; it may take its time to undo what it did.
        if (isQemuFile(last)) await last.close().catch(noop);
        return;
      }
      stream.end();
      try {
        await done;
        if (isQemuFile(last)) await last.close();
      } catch (failure) {
        throw await failureOf(failure);
      }
    },
  });
}

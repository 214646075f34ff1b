import { finished, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type CompressFormat, compressTo } from '../../../adapters/compress/compress.ts';
import { compressInto } from '../../../adapters/compress/compress-into.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { SnapshotFile } from '../../snapshot/write/snapshot-file.ts';
import { noop } from '../../util/noop.ts';
import { isRegularFile } from '../../util/regular-file.ts';
import { descriptorOffset, prefersProgram } from '../decompress.ts';

/** Where a stream is saved to. */
export type VmSink = QemuFile | Writable;

/** Return whether a sink can read the stream by itself, so that its check need not read it as well. */
export function readsStream(sink: VmSink): sink is SnapshotFile {
  return 'readStream' in sink;
}

/**
 * Return a file whose bytes go into a sink, compressed if a format is given. Closing the file waits until the
 * sink has taken everything and has finished; destroying it destroys the sink.
 *
 * @param sink - Owned by the file from now on.
 * @throws {QemuFileError} As `compressTo`.
 */
export async function sinkFile(
  sink: VmSink,
  format: CompressFormat | undefined,
): Promise<QemuFile> {
  if (format === undefined) return isQemuFile(sink) ? sink : fileOver(sink, waitFinished(sink));
  if (isQemuFile(sink) && (await canWriteToDescriptor(format, sink))) return fileInto(sink);
  const compressor = compressTo(format);
  return fileOver(compressor, pipeline(compressor, sink), sink);
}

/** Return whether the program of a format can write to the descriptor of a sink. */
async function canWriteToDescriptor(format: CompressFormat, sink: QemuFile): Promise<boolean> {
  const fd = sink.getFd();
  if (!prefersProgram(format) || !isRegularFile(fd)) return false;
  return (await sink.getOffset()) === descriptorOffset(fd);
}

/** Return a file whose bytes a program compresses into the descriptor of a sink. */
function fileInto(sink: QemuFile): QemuFile {
  sink.on('error', noop);
  const compression = compressInto(sink.getFd());
  return new QemuFile({
    ...compression,
    close: async (error) => {
      try {
        await compression.close(error);
        if (error !== undefined) throw error;
      } catch (failure) {
        sink.destroy(toQemuFileError(failure));
        await sink.close().catch(noop);
        throw failure;
      }
      await sink.close();
    },
  });
}

function isQemuFile(sink: VmSink): sink is QemuFile {
  return 'putBufferAsync' in sink;
}

/** Wait until a stream has finished and closed. */
function waitFinished(stream: Writable): Promise<void> {
  return new Promise((resolve, reject) => {
    finished(stream, { readable: false }, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

/**
 * @param stream - Takes the bytes.
 * @param done - Settles when the bytes have reached their destination.
 * @param last - The stream at the end of the chain, if it is another one.
 */
function fileOver(stream: Writable, done: Promise<void>, last: VmSink = stream): QemuFile {
  done.catch(noop);
  // An error that comes after the file was closed must not end the process.
  stream.on('error', noop);
  last.on('error', noop);
  /** Return the root cause instead of the error that followed from it. */
  const rootCause = async (error: unknown): Promise<Error> => {
    const cause = isQemuFile(last) ? last.error : last.errored;
    const outcome = await done.then(
      () => error,
      (failure: unknown) => failure,
    );
    return toQemuFileError(cause ?? outcome);
  };
  return new QemuFile({
    writevBuffer: (buffers) =>
      new Promise((resolve, reject) => {
        const total = buffers.reduce((sum, { length }) => sum + length, 0);
        const onTaken = (error: Error | null | undefined): void => {
          if (error) void rootCause(error).then(reject);
          else resolve(total);
        };
        // A stream takes buffers in order, so the callback of the last one stands for all of them.
        buffers.forEach((buffer, index) => {
          if (index === buffers.length - 1) stream.write(buffer, onTaken);
          else stream.write(buffer);
        });
      }),
    close: async (error) => {
      if (error !== undefined) {
        stream.destroy(error);
        await done.catch(noop);
        // The pipeline has destroyed `last`, which may still be removing what it created.
        if (isQemuFile(last)) await last.close().catch(noop);
        return;
      }
      stream.end();
      try {
        await done;
        if (isQemuFile(last)) await last.close();
      } catch (failure) {
        throw await rootCause(failure);
      }
    },
  });
}

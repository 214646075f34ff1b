import { decompressWith } from '../../../adapters/compress/decompress.ts';
import { unwrap } from '../../migration/containers/unwrap.ts';
import { openSource, type StreamSource } from '../../migration/format/stream-source.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';

/** A stream without its containers. */
export interface BareStream extends AsyncDisposable {
  readonly file: QemuFile;
  /** Offset of the stream's first byte in its file. */
  readonly fileOffset: number;
}

/**
 * Open a stream, and the containers that it is in. What is opened here is closed when the result is disposed of; a
 * `QemuFile` of the caller stays open, except if it is a container.
 */
export async function openBareStream(source: StreamSource): Promise<BareStream> {
  const { file, close } = openSource(source);
  try {
    const unwrapped = await unwrap(file, {
      decompress: (format) => (compressed) => new QemuFile(decompressWith(format)(compressed)),
    });
    const { fileOffset } = unwrapped;
    return {
      file: unwrapped.file,
      fileOffset,
      async [Symbol.asyncDispose]() {
        if (unwrapped.container !== null) await unwrapped.file.close().catch(noop);
        await close();
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

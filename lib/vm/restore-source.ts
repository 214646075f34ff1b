import { decompressWith } from '../../adapters/index.ts';
import type { Compression } from '../migration/containers/sniff.ts';
import { type Unwrapped, unwrap } from '../migration/containers/unwrap.ts';
import type { Configuration } from '../migration/format/events.ts';
import { MigrationStreamError } from '../migration/format/stream-error.ts';
import { MigrationReader } from '../migration/reader/migration-reader.ts';
import { QemuFile } from '../qemu-file/qemu-file.ts';

/** A stream that is to be restored. */
export interface OpenSource {
  unwrapped: Unwrapped;
  /** What it says of itself; null if it says nothing, or nothing that can be read. */
  configuration: Configuration | null;
}

/** Bytes in which a stream's configuration is, with room to spare. */
const START = 4096;

/**
 * Finds the stream in a source, and looks at its start without consuming it.
 *
 * @throws As `unwrap`.
 */
export async function openRestoreSource(
  source: QemuFile,
  snapshot: string | undefined,
): Promise<OpenSource> {
  const unwrapped = await unwrap(source, { decompress, snapshot });
  const { file } = unwrapped;
  await file.fillOrEnd(START);
  return { unwrapped, configuration: await configurationOf(file.peekBuffer(START).slice()) };
}

function decompress(format: Compression): (compressed: QemuFile) => QemuFile {
  return (compressed) => new QemuFile(decompressWith(format)(compressed));
}

async function configurationOf(start: Uint8Array): Promise<Configuration | null> {
  try {
    for await (const event of new MigrationReader(only(start))) {
      if (event.type === 'header') continue;
      return event.type === 'configuration' ? event.configuration : null;
    }
  } catch (error) {
    // It will be told where the stream is read.
    if (!(error instanceof MigrationStreamError)) throw error;
  }
  return null;
}

async function* only(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield await Promise.resolve(bytes);
}

import { type Unwrapped, unwrap } from '../../migration/containers/unwrap.ts';
import type { Configuration } from '../../migration/format/events.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';
import { MigrationReader } from '../../migration/reader/migration-reader.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { decompress } from '../decompress.ts';

/** A stream to be restored. */
export interface OpenSource {
  unwrapped: Unwrapped;
  /** The configuration section at the start of the stream; null if there is none, or it cannot be read. */
  configuration: Configuration | null;
}

/** Bytes from the start of a stream that hold its configuration section, with a margin. */
const START_BYTES = 4096;

/**
 * Find the stream in a source, and read its configuration without consuming it.
 *
 * @throws As `unwrap`.
 */
export async function openRestoreSource(
  source: QemuFile,
  snapshot: string | undefined,
): Promise<OpenSource> {
  const unwrapped = await unwrap(source, { decompress, snapshot });
  const { file } = unwrapped;
  await file.fillOrEnd(START_BYTES);
  return {
    unwrapped,
    configuration: await readConfiguration(file.peekBuffer(START_BYTES).slice()),
  };
}

async function readConfiguration(start: Uint8Array): Promise<Configuration | null> {
  try {
    for await (const event of new MigrationReader(singleChunk(start))) {
      if (event.type === 'header') continue;
      return event.type === 'configuration' ? event.configuration : null;
    }
  } catch (error) {
    // The check that reads the whole stream reports it.
    if (!(error instanceof MigrationStreamError)) throw error;
  }
  return null;
}

async function* singleChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield await Promise.resolve(bytes);
}

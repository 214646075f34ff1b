import { type Unwrapped, unwrap } from '../../migration/containers/unwrap.ts';
import type { Configuration, RamBlock } from '../../migration/format/events.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';
import { MigrationReader } from '../../migration/reader/migration-reader.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';

import { decompress, prefersProgram } from '../decompress.ts';
import { lookUpDescription } from '../look-up-description.ts';
import type { StreamFacts } from '../preflight/preflight.ts';

/** A stream to be restored. */
export interface OpenSource {
  unwrapped: Unwrapped;
  /** The configuration section at the start of the stream; null if there is none, or it cannot be read. */
  configuration: Configuration | null;
  /** Facts of the stream about the machine that can load it. */
  facts: StreamFacts;
}

/** Bytes from the start of a stream that hold its configuration section and its list of RAM blocks, with a margin. */
const START_BYTES = 32_768;

/**
 * Find the stream in a source, and read its configuration and its list of RAM blocks without consuming them.
 *
 * @throws As `unwrap`.
 */
export async function openRestoreSource(
  source: QemuFile,
  snapshot: string | undefined,
): Promise<OpenSource> {
  const unwrapped = await unwrap(source, {
    decompress,
    prefersDecompress: prefersProgram,
    snapshot,
  });
  const { file } = unwrapped;
  await file.fillOrEnd(START_BYTES);
  const { configuration, blocks } = await readStart(file.peekBuffer(START_BYTES).slice());
  const capabilities = configuration?.capabilities ?? [];
  const facts = {
    machine: configuration?.machine ?? null,
    capabilities,
    blocks,
    // A mapped-ram stream has the pages of each block between the entries of the list.
    hasAllBlocks: !capabilities.includes('mapped-ram'),
    sections: await readSections(unwrapped),
  };
  return { unwrapped, configuration, facts };
}

interface StreamStart {
  configuration: Configuration | null;
  blocks: readonly RamBlock[] | null;
}

async function readStart(start: Uint8Array): Promise<StreamStart> {
  const found: StreamStart = { configuration: null, blocks: null };
  const pages = {
    blocks: (blocks: readonly RamBlock[]) => {
      found.blocks = blocks;
    },
  };
  try {
    for await (const event of new MigrationReader(singleChunk(start), { pages })) {
      if (event.type === 'configuration') found.configuration = event.configuration;
      if (found.blocks !== null) break;
    }
  } catch (error) {
    // The end of the chunk, or a fault that the check of the whole stream reports.
    if (!(error instanceof MigrationStreamError)) throw error;
  }
  return found;
}

/** Return the device sections by the VM description at the end of a regular file; null if there is none. */
async function readSections(unwrapped: Unwrapped): Promise<StreamFacts['sections']> {
  const found = await lookUpDescription(unwrapped);
  return (
    found?.description.devices.map(({ name, instance_id: instanceId }) => ({ name, instanceId })) ??
    null
  );
}

async function* singleChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield await Promise.resolve(bytes);
}

import type { Transform } from 'node:stream';
import zlib from 'node:zlib';
import type { PayloadCompression, PayloadDecoder } from './payload-decoder.ts';
import { StreamPayloadDecoder } from './stream-payload-decoder.ts';
import { WorkerZstdDecoder } from './worker-zstd-decoder.ts';
import { MAX_WINDOW_LOG } from './zstd-frame.ts';

/** `ZSTD_d_windowLogMax`, which the types of Node 20 lack. */
const ZSTD_WINDOW_LOG_MAX = 100;

/** Size of the chunks that node:zlib produces. */
const OUTPUT_CHUNK_BYTES = 65_536;

/** The type of `zlib.createZstdDecompress`, which the types of Node 20 lack. */
type CreateZstdDecompress = (options: zlib.BrotliOptions) => Transform;

/**
 * Create the decoder of a channel.
 *
 * For zstd it uses node:zlib where that has zstd (Node 22.15 and later), and a worker thread elsewhere.
 */
export function createPayloadDecoder(compression: PayloadCompression): PayloadDecoder {
  const options = { chunkSize: OUTPUT_CHUNK_BYTES };
  if (compression === 'zlib') {
    // With Z_SYNC_FLUSH, inflate() has put out all it can when a write is done.
    const flush = zlib.constants.Z_SYNC_FLUSH;
    return new StreamPayloadDecoder(zlib.createInflate({ ...options, flush }));
  }
  const { createZstdDecompress } = zlib as { createZstdDecompress?: CreateZstdDecompress };
  if (createZstdDecompress === undefined) return new WorkerZstdDecoder();
  const params = { [ZSTD_WINDOW_LOG_MAX]: MAX_WINDOW_LOG };
  return new StreamPayloadDecoder(createZstdDecompress({ ...options, params }));
}

// Payloads of multifd packets as QEMU compresses them: slices of one stream, flushed at the end of each packet.
import type { Transform } from 'node:stream';
import zlib from 'node:zlib';

/** Return the part of a compressed stream that ends with these bytes. */
export type Slice = (chunk: Uint8Array) => Promise<Buffer>;

/** Compressors of `node:zlib` can be flushed; the types of Node 20 lack those for zstd. */
type Compressor = Transform & { flush(kind: number, callback: () => void): void };
interface Zstd {
  readonly createZstdCompress?: () => Compressor;
  readonly constants: { readonly ZSTD_e_flush?: number };
}

const ZSTD_FRAME_START = Buffer.from('28b52ffd0038', 'hex');
const MAX_ZSTD_BLOCK_BYTES = 131_072;

/** Begin the stream of a channel. */
export function sliceWith(method: 'none' | 'zlib' | 'zstd'): Slice {
  if (method === 'none') return (chunk) => Promise.resolve(Buffer.from(chunk));
  if (method === 'zlib') return sliceBy(zlib.createDeflate(), zlib.constants.Z_SYNC_FLUSH);
  const { createZstdCompress, constants } = zlib as Zstd;
  if (createZstdCompress === undefined) return rawZstd();
  return sliceBy(createZstdCompress(), constants.ZSTD_e_flush as number);
}

/**
 * Compress chunks with zlib.
 *
 * @returns One slice for each chunk.
 */
export async function deflateSlices(chunks: Iterable<Uint8Array>): Promise<Buffer[]> {
  const slice = sliceWith('zlib');
  const slices: Buffer[] = [];
  for (const chunk of chunks) slices.push(await slice(chunk));
  return slices;
}

/** A slice has all that was put out for it: `read()` is called until null, because one call may return a part. */
function sliceBy(compressor: Compressor, flushKind: number): Slice {
  return async (chunk) => {
    const output: Buffer[] = [];
    const readAll = (): void => {
      const read = (): Buffer | null => compressor.read() as Buffer | null;
      for (let part = read(); part !== null; part = read()) output.push(part);
    };
    compressor.on('readable', readAll);
    compressor.write(chunk);
    await new Promise<void>((done) => compressor.flush(flushKind, done));
    compressor.off('readable', readAll);
    readAll();
    return Buffer.concat(output);
  };
}

/** A zstd frame of blocks that are not compressed, with a window of 128 KiB, where Node.js has no zstd. */
function rawZstd(): Slice {
  let start = ZSTD_FRAME_START;
  return (chunk) => {
    const parts: Uint8Array[] = [start];
    start = Buffer.alloc(0);
    for (let at = 0; at < chunk.length; at += MAX_ZSTD_BLOCK_BYTES) {
      const block = chunk.subarray(at, at + MAX_ZSTD_BLOCK_BYTES);
      const header = Buffer.alloc(3);
      header.writeUIntLE(block.length << 3, 0, 3);
      parts.push(header, block);
    }
    return Promise.resolve(Buffer.concat(parts));
  };
}

import zlib from 'node:zlib';
import { decompress as decompressInScript } from 'fzstd';

/** How the bytes of a frame or of a map are stored. */
export const CODEC = { raw: 0, zstd: 1, deflate: 2 } as const;
export type Codec = (typeof CODEC)[keyof typeof CODEC];

/** Bytes in their stored form. */
export interface Packed {
  readonly codec: Codec;
  readonly bytes: Uint8Array;
}

type Compress = (
  bytes: Uint8Array,
  options: object,
  callback: (error: Error | null, result: Buffer) => void,
) => void;

// Node has zstd since 22.15.
const { zstdCompress, zstdDecompress } = zlib as {
  zstdCompress?: Compress;
  zstdDecompress?: Compress;
};

/** Level of both formats: a higher one takes longer than a guest can wait. */
const LEVEL = 1;

/** The stored form must be smaller by this part, so that reading it is worth the decompression. */
const MIN_GAIN = 1 / 32;

/** Bytes by which a compressed form may exceed its content. */
const MAX_GROWTH_BYTES = 4096;

const zstdOptions = {
  params: {
    [(zlib.constants as { ZSTD_c_compressionLevel?: number }).ZSTD_c_compressionLevel ?? 100]:
      LEVEL,
  },
};

/** Compress bytes, in a thread of Node's pool. What does not become smaller is stored as it is. */
export async function compress(bytes: Uint8Array): Promise<Packed> {
  const codec = zstdCompress === undefined ? CODEC.deflate : CODEC.zstd;
  const function_ = zstdCompress ?? zlib.deflate;
  const options = zstdCompress === undefined ? { level: LEVEL } : zstdOptions;
  // With room for the whole output, the thread pool is used once, and not once for each 16 KiB.
  const room = bytes.length + MAX_GROWTH_BYTES;
  const packed = await inPool(function_, bytes, { ...options, chunkSize: room });
  if (packed.length > bytes.length * (1 - MIN_GAIN)) return { codec: CODEC.raw, bytes };
  // The room that was not used would be retained as long as the result.
  return { codec, bytes: packed.length < room / 2 ? Buffer.from(packed) : packed };
}

/**
 * Decompress bytes to exactly `length` bytes.
 *
 * @throws Error with the reason as a clause, if they do not decompress to as many bytes; never more than that
 *   are allocated.
 */
export async function decompress(packed: Packed, length: number): Promise<Uint8Array> {
  const { codec, bytes } = packed;
  if (codec === CODEC.raw) return checkLength(bytes, length);
  const options = { chunkSize: Math.max(length, 64), maxOutputLength: Math.max(length, 1) };
  if (codec === CODEC.deflate) {
    return checkLength(await inPool(zlib.inflate, bytes, options), length);
  }
  if (zstdDecompress !== undefined) {
    return checkLength(await inPool(zstdDecompress, bytes, options), length);
  }
  return checkLength(decompressInScript(bytes, new Uint8Array(length)), length);
}

/** Return whether a number is that of a codec. */
export function isCodec(value: number): value is Codec {
  return value === CODEC.raw || value === CODEC.zstd || value === CODEC.deflate;
}

function inPool(work: Compress, bytes: Uint8Array, options: object): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    work(bytes, options, (error, result) => {
      if (error !== null) reject(error);
      else resolve(result);
    });
  });
}

function checkLength(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length === length) return bytes;
  throw new Error(`it has ${bytes.length} bytes, not ${length}`);
}

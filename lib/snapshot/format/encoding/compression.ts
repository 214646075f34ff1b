import zlib from 'node:zlib';
import { decompress as decompressInScript } from 'fzstd';
import { freeMemory } from '../../../util/free-memory.ts';
import { isDense } from './dense-bytes.ts';

/** How the bytes of a frame or of a map are stored. */
export const CODEC = { raw: 0, zstd: 1, deflate: 2 } as const;
export type Codec = (typeof CODEC)[keyof typeof CODEC];

/** Bytes in their stored form. */
export interface Packed {
  readonly codec: Codec;
  readonly bytes: Uint8Array;
}

type CompressSync = (bytes: Uint8Array, options: object) => Buffer;

type Compress = (
  bytes: Uint8Array,
  options: object,
  callback: (error: Error | null, result: Buffer) => void,
) => void;

// Node has zstd since 22.15.
const { zstdCompress, zstdCompressSync, zstdDecompress, zstdDecompressSync } = zlib as {
  zstdCompress?: Compress;
  zstdCompressSync?: CompressSync;
  zstdDecompress?: Compress;
  zstdDecompressSync?: CompressSync;
};

/** Level of both formats: a higher one takes longer than a guest can wait. */
const LEVEL = 1;

/** The stored form must be smaller by this part, so that reading it is worth the decompression. */
const MIN_GAIN = 1 / 16;

/** Of the contents that look dense, a part of one in so many is compressed all the same. */
const DENSE_TRIAL_INTERVAL = 8;

/** Bytes of that part: to compress a whole frame in eight with zlib takes as long as all of the other work. */
const DENSE_TRIAL_BYTES = zstdCompressSync === undefined ? 16_384 : Number.POSITIVE_INFINITY;

/** Bytes by which a compressed form may exceed its content. */
const MAX_GROWTH_BYTES = 4096;

const zstdOptions = {
  params: {
    [(zlib.constants as { ZSTD_c_compressionLevel?: number }).ZSTD_c_compressionLevel ?? 100]:
      LEVEL,
  },
};

const codecOfWriter: Codec = zstdCompress === undefined ? CODEC.deflate : CODEC.zstd;
const optionsOfWriter: object = zstdCompress === undefined ? { level: LEVEL } : zstdOptions;

/** Compress bytes, in a thread of Node's pool. What does not become smaller is stored as it is. */
export async function compress(bytes: Uint8Array): Promise<Packed> {
  // With room for the whole output, the thread pool is used once, and not once for each 16 KiB.
  const room = bytes.length + MAX_GROWTH_BYTES;
  const options = { ...optionsOfWriter, chunkSize: room };
  const packed = await inPool(zstdCompress ?? zlib.deflate, bytes, options);
  if (isTooLarge(packed, bytes)) return { codec: CODEC.raw, bytes };
  // The room that was not used would be retained as long as the result.
  return {
    codec: codecOfWriter,
    bytes: packed.length < room / 2 ? Buffer.from(packed) : packed,
  };
}

/** How a frame is stored. */
export interface CompressedFrame {
  readonly codec: Codec;
  readonly storedBytes: number;
}

/**
 * Compresses frames in this thread. What does not become smaller is stored as it is, most of it without being
 * compressed first, because that would take most of the time that dense memory takes.
 */
export class FrameCompressor {
  #denseFrames = 0;
  #trialAt = 0;
  #isDenseWorthwhile = false;

  /** Compress bytes into `target`, which has as many; it is not changed if they are stored as they are. */
  compress(bytes: Uint8Array, target: Uint8Array): CompressedFrame {
    const raw = { codec: CODEC.raw, storedBytes: bytes.length };
    const looksDense = isDense(bytes);
    if (looksDense && !this.#isDenseWorthwhile && !this.#isPartWorthwhile(bytes)) return raw;
    const packed = compressNow(bytes);
    const storedBytes = packed.length;
    const isRaw = isTooLarge(packed, bytes);
    if (!isRaw) target.set(packed);
    freeMemory(packed);
    // Bytes that look dense can still repeat.
    if (looksDense) this.#isDenseWorthwhile = !isRaw;
    return isRaw ? raw : { codec: codecOfWriter, storedBytes };
  }

  /** Return whether a part of the bytes becomes smaller, another part each time; false where that is not tried. */
  #isPartWorthwhile(bytes: Uint8Array): boolean {
    this.#denseFrames = (this.#denseFrames + 1) % DENSE_TRIAL_INTERVAL;
    if (this.#denseFrames !== 1) return false;
    if (this.#trialAt >= bytes.length) this.#trialAt = 0;
    const part = bytes.subarray(this.#trialAt, this.#trialAt + DENSE_TRIAL_BYTES);
    this.#trialAt += DENSE_TRIAL_BYTES;
    const packed = compressNow(part);
    const isWorthwhile = !isTooLarge(packed, part);
    freeMemory(packed);
    return isWorthwhile;
  }
}

function compressNow(bytes: Uint8Array): Buffer {
  const options = { ...optionsOfWriter, chunkSize: bytes.length + MAX_GROWTH_BYTES };
  return (zstdCompressSync ?? zlib.deflateSync)(bytes, options);
}

/**
 * Decompress bytes to exactly `length` bytes, in this thread.
 *
 * @throws Error as `decompress`.
 */
export function decompressNow({ codec, bytes }: Packed, length: number): Uint8Array {
  if (codec === CODEC.raw) return checkLength(bytes, length);
  const options = optionsOfReader(length);
  if (codec === CODEC.deflate) return checkLength(zlib.inflateSync(bytes, options), length);
  if (zstdDecompressSync !== undefined) {
    return checkLength(zstdDecompressSync(bytes, options), length);
  }
  return checkLength(decompressInScript(bytes, new Uint8Array(length)), length);
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
  const options = optionsOfReader(length);
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

function optionsOfReader(length: number): object {
  return { chunkSize: Math.max(length, 64), maxOutputLength: Math.max(length, 1) };
}

function isTooLarge(packed: Uint8Array, bytes: Uint8Array): boolean {
  return packed.length > bytes.length * (1 - MIN_GAIN);
}

function checkLength(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length === length) return bytes;
  throw new Error(`it has ${bytes.length} bytes, not ${length}`);
}

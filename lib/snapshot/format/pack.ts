import { damaged } from './damage.ts';
import { sha256Hex } from './digest.ts';
import { ByteReader } from './encoding/byte-reader.ts';
import { ByteWriter } from './encoding/byte-writer.ts';
import { type Codec, isCodec } from './encoding/compression.ts';
import { packKey } from './keys.ts';
import {
  DIGEST_BYTES,
  FINGERPRINT_BYTES,
  isPageSize,
  MAX_FRAME_BYTES,
  MAX_PACK_BYTES,
  MIN_BYTES_PER_FINGERPRINT_BYTE,
  pagesPerFrame as pagesPerFrameOf,
  STORE_VERSION,
} from './limits.ts';

/*
 *   pack = head, frames, fingerprints
 *   head = magic, version, page size, pages per frame, pages, frames, SHA-256 of the fingerprints, frame table
 *
 * A pack is named by the SHA-256 of its head, which has the SHA-256 of everything else. So a reader that has
 * checked the head can check any part of the rest by itself.
 */

const MAGIC = Buffer.from('QFILPACK');
/** Bytes of the head before the frame table. */
const FIXED_BYTES: number = MAGIC.length + 5 * 4 + DIGEST_BYTES;
/** First bytes of a pack, from which the length of its head is known. */
export const HEAD_START_BYTES: number = FIXED_BYTES;
/** Bytes of a frame in the table: codec, stored length, SHA-256. */
const ENTRY_BYTES: number = 1 + 4 + DIGEST_BYTES;
/** Most frames of a pack: even a frame of one byte needs its entry. */
const MAX_FRAMES: number = Math.floor(MAX_PACK_BYTES / ENTRY_BYTES);

/** A frame of a pack that is written. */
export interface FrameEntry {
  readonly codec: Codec;
  /** Bytes as they are stored. */
  readonly storedBytes: number;
  /** SHA-256 of the stored bytes. */
  readonly digest: Uint8Array;
}

/** The contents of a pack's head. */
export interface PackHead {
  readonly pageSize: number;
  /** Pages of each frame; the last one may have fewer. */
  readonly pagesPerFrame: number;
  readonly pages: number;
  /** Codec of each frame. */
  readonly codecs: Uint8Array;
  /** Offset in the pack of each frame, and of the fingerprints, which follow the last frame. */
  readonly offsets: Uint32Array;
  /** SHA-256 of each frame as it is stored, one after the other. */
  readonly digests: Buffer;
  readonly fingerprintsDigest: Buffer;
  /** Offset in the fingerprints of those of each frame, and of their end. A frame may have none. */
  readonly fingerprintOffsets: Uint32Array;
}

/**
 * Return the number of bytes of the fingerprints of a frame's pages. A small frame has none: a reader that
 * needs them reads the frame.
 *
 * @param storedBytes - Bytes of the frame as it is stored.
 */
export function fingerprintBytes(pages: number, storedBytes: number): number {
  const bytes = pages * FINGERPRINT_BYTES;
  return storedBytes < bytes * MIN_BYTES_PER_FINGERPRINT_BYTE ? 0 : bytes;
}

/** Return the number of bytes of a head. */
export function headBytes(frames: number): number {
  return FIXED_BYTES + frames * ENTRY_BYTES;
}

/**
 * Return the number of bytes of a head from its first bytes, before they can be checked.
 *
 * @param start - The first `HEAD_START_BYTES` of a pack.
 */
export function headBytesOf(start: Buffer): number {
  return headBytes(Math.min(start.readUInt32BE(MAGIC.length + 16), MAX_FRAMES));
}

/** Return the number of frames that hold `pages`. */
export function frameCount(pages: number, pagesPerFrame: number): number {
  return Math.ceil(pages / pagesPerFrame);
}

/** Return the number of pages of a frame. */
export function pagesOfFrame({ pages, pagesPerFrame }: PackHead, frame: number): number {
  return Math.min(pagesPerFrame, pages - frame * pagesPerFrame);
}

/** Return the head of a pack. */
export function encodeHead(head: {
  readonly pageSize: number;
  readonly pagesPerFrame: number;
  readonly pages: number;
  readonly frames: readonly FrameEntry[];
  readonly fingerprintsDigest: Buffer;
}): Buffer {
  const writer = new ByteWriter();
  writer.bytes(MAGIC);
  writer.u32(STORE_VERSION);
  writer.u32(head.pageSize);
  writer.u32(head.pagesPerFrame);
  writer.u32(head.pages);
  writer.u32(head.frames.length);
  writer.bytes(head.fingerprintsDigest);
  for (const { codec, storedBytes, digest } of head.frames) {
    writer.u8(codec);
    writer.u32(storedBytes);
    writer.bytes(digest);
  }
  return writer.finish();
}

/**
 * Decode the head of a pack, after checking it against the pack's name.
 *
 * @param bytes - The head, whole.
 * @param digest - Name of the pack.
 * @throws {QemuFileError} `EBADMSG` if it is not the head of that pack, or has values out of range.
 */
export function decodeHead(bytes: Uint8Array, digest: string): PackHead {
  const fail = (reason: string): Error => damaged(packKey(digest), reason);
  if (sha256Hex(bytes) !== digest) throw fail('its head has another SHA-256 than its name');
  const reader = new ByteReader(bytes, fail);
  if (!reader.bytes(MAGIC.length).equals(MAGIC)) throw fail('it does not begin as a pack');
  const version = reader.u32();
  if (version !== STORE_VERSION) throw fail(`version ${version}, not ${STORE_VERSION}`);
  const pageSize = reader.u32();
  const pagesPerFrame = reader.u32();
  const pages = reader.u32();
  const count = reader.u32();
  if (!isPageSize(pageSize)) throw fail(`pages of ${pageSize} bytes`);
  if (pagesPerFrame !== pagesPerFrameOf(pageSize)) {
    throw fail(`frames of ${pagesPerFrame} pages of ${pageSize} bytes`);
  }
  if (count === 0 || count > MAX_FRAMES || frameCount(pages, pagesPerFrame) !== count) {
    throw fail(`${pages} pages in ${count} frames`);
  }
  const fingerprintsDigest = reader.bytes(DIGEST_BYTES);
  const codecs = new Uint8Array(count);
  const offsets = new Uint32Array(count + 1);
  const digests = Buffer.allocUnsafe(count * DIGEST_BYTES);
  const fingerprintOffsets = new Uint32Array(count + 1);
  offsets[0] = headBytes(count);
  for (let frame = 0; frame < count; frame++) {
    const codec = reader.u8();
    const storedBytes = reader.u32();
    if (!isCodec(codec)) throw fail(`frame ${frame} has codec ${codec}`);
    if (storedBytes > MAX_FRAME_BYTES) throw fail(`frame ${frame} has ${storedBytes} bytes`);
    codecs[frame] = codec;
    offsets[frame + 1] = (offsets[frame] as number) + storedBytes;
    const ownPages = Math.min(pagesPerFrame, pages - frame * pagesPerFrame);
    fingerprintOffsets[frame + 1] =
      (fingerprintOffsets[frame] as number) + fingerprintBytes(ownPages, storedBytes);
    reader.bytes(DIGEST_BYTES).copy(digests, frame * DIGEST_BYTES);
  }
  if (reader.left > 0) throw fail(`${reader.left} bytes follow its head`);
  return {
    pageSize,
    pagesPerFrame,
    pages,
    codecs,
    offsets,
    digests,
    fingerprintsDigest,
    fingerprintOffsets,
  };
}

/** Return the number of bytes of a whole pack. */
export function packBytes({ codecs, offsets, fingerprintOffsets }: PackHead): number {
  return (offsets[codecs.length] as number) + (fingerprintOffsets[codecs.length] as number);
}

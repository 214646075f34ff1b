import {
  CODEC,
  type Codec,
  type CompressedFrame,
  decompressNow,
  FrameCompressor,
} from '../format/compression.ts';
import { sha256 } from '../format/digest.ts';
import { fingerprintPages } from '../format/fingerprint.ts';

/** Find the fingerprints of pages. Both buffers are shared with the caller. */
export interface FingerprintTask {
  readonly kind: 'fingerprint';
  readonly pages: Uint8Array;
  readonly count: number;
  readonly pageSize: number;
  /** Filled with the fingerprints. */
  readonly fingerprints: Uint8Array;
}

/** Bring frames into their stored form. Both buffers are shared with the caller. */
export interface PackTask {
  readonly kind: 'pack';
  /** The pages of the frames, one after the other. */
  readonly pages: Uint8Array;
  /** Bytes of a frame's pages; the last frame may have fewer. */
  readonly frameBytes: number;
  /** Each frame's place is filled with its stored form, unless that is the pages as they are. As long as the pages. */
  readonly packed: Uint8Array;
}

/** The stored form of a frame. */
export interface PackedFrame extends CompressedFrame {
  /** SHA-256 of the stored form. */
  readonly digest: Uint8Array;
}

/** A frame that is read, in the bytes of an `OpenTask`. */
export interface StoredFrame {
  readonly codec: Codec;
  readonly start: number;
  readonly end: number;
  /** SHA-256 of the stored form. */
  readonly digest: Uint8Array;
  /** Bytes of the contents. */
  readonly length: number;
}

/** Check and decompress frames. The bytes are handed over, and so are the contents. */
export interface OpenTask {
  readonly kind: 'open';
  readonly bytes: Uint8Array;
  readonly frames: readonly StoredFrame[];
}

/** The contents of a frame, or why there are none, as a clause. */
export type OpenedFrame = Uint8Array | string;

/** Why a frame cannot be opened. */
export const OPEN_FAULT = {
  digest: 'it has another SHA-256 than the head says',
  codec: (error: unknown): string => `it does not decompress: ${(error as Error).message}`,
};

export type FrameTask = FingerprintTask | PackTask | OpenTask;

/** The result of each kind of task. */
export interface FrameResults {
  fingerprint: null;
  pack: readonly PackedFrame[];
  open: readonly OpenedFrame[];
}

const compressor = new FrameCompressor();

/** Do a task in this thread. */
export function doTask(task: FrameTask): FrameResults[FrameTask['kind']] {
  switch (task.kind) {
    case 'fingerprint':
      fingerprintPages(
        bufferOf(task.pages),
        task.count,
        task.pageSize,
        bufferOf(task.fingerprints),
      );
      return null;
    case 'pack':
      return packFrames(task);
    case 'open':
      return openFrames(task);
  }
}

function packFrames({ pages, frameBytes, packed }: PackTask): PackedFrame[] {
  const frames: PackedFrame[] = [];
  for (let at = 0; at < pages.length; at += frameBytes) {
    const own = pages.subarray(at, at + frameBytes);
    const target = packed.subarray(at, at + own.length);
    const { codec, storedBytes } = compressor.compress(own, target);
    const stored = codec === CODEC.raw ? own : target.subarray(0, storedBytes);
    frames.push({ codec, storedBytes, digest: sha256(stored) });
  }
  return frames;
}

/** Each frame is checked before it is decompressed. */
function openFrames({ bytes, frames }: OpenTask): OpenedFrame[] {
  return frames.map(({ codec, start, end, digest, length }) => {
    const stored = bytes.subarray(start, end);
    if (!sha256(stored).equals(digest)) return OPEN_FAULT.digest;
    try {
      return decompressNow({ codec, bytes: stored }, length);
    } catch (error) {
      return OPEN_FAULT.codec(error);
    }
  });
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

import { sha256 } from '../format/digest.ts';
import { CODEC, type CompressedFrame, FrameCompressor } from '../format/encoding/compression.ts';
import { fingerprintPages } from '../format/fingerprint.ts';
import { type OpenFault, type OpenTask, openFrames } from './open-frames.ts';

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

export type FrameTask = FingerprintTask | PackTask | OpenTask;

/** The result of each kind of task. */
export interface FrameResults {
  fingerprint: null;
  pack: readonly PackedFrame[];
  /** Null for each frame whose contents are there. */
  open: readonly (OpenFault | null)[];
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

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

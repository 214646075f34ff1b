import { hash } from 'node:crypto';
import fs from 'node:fs';
import { freeMemory } from '../../util/free-memory.ts';
import { CODEC, type Codec, decompressNow } from '../format/encoding/compression.ts';

/** A frame that is read. */
export interface StoredFrame {
  readonly codec: Codec;
  /** Place of the stored form in the source of the task. */
  readonly start: number;
  readonly end: number;
  /** SHA-256 of the stored form: a character for each byte. */
  readonly digest: string;
  /** Filled with the contents, all of it. Shared with the caller. */
  readonly contents: Uint8Array;
}

/** Read, check and decompress frames. */
export interface OpenTask {
  readonly kind: 'open';
  /** Descriptor of the pack; or bytes of it, which are handed over. */
  readonly source: number | Uint8Array;
  readonly frames: readonly StoredFrame[];
}

/** Why a frame has no contents. */
export interface OpenFault {
  /** `EBADMSG`: it is damaged; `ENODATA`: the pack ends before it does; otherwise the code of read(2). */
  readonly code: string;
  /** Number of the error of read(2). */
  readonly errno?: number | undefined;
  /** A clause about the frame. */
  readonly reason: string;
}

/** The faults of a frame that was read. */
export const OPEN_FAULT = {
  digest: { code: 'EBADMSG', reason: 'it has another SHA-256 than the head says' },
  codec: (error: unknown): OpenFault => ({
    code: 'EBADMSG',
    reason: `it does not decompress: ${(error as Error).message}`,
  }),
};

/** Memory for stored forms that are decompressed. */
let scratch = Buffer.alloc(0);

/** Read frames, check each against its digest, and then decompress it. */
export function openFrames({ source, frames }: OpenTask): (OpenFault | null)[] {
  return frames.map((frame) => openFrame(source, frame));
}

function openFrame(source: OpenTask['source'], frame: StoredFrame): OpenFault | null {
  const { codec, start, end, digest, contents } = frame;
  // What is stored as it is need not be copied.
  const isInPlace = codec === CODEC.raw && end - start === contents.length;
  const stored =
    typeof source === 'number'
      ? readFrame(source, start, isInPlace ? contents : scratchOf(end - start))
      : source.subarray(start, end);
  if (!(stored instanceof Uint8Array)) return stored;
  if (hash('sha256', stored, 'binary') !== digest) return OPEN_FAULT.digest;
  if (stored === contents) return null;
  try {
    const opened = decompressNow({ codec, bytes: stored }, contents.length);
    contents.set(opened);
    if (codec !== CODEC.raw) freeMemory(opened);
    return null;
  } catch (error) {
    return OPEN_FAULT.codec(error);
  }
}

/** Fill memory from a descriptor and return it, or why that is not possible. */
function readFrame(fd: number, start: number, memory: Uint8Array): Uint8Array | OpenFault {
  try {
    for (let done = 0; done < memory.length; ) {
      const count = fs.readSync(fd, memory, done, memory.length - done, start + done);
      if (count === 0) return { code: 'ENODATA', reason: 'the pack ends before it does' };
      done += count;
    }
    return memory;
  } catch (error) {
    const { code = 'EIO', errno, message } = error as NodeJS.ErrnoException;
    return { code, errno, reason: message };
  }
}

function scratchOf(length: number): Buffer {
  if (scratch.length < length) scratch = Buffer.allocUnsafeSlow(length);
  return scratch.subarray(0, length);
}

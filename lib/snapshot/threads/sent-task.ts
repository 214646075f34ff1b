import type { Codec } from '../format/encoding/compression.ts';
import { DIGEST_BYTES } from '../format/limits.ts';
import type { FingerprintTask, FrameTask, PackTask } from './frame-tasks.ts';
import type { OpenTask, StoredFrame } from './open-frames.ts';
import type { ReceivedMemory, SentMemory, SentView } from './shared-memory.ts';

/** Frames as they are sent: as few objects as possible, because copying them would take longer than the message. */
interface SentFrames {
  /**
   * For each frame its codec, start and end; slot, place and length of the memory for its contents; and 1 if the
   * thread does not have that memory yet.
   */
  readonly numbers: Uint32Array;
  /** The digests, one after the other. */
  readonly digests: string;
  /** The memory that the thread does not have yet, in the order of the frames. */
  readonly memories: readonly SharedArrayBuffer[];
}

type Numbers = [Codec, number, number, number, number, number, number];

const NUMBERS_PER_FRAME = 7;

/** A task as it is sent to a thread. */
export type SentTask =
  | (Omit<OpenTask, 'frames'> & { readonly frames: SentFrames })
  | (Omit<PackTask, 'pages' | 'packed'> & { readonly pages: SentView; readonly packed: SentView })
  | (Omit<FingerprintTask, 'pages' | 'fingerprints'> & {
      readonly pages: SentView;
      readonly fingerprints: SentView;
    });

/** Return a task as it is to be sent next. */
export function taskToSend(task: FrameTask, memory: SentMemory): SentTask {
  switch (task.kind) {
    case 'open':
      return { ...task, frames: framesToSend(task.frames, memory) };
    case 'pack':
      return { ...task, pages: memory.view(task.pages), packed: memory.view(task.packed) };
    case 'fingerprint': {
      const { pages, fingerprints } = task;
      return { ...task, pages: memory.view(pages), fingerprints: memory.view(fingerprints) };
    }
  }
}

/** Return a task that was sent; tasks come in the order in which they were sent. */
export function receiveTask(sent: SentTask, memory: ReceivedMemory): FrameTask {
  switch (sent.kind) {
    case 'open':
      return { ...sent, frames: receiveFrames(sent.frames, memory) };
    case 'pack':
      return { ...sent, pages: memory.view(sent.pages), packed: memory.view(sent.packed) };
    case 'fingerprint': {
      const { pages, fingerprints } = sent;
      return { ...sent, pages: memory.view(pages), fingerprints: memory.view(fingerprints) };
    }
  }
}

function framesToSend(frames: readonly StoredFrame[], memory: SentMemory): SentFrames {
  const numbers = new Uint32Array(frames.length * NUMBERS_PER_FRAME);
  const memories: SharedArrayBuffer[] = [];
  let digests = '';
  let next = 0;
  for (const { codec, start, end, digest, contents } of frames) {
    const { slot, memory: added, at, length } = memory.view(contents);
    if (added !== undefined) memories.push(added);
    numbers.set([codec, start, end, slot, at, length, added === undefined ? 0 : 1], next);
    digests += digest;
    next += NUMBERS_PER_FRAME;
  }
  return { numbers, digests, memories };
}

function receiveFrames(
  { numbers, digests, memories }: SentFrames,
  memory: ReceivedMemory,
): StoredFrame[] {
  const added = memories.values();
  const frames: StoredFrame[] = [];
  for (let next = 0; next < numbers.length; next += NUMBERS_PER_FRAME) {
    const [codec, start, end, slot, at, length, isAdded] = numbers.subarray(
      next,
    ) as unknown as Numbers;
    const from = frames.length * DIGEST_BYTES;
    frames.push({
      codec,
      start,
      end,
      digest: digests.slice(from, from + DIGEST_BYTES),
      contents: memory.view({
        slot,
        memory: isAdded === 1 ? added.next().value : undefined,
        at,
        length,
      }),
    });
  }
  return frames;
}

import { hash } from 'node:crypto';
import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { damaged } from '../format/damage.ts';
import { sha256 } from '../format/digest.ts';
import { type Codec, decompress } from '../format/encoding/compression.ts';
import { packKey } from '../format/keys.ts';
import { DIGEST_BYTES } from '../format/limits.ts';
import type { MapPack } from '../format/map.ts';
import { decodeHead, headBytes, type PackHead, packBytes, pagesOfFrame } from '../format/pack.ts';
import { frameThreads } from '../threads/frame-threads.ts';
import {
  OPEN_FAULT,
  type OpenFault,
  type OpenTask,
  type StoredFrame,
} from '../threads/open-frames.ts';

/** Frames of a request, from which on a thread of its own opens them: fewer are waited for by a guest. */
const MIN_FRAMES_FOR_THREAD = 4;

/** Reads the parts of one pack, and checks each before it returns it. */
export class PackReader {
  readonly pack: MapPack;
  readonly #storage: ObjectStorage;
  #head: PackHead | null = null;
  #reading: Promise<PackHead> | null = null;

  constructor(storage: ObjectStorage, pack: MapPack) {
    this.#storage = storage;
    this.pack = pack;
  }

  /** The head of the pack, if it was read. */
  get knownHead(): PackHead | null {
    return this.#head;
  }

  /**
   * Read the head of the pack.
   *
   * @throws {QemuFileError} (rejects) `EBADMSG` if it is damaged, missing, or not what the map says; the error of
   *   the storage.
   */
  head(): Promise<PackHead> {
    if (this.#head !== null) return Promise.resolve(this.#head);
    this.#reading ??= this.#readHead().finally(() => {
      this.#reading = null;
    });
    return this.#reading;
  }

  async #readHead(): Promise<PackHead> {
    const { digest, frames, pages, pageSize, bytes } = this.pack;
    const head = decodeHead(await this.#range(0, headBytes(frames)), digest);
    const isSame = head.codecs.length === frames && head.pages === pages;
    if (!isSame || head.pageSize !== pageSize || packBytes(head) !== bytes) {
      throw damaged(packKey(digest), 'the map of the snapshot gives other sizes of it');
    }
    this.#head = head;
    return head;
  }

  /**
   * Read adjacent frames with one request.
   *
   * @param first - The first frame.
   * @param targets - Shared memory for the contents of each frame; that of the last one may be longer than they are.
   * @param isUrgent - Whether a guest may wait for them: then few frames do not wait for a thread.
   * @returns The contents of each frame, or the error for one that is damaged.
   */
  async frames(
    first: number,
    targets: readonly Uint8Array[],
    isUrgent: boolean,
  ): Promise<(Uint8Array | Error)[]> {
    const head = await this.head();
    const frames = targets.map((target, place) => storedFrame(head, first + place, target));
    const faults =
      isUrgent && frames.length < MIN_FRAMES_FOR_THREAD
        ? await this.#openNow(frames)
        : await this.#openInThread(frames);
    return frames.map(({ contents }, place) => {
      const fault = faults[place];
      if (fault === undefined || fault === null) return contents;
      return damaged(packKey(this.pack.digest), `frame ${first + place}: ${fault.reason}`);
    });
  }

  async #openNow(frames: readonly StoredFrame[]): Promise<(OpenFault | null)[]> {
    const { start, bytes } = await this.#stored(frames);
    return Promise.all(
      frames.map((frame) =>
        openFrame(frame, bytes.subarray(frame.start - start, frame.end - start)),
      ),
    );
  }

  /** Where objects have descriptors, the thread reads as well. */
  async #openInThread(frames: readonly StoredFrame[]): Promise<readonly (OpenFault | null)[]> {
    const storage = this.#storage;
    if (storage.withDescriptor !== undefined) {
      const key = packKey(this.pack.digest);
      const work = (fd: number) => openInThread({ kind: 'open', source: fd, frames });
      return this.#readPack(() => (storage as Required<ObjectStorage>).withDescriptor(key, work));
    }
    const { start, bytes } = await this.#stored(frames);
    // A thread takes the memory over, so it must not be a part of what belongs to others.
    const isWhole = bytes.length === bytes.buffer.byteLength;
    return frameThreads.run({
      kind: 'open',
      source: isWhole ? bytes : new Uint8Array(bytes),
      frames: frames.map((frame) => ({
        ...frame,
        start: frame.start - start,
        end: frame.end - start,
      })),
    });
  }

  /** Read the stored forms of adjacent frames. */
  async #stored(frames: readonly StoredFrame[]): Promise<{ start: number; bytes: Buffer }> {
    const { start } = frames[0] as StoredFrame;
    const { end } = frames.at(-1) as StoredFrame;
    return { start, bytes: await this.#range(start, end - start) };
  }

  /** Read the fingerprints that the pack has, one after the other. */
  async fingerprints(): Promise<Buffer> {
    const { offsets, codecs, fingerprintOffsets, fingerprintsDigest } = await this.head();
    const count = codecs.length;
    const at = offsets[count] as number;
    const bytes = await this.#range(at, fingerprintOffsets[count] as number);
    if (sha256(bytes).equals(fingerprintsDigest)) return bytes;
    const reason = 'its fingerprints have another SHA-256 than its head says';
    throw damaged(packKey(this.pack.digest), reason);
  }

  #range(offset: number, length: number): Promise<Buffer> {
    const key = packKey(this.pack.digest);
    return this.#readPack(() => this.#storage.getRange(key, offset, length));
  }

  /** Read from the pack. An error of the storage becomes one about the snapshot. */
  async #readPack<T>(read: () => Promise<T>): Promise<T> {
    const key = packKey(this.pack.digest);
    try {
      return await read();
    } catch (error) {
      const failure = toQemuFileError(error);
      if (failure.code === 'ENOENT') throw damaged(key, 'it is missing', failure);
      if (failure.code === 'ENODATA')
        throw damaged(key, 'it is shorter than the map says', failure);
      throw failure;
    }
  }
}

function storedFrame(head: PackHead, frame: number, target: Uint8Array): StoredFrame {
  const { offsets, codecs, digests, pageSize } = head;
  return {
    codec: codecs[frame] as Codec,
    start: offsets[frame] as number,
    end: offsets[frame + 1] as number,
    digest: digests.toString('latin1', frame * DIGEST_BYTES, (frame + 1) * DIGEST_BYTES),
    contents: target.subarray(0, pagesOfFrame(head, frame) * pageSize),
  };
}

/** Open frames in a thread; one that cannot be read is an error, so that the storage opens the object anew. */
async function openInThread(task: OpenTask): Promise<readonly (OpenFault | null)[]> {
  const faults = await frameThreads.run(task);
  const failed = faults.find((fault) => fault !== null && fault.code !== 'EBADMSG');
  if (failed === undefined || failed === null) return faults;
  const { code, errno, reason } = failed;
  throw Object.assign(new Error(reason), { code, errno });
}

/** Check a frame, then decompress it in a thread of Node's pool. */
async function openFrame(
  { codec, digest, contents }: StoredFrame,
  stored: Uint8Array,
): Promise<OpenFault | null> {
  if (hash('sha256', stored, 'binary') !== digest) return OPEN_FAULT.digest;
  try {
    contents.set(await decompress({ codec, bytes: stored }, contents.length));
    return null;
  } catch (error) {
    return OPEN_FAULT.codec(error);
  }
}

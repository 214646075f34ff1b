import type { ObjectStorage, StorageOptions } from '../../../adapters/storage/object-storage.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { type Codec, decompress } from '../format/compression.ts';
import { damaged } from '../format/damage.ts';
import { sha256 } from '../format/digest.ts';
import { packKey } from '../format/keys.ts';
import { DIGEST_BYTES } from '../format/limits.ts';
import type { MapPack } from '../format/map.ts';
import { decodeHead, headBytes, type PackHead, packBytes, pagesOfFrame } from '../format/pack.ts';
import { OPEN_FAULT, type OpenedFrame, type StoredFrame } from '../threads/frame-tasks.ts';
import { frameThreads } from '../threads/frame-threads.ts';

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
   * @returns The contents of each frame, or the error for one that is damaged.
   */
  async frames(first: number, end: number): Promise<(Uint8Array | Error)[]> {
    const head = await this.head();
    const { offsets, codecs, digests, pageSize } = head;
    const from = offsets[first] as number;
    const bytes = await this.#range(from, (offsets[end] as number) - from);
    const frames: StoredFrame[] = [];
    for (let frame = first; frame < end; frame++) {
      frames.push({
        codec: codecs[frame] as Codec,
        start: (offsets[frame] as number) - from,
        end: (offsets[frame + 1] as number) - from,
        digest: Uint8Array.from(digests.subarray(frame * DIGEST_BYTES, (frame + 1) * DIGEST_BYTES)),
        length: pagesOfFrame(head, frame) * pageSize,
      });
    }
    const opened = await openFrames(bytes, frames);
    return opened.map((contents, place) =>
      typeof contents === 'string'
        ? damaged(packKey(this.pack.digest), `frame ${first + place}: ${contents}`)
        : contents,
    );
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

  async #range(offset: number, length: number, options?: StorageOptions): Promise<Buffer> {
    const key = packKey(this.pack.digest);
    try {
      return await this.#storage.getRange(key, offset, length, options);
    } catch (error) {
      const failure = toQemuFileError(error);
      if (failure.code === 'ENOENT') throw damaged(key, 'it is missing', failure);
      if (failure.code === 'ENODATA')
        throw damaged(key, 'it is shorter than the map says', failure);
      throw failure;
    }
  }
}

async function openFrames(bytes: Buffer, frames: StoredFrame[]): Promise<readonly OpenedFrame[]> {
  if (frames.length < MIN_FRAMES_FOR_THREAD) {
    return Promise.all(
      frames.map((frame) => openFrame(frame, bytes.subarray(frame.start, frame.end))),
    );
  }
  // A thread takes the memory over, so it must not be a part of what belongs to others.
  const isWhole = bytes.length === bytes.buffer.byteLength;
  return frameThreads.run({
    kind: 'open',
    bytes: isWhole ? bytes : new Uint8Array(bytes),
    frames,
  });
}

/** Check a frame, then decompress it in a thread of Node's pool. */
async function openFrame(
  { codec, digest, length }: StoredFrame,
  stored: Uint8Array,
): Promise<OpenedFrame> {
  if (!sha256(stored).equals(digest)) return OPEN_FAULT.digest;
  try {
    return await decompress({ codec, bytes: stored }, length);
  } catch (error) {
    return OPEN_FAULT.codec(error);
  }
}

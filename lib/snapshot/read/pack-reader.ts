import type { ObjectStorage, StorageOptions } from '../../../adapters/storage/object-storage.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { type Codec, decompress } from '../format/compression.ts';
import { damaged } from '../format/damage.ts';
import { sha256 } from '../format/digest.ts';
import { packKey } from '../format/keys.ts';
import { DIGEST_BYTES } from '../format/limits.ts';
import type { MapPack } from '../format/map.ts';
import { decodeHead, headBytes, type PackHead, packBytes, pagesOfFrame } from '../format/pack.ts';

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
   * @returns The contents of each frame: they settle separately, and not in order.
   */
  async frames(first: number, end: number): Promise<Promise<Uint8Array>[]> {
    const head = await this.head();
    const { offsets, codecs, digests, pageSize } = head;
    const from = offsets[first] as number;
    const bytes = await this.#range(from, (offsets[end] as number) - from);
    const results: Promise<Uint8Array>[] = [];
    for (let frame = first; frame < end; frame++) {
      const start = (offsets[frame] as number) - from;
      const stored = bytes.subarray(start, (offsets[frame + 1] as number) - from);
      const digest = digests.subarray(frame * DIGEST_BYTES, (frame + 1) * DIGEST_BYTES);
      const length = pagesOfFrame(head, frame) * pageSize;
      results.push(this.#open(frame, stored, codecs[frame] as Codec, digest, length));
    }
    return results;
  }

  async #open(
    frame: number,
    stored: Buffer,
    codec: Codec,
    digest: Buffer,
    length: number,
  ): Promise<Uint8Array> {
    const key = packKey(this.pack.digest);
    if (!sha256(stored).equals(digest)) {
      throw damaged(key, `frame ${frame} has another SHA-256 than its head says`);
    }
    try {
      return await decompress({ codec, bytes: stored }, length);
    } catch (error) {
      throw damaged(key, `frame ${frame} does not decompress: ${(error as Error).message}`, error);
    }
  }

  /** Read the SHA-256 of each page of the pack, one after the other. */
  async fingerprints(): Promise<Buffer> {
    const { offsets, codecs, pages, fingerprintsDigest } = await this.head();
    const bytes = await this.#range(offsets[codecs.length] as number, pages * DIGEST_BYTES);
    if (sha256(bytes).equals(fingerprintsDigest)) return bytes;
    const reason = 'the list of its pages has another SHA-256 than its head says';
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

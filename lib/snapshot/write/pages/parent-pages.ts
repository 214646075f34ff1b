import { fingerprintPages } from '../../format/fingerprint.ts';
import { FINGERPRINT_BYTES, pagesPerFrame } from '../../format/limits.ts';
import type { MapPack, SnapshotMap } from '../../format/map.ts';
import { type PackHead, pagesOfFrame } from '../../format/pack.ts';
import { PackIndex } from '../../format/pack-index.ts';
import type { CachedPack, FrameCache } from '../../read/frame-cache.ts';

/** Bytes of fingerprints that are kept: those of 4 GiB of pages, which come nearly in order. */
const MAX_FINGERPRINT_BYTES = 16_777_216;

/** Adjacent frames that are read at the same time for the fingerprints of their pages. */
const READ_AHEAD_FRAMES = 8;

/** The fingerprints of the pages of a pack. */
interface PackFingerprints {
  readonly head: PackHead;
  readonly bytes: Buffer;
  /** For each frame 1 if those of its pages are known. */
  readonly isKnown: Uint8Array;
}

/** The pages of the snapshot with which a new one is compared. */
export class ParentPages {
  readonly #map: SnapshotMap;
  readonly #cache: FrameCache;
  readonly #packIndex: PackIndex;
  /** Number of the first page of each block, and the number of its pages, by the block's name. */
  readonly #blocks = new Map<string, { first: number; pages: number }>();
  readonly #fingerprints = new Map<number, PackFingerprints>();
  #bytes = 0;

  constructor(map: SnapshotMap, cache: FrameCache) {
    this.#map = map;
    this.#cache = cache;
    this.#packIndex = new PackIndex(map.packs);
    let first = 0;
    for (const { name, usedLength } of map.blocks) {
      const pages = usedLength / map.pageSize;
      this.#blocks.set(name, { first, pages });
      first += pages;
    }
  }

  get pageSize(): number {
    return this.#map.pageSize;
  }

  get packs(): SnapshotMap['packs'] {
    return this.#map.packs;
  }

  /** Number of stored pages of all packs. */
  get storedPages(): number {
    return this.#packIndex.pages;
  }

  /** Return the number of the first page of a block, and of its pages; null if the parent lacks it. */
  block(name: string): { first: number; pages: number } | null {
    return this.#blocks.get(name) ?? null;
  }

  /** Return the number of the stored page with the contents of the parent's page; -1 if that is zeros. */
  storedAt(page: number): number {
    return this.#map.runs.storedAt(page);
  }

  /** Read a stored page. */
  async read(stored: number): Promise<Uint8Array> {
    const index = this.#packIndex.packOf(stored);
    const pack = this.#cache.pack(this.#map.packs[index] as MapPack);
    const place = stored - this.#packIndex.baseOf(index);
    const perFrame = pagesPerFrame(this.pageSize);
    const frame = await this.#cache.get(pack, Math.floor(place / perFrame));
    const at = (place % perFrame) * this.pageSize;
    return frame.subarray(at, at + this.pageSize);
  }

  /** Return whether the fingerprint of a stored page was read. */
  hasFingerprint(stored: number): boolean {
    const index = this.#packIndex.packOf(stored);
    const known = this.#fingerprints.get(index);
    return known !== undefined && known.isKnown[this.#frameOf(stored, index)] === 1;
  }

  /**
   * Read the fingerprint of a stored page, and of others near it.
   *
   * @throws {QemuFileError} (rejects) `EBADMSG` if the pack is damaged or missing; the error of the storage.
   */
  async loadFingerprint(stored: number): Promise<void> {
    const index = this.#packIndex.packOf(stored);
    const pack = this.#cache.pack(this.#map.packs[index] as MapPack);
    const known = this.#fingerprints.get(index) ?? (await this.#list(index, pack));
    const frame = this.#frameOf(stored, index);
    if (known.isKnown[frame] === 1) return;
    const { isKnown, bytes, head } = known;
    let end = frame;
    while (end < Math.min(isKnown.length, frame + READ_AHEAD_FRAMES) && isKnown[end] === 0) end++;
    this.#cache.start(pack, frame, end, false);
    let pages = this.#cache.find(pack, frame);
    while (pages === null) {
      await this.#cache.ready(pack, frame);
      pages = this.#cache.find(pack, frame);
    }
    const own = Buffer.from(pages.buffer, pages.byteOffset, pages.length);
    const at = frame * head.pagesPerFrame * FINGERPRINT_BYTES;
    fingerprintPages(own, pagesOfFrame(head, frame), this.pageSize, bytes.subarray(at));
    isKnown[frame] = 1;
  }

  /** Return whether a stored page, whose fingerprint was read, has this one. */
  isEqual(stored: number, fingerprints: Buffer, at: number): boolean {
    const index = this.#packIndex.packOf(stored);
    const own = this.#fingerprints.get(index);
    if (own === undefined) return false;
    const from = (stored - this.#packIndex.baseOf(index)) * FINGERPRINT_BYTES;
    const end = from + FINGERPRINT_BYTES;
    return own.bytes.compare(fingerprints, at, at + FINGERPRINT_BYTES, from, end) === 0;
  }

  #frameOf(stored: number, index: number): number {
    return Math.floor((stored - this.#packIndex.baseOf(index)) / pagesPerFrame(this.pageSize));
  }

  /** Read the fingerprints that a pack has. */
  async #list(index: number, { reader }: CachedPack): Promise<PackFingerprints> {
    const head = await reader.head();
    const listed = await reader.fingerprints();
    const bytes = Buffer.allocUnsafeSlow(head.pages * FINGERPRINT_BYTES);
    const isKnown = new Uint8Array(head.codecs.length);
    const offsets = head.fingerprintOffsets;
    for (let frame = 0; frame < isKnown.length; frame++) {
      const start = offsets[frame] as number;
      const end = offsets[frame + 1] as number;
      if (end === start) continue;
      listed.copy(bytes, frame * head.pagesPerFrame * FINGERPRINT_BYTES, start, end);
      isKnown[frame] = 1;
    }
    for (const [key, { bytes: old }] of this.#fingerprints) {
      if (this.#bytes + bytes.length <= MAX_FINGERPRINT_BYTES) break;
      this.#fingerprints.delete(key);
      this.#bytes -= old.length;
    }
    const known = { head, bytes, isKnown };
    this.#fingerprints.set(index, known);
    this.#bytes += bytes.length;
    return known;
  }
}

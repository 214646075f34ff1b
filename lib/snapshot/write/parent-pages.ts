import { QemuFileError } from '../../contract/errors.ts';
import { DIGEST_BYTES, pagesPerFrame } from '../format/limits.ts';
import type { MapPack, SnapshotMap } from '../format/map.ts';
import { PackIndex } from '../format/pack-index.ts';
import type { CachedPack, FrameCache } from '../read/frame-cache.ts';

/** Bytes of fingerprints that are kept. */
const MAX_FINGERPRINT_BYTES = 67_108_864;

/** The pages of the snapshot with which a new one is compared. */
export class ParentPages {
  readonly #map: SnapshotMap;
  readonly #cache: FrameCache;
  readonly #packIndex: PackIndex;
  /** Number of the first page of each block, and the number of its pages, by the block's name. */
  readonly #blocks = new Map<string, { first: number; pages: number }>();
  readonly #fingerprints = new Map<number, Buffer>();
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

  /** Return whether the SHA-256 of a stored page is at hand. */
  hasFingerprint(stored: number): boolean {
    return this.#fingerprints.has(this.#packIndex.packOf(stored));
  }

  /**
   * Read the SHA-256 of a stored page and of all others in its pack.
   *
   * @throws {QemuFileError} (rejects) `EBADMSG` if the pack is damaged or missing; the error of the storage.
   */
  async loadFingerprint(stored: number): Promise<void> {
    const index = this.#packIndex.packOf(stored);
    const pack = this.#map.packs[index];
    if (pack === undefined) throw new QemuFileError('EINVAL', `there is no page ${stored}`);
    const cached: CachedPack = this.#cache.pack(pack);
    const fingerprints = await cached.reader.fingerprints();
    for (const [key, { length }] of this.#fingerprints) {
      if (this.#bytes + fingerprints.length <= MAX_FINGERPRINT_BYTES) break;
      this.#fingerprints.delete(key);
      this.#bytes -= length;
    }
    this.#fingerprints.set(index, fingerprints);
    this.#bytes += fingerprints.length;
  }

  /** Return whether a stored page, whose SHA-256 is at hand, has this SHA-256. */
  isEqual(stored: number, fingerprints: Buffer, at: number): boolean {
    const index = this.#packIndex.packOf(stored);
    const own = this.#fingerprints.get(index);
    if (own === undefined) return false;
    const from = (stored - this.#packIndex.baseOf(index)) * DIGEST_BYTES;
    return own.compare(fingerprints, at, at + DIGEST_BYTES, from, from + DIGEST_BYTES) === 0;
  }
}

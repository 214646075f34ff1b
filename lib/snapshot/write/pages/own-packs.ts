import type { ObjectStorage } from '../../../../adapters/storage/object-storage.ts';
import { MAX_STORED_PAGES } from '../../format/limits.ts';
import type { MapPack } from '../../format/map.ts';
import type { FrameCache } from '../../read/frame-cache.ts';
import { PackWriter } from './pack-writer.ts';

/** Most pages of a working set that are put together: 64 GiB of pages of 4 KiB. */
const MAX_SET_PAGES = 16_777_216;

/** Pages of the working set are numbered from here while they are written, since it is unknown how many come. */
const FIRST_SET_PAGE: number = MAX_STORED_PAGES - MAX_SET_PAGES;

/** The packs that are written for a snapshot, and the numbers of their pages. */
export interface FinishedPacks {
  /** Those of the working set come first. */
  readonly packs: readonly MapPack[];
  /** Return the number of a stored page, the pages of the parent's packs and then those of `packs` counted. */
  readonly numberOf: (stored: number) => number;
}

/**
 * The packs that are written for a snapshot. Pages of its working set go into packs of their own, so that few requests
 * read them.
 */
export class OwnPacks {
  /** Number of stored pages of the parent's packs, which come before. */
  readonly #base: number;
  readonly #set: PackWriter;
  readonly #rest: PackWriter;

  constructor(storage: ObjectStorage, pageSize: number, base: number, signal?: AbortSignal) {
    this.#base = base;
    this.#set = new PackWriter(storage, pageSize, signal);
    this.#rest = new PackWriter(storage, pageSize, signal);
  }

  /** Bytes of all packs that were put or are being put. */
  get bytes(): number {
    return this.#set.bytes + this.#rest.bytes;
  }

  /** Whether no further page can be numbered. */
  get isFull(): boolean {
    return this.#base + this.#rest.pages >= FIRST_SET_PAGE;
  }

  /**
   * Append a page; its contents are copied.
   *
   * @param from - Holds the page, at `at`.
   * @param fingerprints - Holds its fingerprint, at `fingerprintAt`.
   * @param isInSet - Whether it is of the working set.
   * @returns The number of the stored page.
   */
  append(
    from: Buffer,
    at: number,
    fingerprints: Buffer,
    fingerprintAt: number,
    isInSet: boolean,
  ): number {
    if (isInSet && this.#set.pages < MAX_SET_PAGES) {
      return FIRST_SET_PAGE + this.#set.append(from, at, fingerprints, fingerprintAt);
    }
    return this.#base + this.#rest.append(from, at, fingerprints, fingerprintAt);
  }

  /** Wait until there is room for more pages. Rejects if a pack could not be put. */
  async ready(): Promise<void> {
    await this.#set.ready();
    await this.#rest.ready();
  }

  /** Read a page that was appended; as `PackWriter.read`. */
  read(stored: number, cache: FrameCache): Promise<Uint8Array> {
    return stored >= FIRST_SET_PAGE
      ? this.#set.read(stored - FIRST_SET_PAGE, cache)
      : this.#rest.read(stored - this.#base, cache);
  }

  /** Put the rest, and return all packs when they are durable. */
  async finish(): Promise<FinishedPacks> {
    const [set, rest] = await Promise.all([this.#set.finish(), this.#rest.finish()]);
    const base = this.#base;
    const setPages = this.#set.pages;
    const numberOf = (stored: number): number => {
      if (stored < base) return stored;
      return stored < FIRST_SET_PAGE ? stored + setPages : base + stored - FIRST_SET_PAGE;
    };
    return { packs: [...set, ...rest], numberOf };
  }

  /** Wait until nothing is compressed or put any more. Never rejects. */
  async settle(): Promise<void> {
    await this.#set.settle();
    await this.#rest.settle();
  }
}

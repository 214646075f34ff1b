import type {
  ObjectStorage,
  StorageOptions,
  StoredObject,
} from '../../../adapters/storage/object-storage.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { damaged } from '../format/damage.ts';
import {
  isDigest,
  isSnapshotName,
  mapKey,
  PREFIX,
  packKey,
  workingSetKey,
} from '../format/keys.ts';
import { MAX_MANIFEST_BYTES, MAX_MAP_BYTES } from '../format/limits.ts';
import { decodeMap } from '../format/map.ts';
import { readManifest } from '../read/read-objects.ts';
import { liveMarks } from '../write/writer-mark.ts';
import { inParallel } from './in-parallel.ts';

/** Manifests that are read at the same time. */
const MAX_READS = 8;

/** Coarsest resolution of a storage's clock, with a margin, in milliseconds. */
const CLOCK_MS = 2000;

/**
 * The packs, maps and working sets that snapshots and writers need. What was needed once stays so: each look only adds.
 *
 * A writer puts its mark before its first pack, and removes it after its manifest; it looks for the manifest of its
 * parent after it put the mark. So marks are listed both before the manifests, for a writer that ends meanwhile, and
 * after them, for one that begins while its parent is removed.
 */
export class NeededObjects {
  readonly #storage: ObjectStorage;
  readonly #options: StorageOptions;
  readonly #nowMs: number;
  readonly #keys = new Set<string>();
  /** Times of the manifests that were read, by their keys. */
  readonly #read = new Map<string, number>();
  /** Time from which on objects stay, because a writer is at work since then. */
  #newerThanMs = Number.POSITIVE_INFINITY;

  /** @param nowMs - Time by the clock of the storage. */
  constructor(storage: ObjectStorage, nowMs: number, options: StorageOptions) {
    this.#storage = storage;
    this.#nowMs = nowMs;
    this.#options = options;
  }

  /** Age of the oldest writer at work, in milliseconds; negative infinity without one. */
  get writerAgeMs(): number {
    return this.#nowMs - this.#newerThanMs;
  }

  /** Return whether an object must stay. */
  has({ key, modifiedMs }: StoredObject): boolean {
    return this.#keys.has(key) || modifiedMs >= this.#newerThanMs;
  }

  /**
   * Add what snapshots and writers need that have appeared since the last look.
   *
   * @throws {QemuFileError} (rejects) `EBADMSG` if a manifest or a map is damaged; the error of the storage.
   */
  async look(): Promise<void> {
    const before = await this.#list(PREFIX.writers);
    const manifests = await this.#list(PREFIX.snapshots);
    const after = await this.#list(PREFIX.writers);
    for (const marks of [before, after]) await this.#addMarks(marks);
    await inParallel(manifests, MAX_READS, (manifest) => this.#addSnapshot(manifest));
  }

  async #list(prefix: string): Promise<StoredObject[]> {
    const found: StoredObject[] = [];
    for await (const object of this.#storage.list(prefix, this.#options)) found.push(object);
    return found;
  }

  async #addSnapshot({ key, modifiedMs }: StoredObject): Promise<void> {
    const name = key.slice(PREFIX.snapshots.length);
    if (!isSnapshotName(name)) return;
    // A manifest that was replaced in the same tick of the storage's clock has the same time.
    if (this.#read.get(key) === modifiedMs && modifiedMs < this.#nowMs - CLOCK_MS) return;
    try {
      const { map } = await readManifest(this.#storage, name, this.#options);
      await this.#addMap(map.sha256);
      this.#read.set(key, modifiedMs);
    } catch (error) {
      let failure = toQemuFileError(error);
      if (failure.code === 'ENOENT') {
        // It was removed in the meantime.
        if ((await this.#storage.stat(key, this.#options)) === null) return;
        failure = damaged(key, 'its map is missing', failure);
      }
      if (failure.code !== 'EBADMSG') throw failure;
      const reason = `${failure.reason}; garbage is not removed, because what the snapshot "${name}" needs is unknown: run fsck, then remove it`;
      throw new QemuFileError('EBADMSG', reason, { operation: 'gc', cause: failure });
    }
  }

  async #addMarks(marks: readonly StoredObject[]): Promise<void> {
    for (const { key, startMs } of liveMarks(marks, this.#nowMs)) {
      // An object of the same second may be older by the clock's resolution, and newer in truth.
      this.#newerThanMs = Math.min(this.#newerThanMs, startMs - 1000);
      for (const digest of await this.#mapsOfMark(key)) {
        try {
          await this.#addMap(digest);
        } catch (error) {
          if (toQemuFileError(error).code !== 'ENOENT') throw error;
          // A copy puts its map after its mark, and may need any pack that is there.
          this.#newerThanMs = Number.NEGATIVE_INFINITY;
        }
      }
    }
  }

  async #mapsOfMark(key: string): Promise<string[]> {
    try {
      const text = (await this.#storage.get(key, MAX_MANIFEST_BYTES, this.#options)).toString();
      const { maps } = (JSON.parse(text) ?? {}) as { maps?: unknown };
      return Array.isArray(maps) ? maps.filter(isDigest) : [];
    } catch (error) {
      const { code } = toQemuFileError(error);
      // The writer has removed its mark, or the mark is damaged.
      if (code === 'ENOENT' || error instanceof SyntaxError) return [];
      throw error;
    }
  }

  async #addMap(digest: string): Promise<void> {
    const key = mapKey(digest);
    if (this.#keys.has(key)) return;
    const bytes = await this.#storage.get(key, MAX_MAP_BYTES, this.#options);
    for (const pack of (await decodeMap(bytes, digest)).packs) {
      this.#keys.add(packKey(pack.digest));
    }
    this.#keys.add(key);
    this.#keys.add(workingSetKey(digest));
  }
}

import type { ObjectStorage, StorageOptions } from '../../../adapters/storage/object-storage.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { manifestKey, mapKey, packKey, workingSetKey } from '../format/keys.ts';
import { MAX_MAP_BYTES } from '../format/limits.ts';
import { decodeMap, type MapPack, type SnapshotMap } from '../format/map.ts';
import type { PackHead } from '../format/pack.ts';
import { readManifest, readMap } from '../read/read-objects.ts';
import { readWorkingSetText } from '../read/read-working-set.ts';
import { checkHead, checkPages, readPack } from './check-pack.ts';
import { inParallel } from './in-parallel.ts';
import { listContents, type StoreContents } from './store-contents.ts';

/** Objects other than whole packs that are read at the same time. */
const MAX_READS = 8;

/** Whole packs, which have up to 16 MiB, that are read at the same time. */
const MAX_PACKS = 2;

/** Options of `fsck`. */
export interface FsckOptions extends StorageOptions {
  /** Read every byte and compare it with its digest. Default false: sizes, heads, maps and manifests. */
  readonly deep?: boolean | undefined;
  /** Called with the number of packs checked, and of all. */
  readonly onProgress?: ((checked: number, all: number) => void) | undefined;
}

/** A damaged or missing object. */
export interface StoreDamage {
  readonly key: string;
  /** What is wrong, as a clause. */
  readonly problem: string;
  /** Names of the snapshots that it hurts; none if it is garbage. */
  readonly snapshots: readonly string[];
}

/** Result of `fsck`. */
export interface FsckResult {
  readonly snapshots: number;
  readonly objects: number;
  readonly bytes: number;
  readonly damage: readonly StoreDamage[];
  /** Keys of objects that do not belong to a store. */
  readonly unknown: readonly string[];
}

/** A pack, and who needs it. */
interface NamedPack {
  readonly pack: MapPack;
  readonly snapshots: Set<string>;
}

/** Check the objects of a store. */
export async function checkStore(
  storage: ObjectStorage,
  options: FsckOptions = {},
): Promise<FsckResult> {
  const { signal } = options;
  const contents = await listContents(storage, { signal });
  const check = new StoreCheck(storage, contents, options);
  await inParallel([...contents.snapshots.keys()], MAX_READS, (name) => check.snapshot(name));
  await check.garbageMaps();
  await check.workingSets();
  await check.packs();
  const all = [contents.packs, contents.maps, contents.snapshots, contents.workingSets].flatMap(
    (objects) => [...objects.values()],
  );
  return {
    snapshots: contents.snapshots.size,
    objects: all.length,
    bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
    damage: check.damage.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0)),
    unknown: contents.others.map(({ key }) => key).sort(),
  };
}

class StoreCheck {
  readonly damage: StoreDamage[] = [];
  readonly #storage: ObjectStorage;
  readonly #contents: StoreContents;
  readonly #options: FsckOptions;
  /** Names of the snapshots of each map that is not garbage. */
  readonly #usedMaps = new Map<string, string[]>();
  readonly #packs = new Map<string, NamedPack[]>();

  constructor(storage: ObjectStorage, contents: StoreContents, options: FsckOptions) {
    this.#storage = storage;
    this.#contents = contents;
    this.#options = options;
  }

  /** Check manifest and map of a snapshot, and note its packs. */
  async snapshot(name: string): Promise<void> {
    const { signal } = this.#options;
    const manifest = await this.#try(manifestKey(name), [name], () =>
      readManifest(this.#storage, name, { signal }),
    );
    if (manifest === null) return;
    const { sha256 } = manifest.map;
    this.#usedMaps.set(sha256, [...(this.#usedMaps.get(sha256) ?? []), name]);
    const map = await this.#try(mapKey(sha256), [name], () =>
      readMap(this.#storage, manifest.map, { signal }),
    );
    if (map !== null) this.#notePacks(map, name);
  }

  #notePacks(map: SnapshotMap, name: string): void {
    for (const pack of map.packs) {
      const same = this.#packs.get(pack.digest) ?? [];
      const known = same.find((other) => isSame(other.pack, pack));
      if (known === undefined) same.push({ pack, snapshots: new Set([name]) });
      else known.snapshots.add(name);
      this.#packs.set(pack.digest, same);
    }
  }

  /** Check the maps that no snapshot names. */
  async garbageMaps(): Promise<void> {
    const { signal } = this.#options;
    const unused = [...this.#contents.maps.keys()].filter((digest) => !this.#usedMaps.has(digest));
    await inParallel(unused, MAX_READS, async (digest) => {
      await this.#try(mapKey(digest), [], async () =>
        decodeMap(await this.#storage.get(mapKey(digest), MAX_MAP_BYTES, { signal }), digest),
      );
    });
  }

  /** Check the working sets. Whether one fits its guest is decided when it is used. */
  async workingSets(): Promise<void> {
    const { signal } = this.#options;
    await inParallel([...this.#contents.workingSets.keys()], MAX_READS, async (digest) => {
      await this.#try(workingSetKey(digest), this.#usedMaps.get(digest) ?? [], () =>
        readWorkingSetText(this.#storage, digest, { signal }),
      );
    });
  }

  /** Check all packs. */
  async packs(): Promise<void> {
    const digests = new Set([...this.#packs.keys(), ...this.#contents.packs.keys()]);
    let checked = 0;
    const most = this.#options.deep === true ? MAX_PACKS : MAX_READS;
    await inParallel([...digests], most, async (digest) => {
      await this.#pack(digest);
      checked += 1;
      this.#options.onProgress?.(checked, digests.size);
    });
  }

  async #pack(digest: string): Promise<void> {
    const key = packKey(digest);
    const named = this.#packs.get(digest) ?? [];
    const snapshots = named.flatMap((each) => [...each.snapshots]);
    const object = this.#contents.packs.get(digest);
    if (object === undefined) {
      this.damage.push({
        key,
        problem: 'it is missing',
        snapshots: [...new Set(snapshots)].sort(),
      });
      return;
    }
    const head = await this.#try(key, snapshots, () => this.#readPack(digest, object.bytes));
    if (head === null) return;
    for (const { pack, snapshots: hurt } of named) {
      const isRight =
        pack.bytes === object.bytes &&
        pack.pages === head.pages &&
        pack.frames === head.codecs.length &&
        pack.pageSize === head.pageSize;
      if (isRight) continue;
      const problem = 'its size is not the one in the map of the snapshot';
      this.damage.push({ key, problem, snapshots: [...hurt].sort() });
    }
  }

  async #readPack(digest: string, bytes: number): Promise<PackHead> {
    const { deep, signal } = this.#options;
    if (deep !== true) return checkHead(this.#storage, digest, bytes, { signal });
    const pack = await readPack(this.#storage, digest, { signal });
    await checkPages(digest, pack.head, pack.bytes);
    return pack.head;
  }

  /** Return the result of a check; null if it found damage. */
  async #try<T>(
    key: string,
    snapshots: readonly string[],
    check: () => Promise<T>,
  ): Promise<T | null> {
    try {
      return await check();
    } catch (error) {
      const failure = toQemuFileError(error);
      if (!['EBADMSG', 'ENOENT', 'ENODATA', 'EFBIG', 'ENOTSUP'].includes(failure.code))
        throw failure;
      const problem = failure.reason.replace(`${key} is damaged: `, '');
      this.damage.push({ key, problem, snapshots: [...new Set(snapshots)].sort() });
      return null;
    }
  }
}

function isSame(a: MapPack, b: MapPack): boolean {
  return (
    a.bytes === b.bytes && a.pages === b.pages && a.frames === b.frames && a.pageSize === b.pageSize
  );
}

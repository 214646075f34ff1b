import type {
  ObjectStorage,
  StorageOptions,
  StoredObject,
} from '../../../adapters/storage/object-storage.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { isDigest, isSnapshotName, mapKey, PREFIX } from '../format/keys.ts';
import { MAX_MANIFEST_BYTES, MAX_MAP_BYTES } from '../format/limits.ts';
import { decodeMap } from '../format/map.ts';
import { readManifest, readMap } from '../read/read-objects.ts';
import { STALE_MARK_MS, WriterMark } from '../write/writer-mark.ts';
import { listContents, type StoreContents } from './store-contents.ts';

/** Default age of garbage that is removed: a day, in milliseconds. */
const GRACE_MS = 86_400_000;

/** Options of `gc`. */
export interface GcOptions extends StorageOptions {
  /**
   * Age that an object must have to be removed, in milliseconds by the clock of the storage; 0 or more. Default one
   * day.
   */
  readonly graceMs?: number | undefined;
  /** Remove nothing. */
  readonly dryRun?: boolean | undefined;
}

/** Result of `gc`. */
export interface GcResult {
  /** Keys of the objects that were removed, or would be. */
  readonly removed: readonly string[];
  readonly removedBytes: number;
  /** Number of objects that no snapshot needs, and that stay because they are too new. */
  readonly kept: number;
  /** Number of temporary files and uploads of interrupted writers that were removed. */
  readonly leftovers: number;
}

/** What must stay. */
interface Needed {
  readonly packs: Set<string>;
  readonly maps: Set<string>;
  /** Time from which on objects stay, because a writer is at work since then. */
  readonly newerThanMs: number;
}

/**
 * Remove the packs and maps that no snapshot needs.
 *
 * @throws {QemuFileError} (rejects) `EBADMSG` if a manifest or a map is damaged, because what it needs is unknown;
 *   the error of the storage.
 */
export async function collectGarbage(
  storage: ObjectStorage,
  options: GcOptions = {},
): Promise<GcResult> {
  const { graceMs = GRACE_MS, dryRun = false, signal } = options;
  if (!(graceMs >= 0)) throw new RangeError(`gc: graceMs must be 0 or more: ${graceMs}`);
  const nowMs = await storageTime(storage, { signal });
  const contents = await listContents(storage, { signal });
  const needed = await findNeeded(storage, contents, nowMs, { signal });
  const garbage = garbageOf(contents, needed);
  const old = garbage.filter(({ modifiedMs }) => modifiedMs <= nowMs - graceMs);
  if (dryRun) return resultOf(old, garbage.length - old.length, 0);
  // A writer may have begun, or a snapshot appeared, while the maps were read.
  const again = await findNeeded(storage, await listContents(storage, { signal }), nowMs, {
    signal,
  });
  const isStill = new Set(garbageOf(contents, again).map(({ key }) => key));
  const removed = old.filter(({ key }) => isStill.has(key));
  for (const { key } of removed) await storage.remove(key, { signal });
  await removeStaleMarks(storage, contents, nowMs, { signal });
  const leftoverMs = Math.max(graceMs, nowMs - again.newerThanMs);
  const leftovers = await storage.removeLeftovers(leftoverMs, { signal });
  return resultOf(removed, garbage.length - removed.length, leftovers);
}

function resultOf(removed: readonly StoredObject[], kept: number, leftovers: number): GcResult {
  return {
    removed: removed.map(({ key }) => key),
    removedBytes: removed.reduce((sum, { bytes }) => sum + bytes, 0),
    kept,
    leftovers,
  };
}

/** Return the time by the clock of the storage, by which it dates its objects. */
async function storageTime(storage: ObjectStorage, options: StorageOptions): Promise<number> {
  const key = `${PREFIX.claims}clock`;
  await storage.put(key, [Buffer.from('\n')], options);
  const found = await storage.stat(key, options);
  await storage.remove(key, options);
  return found?.modifiedMs ?? Date.now();
}

function garbageOf({ packs, maps }: StoreContents, needed: Needed): StoredObject[] {
  const garbage: StoredObject[] = [];
  for (const [digest, object] of packs) if (!needed.packs.has(digest)) garbage.push(object);
  for (const [digest, object] of maps) if (!needed.maps.has(digest)) garbage.push(object);
  return garbage.filter(({ modifiedMs }) => modifiedMs < needed.newerThanMs);
}

async function findNeeded(
  storage: ObjectStorage,
  contents: StoreContents,
  nowMs: number,
  options: StorageOptions,
): Promise<Needed> {
  const packs = new Set<string>();
  const maps = new Set<string>();
  for (const name of contents.snapshots.keys()) {
    if (!isSnapshotName(name)) continue;
    try {
      const manifest = await readManifest(storage, name, options);
      maps.add(manifest.map.sha256);
      for (const { digest } of (await readMap(storage, manifest.map, options)).packs) {
        packs.add(digest);
      }
    } catch (error) {
      const failure = toQemuFileError(error);
      // It was removed in the meantime.
      if (failure.code === 'ENOENT') continue;
      if (failure.code !== 'EBADMSG') throw failure;
      const reason = `${failure.reason}; nothing was removed, because what the snapshot "${name}" needs is unknown: run fsck, then remove it`;
      throw new QemuFileError('EBADMSG', reason, { operation: 'gc', cause: failure });
    }
  }
  let newerThanMs = Number.POSITIVE_INFINITY;
  for (const { key, startMs } of liveMarks(contents, nowMs)) {
    // An object of the same second may be older by the clock's resolution, and newer in truth.
    newerThanMs = Math.min(newerThanMs, startMs - 1000);
    for (const digest of await mapsOfMark(storage, key, options)) {
      maps.add(digest);
      await addPacks(storage, digest, packs, options);
    }
  }
  return { packs, maps, newerThanMs };
}

/** Return the marks of writers that are at work. */
function liveMarks({ writers }: StoreContents, nowMs: number): { key: string; startMs: number }[] {
  const lastMs = new Map<string, number>();
  for (const { key, modifiedMs } of writers) {
    const id = WriterMark.idOf(key);
    lastMs.set(id, Math.max(lastMs.get(id) ?? 0, modifiedMs));
  }
  return writers
    .filter(({ key }) => WriterMark.isStart(key))
    .filter(({ key }) => (lastMs.get(WriterMark.idOf(key)) as number) > nowMs - STALE_MARK_MS)
    .map(({ key, modifiedMs }) => ({ key, startMs: modifiedMs }));
}

async function mapsOfMark(
  storage: ObjectStorage,
  key: string,
  options: StorageOptions,
): Promise<string[]> {
  try {
    const text = (await storage.get(key, MAX_MANIFEST_BYTES, options)).toString();
    const { maps } = JSON.parse(text) as { maps?: unknown };
    return Array.isArray(maps) ? maps.filter(isDigest) : [];
  } catch (error) {
    const { code } = toQemuFileError(error);
    // The writer is done, or its mark says nothing.
    if (code === 'ENOENT' || error instanceof SyntaxError) return [];
    throw error;
  }
}

async function addPacks(
  storage: ObjectStorage,
  map: string,
  packs: Set<string>,
  options: StorageOptions,
): Promise<void> {
  try {
    const bytes = await storage.get(mapKey(map), MAX_MAP_BYTES, options);
    for (const { digest } of (await decodeMap(bytes, map)).packs) packs.add(digest);
  } catch (error) {
    // The map of a copy may come later; the packs before it are new.
    if (toQemuFileError(error).code !== 'ENOENT') throw error;
  }
}

async function removeStaleMarks(
  storage: ObjectStorage,
  contents: StoreContents,
  nowMs: number,
  options: StorageOptions,
): Promise<void> {
  const live = new Set(liveMarks(contents, nowMs).map(({ key }) => WriterMark.idOf(key)));
  for (const { key, modifiedMs } of contents.writers) {
    if (live.has(WriterMark.idOf(key)) || modifiedMs > nowMs - STALE_MARK_MS) continue;
    await storage.remove(key, options);
  }
  for (const { key, modifiedMs } of contents.claims) {
    if (modifiedMs <= nowMs - STALE_MARK_MS) await storage.remove(key, options);
  }
}

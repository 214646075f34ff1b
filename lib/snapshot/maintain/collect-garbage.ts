import type {
  ObjectStorage,
  StorageOptions,
  StoredObject,
} from '../../../adapters/storage/object-storage.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { PREFIX } from '../format/keys.ts';
import { liveMarks, STALE_MARK_MS, WriterMark } from '../write/writer-mark.ts';
import { inParallel } from './in-parallel.ts';
import { NeededObjects } from './needed-objects.ts';
import { listContents, type StoreContents } from './store-contents.ts';

/** Default age of garbage that is removed: a day, in milliseconds. */
const GRACE_MS = 86_400_000;

/** Objects that are removed between two looks for new writers. */
const BATCH = 64;

/** Objects that are removed at the same time. */
const MAX_REMOVALS = 8;

/** Options of `gc`. */
export interface GcOptions extends StorageOptions {
  /**
   * Age that an object must have to be removed, in milliseconds by the clock of the storage; 0 or more. Default one
   * day.
   */
  readonly graceMs?: number | undefined;
  /** Remove nothing. */
  readonly dryRun?: boolean | undefined;
  /** Called with the number of objects removed, and of those that were old enough at first. */
  readonly onProgress?: ((removed: number, all: number) => void) | undefined;
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
  const { graceMs = GRACE_MS, dryRun = false, signal, onProgress } = options;
  if (!(graceMs >= 0)) throw new RangeError(`gc: graceMs must be 0 or more: ${graceMs}`);
  const contents = await listContents(storage, { signal });
  const nowMs = await storageTime(storage, contents, { signal });
  const needed = new NeededObjects(storage, nowMs, { signal });
  await needed.look();
  const { packs, maps, workingSets } = contents;
  const garbage = [...packs.values(), ...maps.values(), ...workingSets.values()].filter(
    (object) => !needed.has(object),
  );
  const old = garbage.filter(({ modifiedMs }) => modifiedMs <= nowMs - graceMs);
  if (dryRun) return resultOf(old, garbage.length - old.length, 0);
  const removed: StoredObject[] = [];
  for (let at = 0; at < old.length; at += BATCH) {
    // A writer may have begun, or a snapshot appeared.
    await needed.look();
    const batch = old.slice(at, at + BATCH).filter((object) => !needed.has(object));
    await inParallel(batch, MAX_REMOVALS, async (object) => {
      if (!(await removeUnchanged(storage, object, { signal }))) return;
      removed.push(object);
      onProgress?.(removed.length, old.length);
    });
  }
  await removeStaleMarks(storage, contents, nowMs, { signal });
  const leftoverMs = Math.max(graceMs, needed.writerAgeMs);
  const leftovers = await storage.removeLeftovers(leftoverMs, { signal, nowMs });
  return resultOf(removed, garbage.length - removed.length, leftovers);
}

/** Remove an object that was not put again since it was listed; return whether it was removed. */
async function removeUnchanged(
  storage: ObjectStorage,
  { key, modifiedMs }: StoredObject,
  options: StorageOptions,
): Promise<boolean> {
  if ((await storage.stat(key, options))?.modifiedMs !== modifiedMs) return false;
  await storage.remove(key, options);
  return true;
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
async function storageTime(
  storage: ObjectStorage,
  contents: StoreContents,
  options: StorageOptions,
): Promise<number> {
  const key = `${PREFIX.claims}clock`;
  try {
    await storage.put(key, [], options);
  } catch (error) {
    if (toQemuFileError(error).code !== 'ENOSPC') throw error;
    // Garbage is what fills a disk: it can be removed all the same, by a time that is too early rather than too late.
    return newestTime(contents);
  }
  const found = await storage.stat(key, options);
  await storage.remove(key, options);
  return found?.modifiedMs ?? Date.now();
}

/** Return the time of the newest object. */
function newestTime(contents: StoreContents): number {
  const { packs, maps, snapshots, workingSets, writers, claims } = contents;
  const named = [packs, maps, snapshots, workingSets].flatMap((objects) => [...objects.values()]);
  const all = [...named, ...writers, ...claims];
  return all.reduce((newest, { modifiedMs }) => Math.max(newest, modifiedMs), 0);
}

async function removeStaleMarks(
  storage: ObjectStorage,
  contents: StoreContents,
  nowMs: number,
  options: StorageOptions,
): Promise<void> {
  const live = new Set(liveMarks(contents.writers, nowMs).map(({ key }) => WriterMark.idOf(key)));
  for (const { key, modifiedMs } of contents.writers) {
    if (live.has(WriterMark.idOf(key)) || modifiedMs > nowMs - STALE_MARK_MS) continue;
    await storage.remove(key, options);
  }
  for (const { key, modifiedMs } of contents.claims) {
    if (modifiedMs <= nowMs - STALE_MARK_MS) await storage.remove(key, options);
  }
}

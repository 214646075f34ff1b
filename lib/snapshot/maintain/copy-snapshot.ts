import type { ObjectStorage, StorageOptions } from '../../../adapters/storage/object-storage.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { damaged } from '../format/damage.ts';
import { manifestKey, mapKey, packKey, workingSetKey } from '../format/keys.ts';
import { MAX_MAP_BYTES } from '../format/limits.ts';
import type { SnapshotInfo, SnapshotManifest } from '../format/manifest.ts';
import { decodeMap, type MapPack } from '../format/map.ts';
import { sealText } from '../format/sealed-text.ts';
import { readWorkingSetText } from '../read/read-working-set.ts';
import { checkPresent } from '../write/check-present.ts';
import { publish } from '../write/publish.ts';
import { WriterMark } from '../write/writer-mark.ts';
import { readPack } from './check-pack.ts';
import { inParallel } from './in-parallel.ts';

/** Packs that are copied at the same time. */
const MAX_COPIES = 4;

/** Options of `copy`. */
export interface CopyOptions extends StorageOptions {
  /** Name of the copy. Default: the same. */
  readonly name?: string | undefined;
  /** Replace a snapshot of that name. Default false. */
  readonly replace?: boolean | undefined;
  /** Called with the bytes that were copied, and that are to be copied. */
  readonly onProgress?: ((bytes: number, all: number) => void) | undefined;
}

/** A snapshot, and where it goes. */
export interface CopyJob {
  readonly from: ObjectStorage;
  readonly manifest: SnapshotManifest;
  readonly to: ObjectStorage;
  readonly name: string;
}

/** Copy the objects of a snapshot that another store lacks, and publish it there. */
export async function copySnapshot(job: CopyJob, options: CopyOptions): Promise<SnapshotInfo> {
  const { from, manifest, to, name } = job;
  const { signal } = options;
  const { sha256 } = manifest.map;
  const bytes = await from.get(mapKey(sha256), MAX_MAP_BYTES, { signal });
  const map = await decodeMap(bytes, sha256);
  const mark = await WriterMark.put(to, { maps: [sha256] }, signal);
  try {
    // The map comes first: with the mark, it protects packs that are there from the removal of garbage.
    await to.put(mapKey(sha256), [bytes], { signal });
    const missing = await missingPacks(to, map.packs, { signal });
    await copyPacks(job, missing, options);
    await copyWorkingSet(job, sha256, { signal });
    await checkPresent(to, map.packs, signal);
    const copiedBytes = totalBytes(missing);
    const copy: SnapshotManifest = {
      ...manifest,
      name,
      parent: await parentIn(to, name, manifest.parent, { signal }),
      ownBytes: bytes.length + copiedBytes,
      sharedBytes: totalBytes(map.packs) - copiedBytes,
    };
    await publish(to, copy, options.replace === true, signal);
    return copy;
  } finally {
    await mark.remove();
  }
}

async function missingPacks(
  to: ObjectStorage,
  packs: readonly MapPack[],
  options: StorageOptions,
): Promise<MapPack[]> {
  const missing: MapPack[] = [];
  await inParallel(packs, MAX_COPIES, async (pack) => {
    const found = await to.stat(packKey(pack.digest), options);
    if (found?.bytes !== pack.bytes) missing.push(pack);
  });
  return missing;
}

async function copyPacks(
  { from, to }: CopyJob,
  packs: readonly MapPack[],
  { signal, onProgress }: CopyOptions,
): Promise<void> {
  const all = totalBytes(packs);
  let copied = 0;
  await inParallel(packs, MAX_COPIES, async ({ digest, bytes: size }) => {
    const key = packKey(digest);
    let bytes: Buffer;
    try {
      ({ bytes } = await readPack(from, digest, { signal }));
    } catch (error) {
      const failure = toQemuFileError(error);
      throw failure.code === 'ENOENT' ? damaged(key, 'it is missing', failure) : failure;
    }
    await to.put(key, [bytes], { signal });
    copied += size;
    onProgress?.(copied, all);
  });
}

/** Copy the working set that is kept with a snapshot. A damaged one is left out: the snapshot is whole without it. */
async function copyWorkingSet(
  { from, to }: CopyJob,
  mapDigest: string,
  options: StorageOptions,
): Promise<void> {
  let text: string;
  try {
    text = await readWorkingSetText(from, mapDigest, options);
  } catch (error) {
    const { code } = toQemuFileError(error);
    if (code === 'ENOENT' || code === 'EBADMSG') return;
    throw error;
  }
  await to.put(workingSetKey(mapDigest), [sealText(text)], options);
}

/** Return the name of the parent, if there is a snapshot of that name. */
async function parentIn(
  to: ObjectStorage,
  name: string,
  parent: string | null,
  options: StorageOptions,
): Promise<string | null> {
  if (parent === null || parent === name) return null;
  return (await to.stat(manifestKey(parent), options)) === null ? null : parent;
}

function totalBytes(packs: readonly MapPack[]): number {
  return packs.reduce((sum, { bytes }) => sum + bytes, 0);
}

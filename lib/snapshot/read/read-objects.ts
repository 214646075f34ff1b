import type { ObjectStorage, StorageOptions } from '../../../adapters/storage/object-storage.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { damaged } from '../format/damage.ts';
import { manifestKey, mapKey } from '../format/keys.ts';
import { MAX_MANIFEST_BYTES, MAX_MAP_BYTES } from '../format/limits.ts';
import { decodeManifest, type SnapshotManifest } from '../format/manifest.ts';
import { decodeMap, type SnapshotMap } from '../format/map.ts';

/**
 * Read the manifest of a snapshot.
 *
 * @throws {QemuFileError} (rejects) `ENOENT` if there is no snapshot of this name; as `decodeManifest`; the error of
 *   the storage.
 */
export async function readManifest(
  storage: ObjectStorage,
  name: string,
  options: StorageOptions = {},
): Promise<SnapshotManifest> {
  let bytes: Buffer;
  try {
    bytes = await storage.get(manifestKey(name), MAX_MANIFEST_BYTES, options);
  } catch (error) {
    const failure = toQemuFileError(error);
    if (failure.code === 'EFBIG') throw damaged(manifestKey(name), 'it is too large', failure);
    if (failure.code !== 'ENOENT') throw failure;
    throw noSnapshot(storage, name, failure);
  }
  return decodeManifest(bytes, name);
}

/** Return the error for a name without a snapshot. */
export function noSnapshot(storage: ObjectStorage, name: string, cause?: unknown): QemuFileError {
  const reason = `${storage.name} has no snapshot "${name}"`;
  const advice = 'list them with "qemu-file store ls"';
  return new QemuFileError('ENOENT', reason, { operation: 'openSnapshot', advice, cause });
}

/**
 * Read the map that a manifest names.
 *
 * @throws {QemuFileError} (rejects) `EBADMSG` if it is damaged or missing; the error of the storage.
 */
export async function readMap(
  storage: ObjectStorage,
  { sha256, bytes: size }: SnapshotManifest['map'],
  options: StorageOptions = {},
): Promise<SnapshotMap> {
  let bytes: Buffer;
  try {
    bytes = await storage.get(mapKey(sha256), Math.min(size, MAX_MAP_BYTES), options);
  } catch (error) {
    const failure = toQemuFileError(error);
    if (failure.code === 'ENOENT') throw damaged(mapKey(sha256), 'it is missing', failure);
    if (failure.code === 'EFBIG') {
      throw damaged(mapKey(sha256), 'it is longer than its manifest says', failure);
    }
    throw failure;
  }
  return decodeMap(bytes, sha256);
}

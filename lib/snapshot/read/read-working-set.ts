import type { ObjectStorage, StorageOptions } from '../../../adapters/storage/object-storage.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import type { PageRange } from '../../migration/page-source/page-source.ts';
import {
  decodeWorkingSet,
  MAX_WORKING_SET_BYTES,
  type WorkingSetMemory,
} from '../../migration/page-source/working-set.ts';
import { damaged } from '../format/damage.ts';
import { workingSetKey } from '../format/keys.ts';
import { unsealText } from '../format/sealed-text.ts';

/** Bytes of the line with the digest. */
const SEAL_BYTES = 65;

/** A working set that is kept with a snapshot. */
export interface KeptWorkingSet {
  /** The pages; none without a set, and with one that cannot be used. */
  readonly ranges: readonly PageRange[];
  /** Why there is a set that is not used; null if there is none, or it is used. */
  readonly problem: string | null;
}

/**
 * Return the text of the working set that is kept with the snapshots of a map.
 *
 * @throws {QemuFileError} (rejects) `ENOENT` if there is none; `EBADMSG` if it is damaged; the error of the storage.
 */
export async function readWorkingSetText(
  storage: ObjectStorage,
  mapDigest: string,
  options: StorageOptions,
): Promise<string> {
  const key = workingSetKey(mapDigest);
  try {
    const bytes = await storage.get(key, MAX_WORKING_SET_BYTES + SEAL_BYTES, options);
    return unsealText(bytes, (reason) => damaged(key, reason));
  } catch (error) {
    const failure = toQemuFileError(error);
    throw failure.code === 'EFBIG' ? damaged(key, 'it is too large', failure) : failure;
  }
}

/**
 * Return the working set that is kept with the snapshots of a map. A guest can be restored without it, so a
 * set that cannot be used causes no error.
 */
export async function readWorkingSet(
  storage: ObjectStorage,
  mapDigest: string,
  memory: Promise<WorkingSetMemory>,
  options: StorageOptions,
): Promise<KeptWorkingSet> {
  let text: string;
  try {
    text = await readWorkingSetText(storage, mapDigest, options);
  } catch (error) {
    const { code, reason } = toQemuFileError(error);
    return { ranges: [], problem: code === 'ENOENT' ? null : reason };
  }
  const set = decodeWorkingSet(text, await memory);
  if (typeof set !== 'string') return { ranges: set, problem: null };
  return { ranges: [], problem: `${workingSetKey(mapDigest)} is not used: ${set}` };
}

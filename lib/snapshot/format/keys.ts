import { QemuFileError } from '../../contract/errors.ts';
import { quote } from '../../util/format.ts';

/** Where the objects of a store are. */
export const PREFIX = {
  packs: 'packs/',
  maps: 'maps/',
  snapshots: 'snapshots/',
  workingSets: 'working-sets/',
  writers: 'writers/',
  claims: 'claims/',
} as const;

/** Key of the object that marks a store and has its version. */
export const STORE_MARK = 'qemu-file-store';

const DIGEST = /^[0-9a-f]{64}$/;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;

/** Return whether text is a SHA-256 in lower-case hexadecimal digits. */
export function isDigest(text: unknown): text is string {
  return typeof text === 'string' && DIGEST.test(text);
}

/** Return whether text can be the name of a snapshot. */
export function isSnapshotName(text: unknown): text is string {
  return typeof text === 'string' && NAME.test(text);
}

/**
 * Check the name of a snapshot.
 *
 * @throws {QemuFileError} `EINVAL`.
 */
export function checkSnapshotName(name: string, operation: string): void {
  const problem = nameProblem(name);
  if (problem !== null) throw new QemuFileError('EINVAL', problem, { operation });
}

/** Return why text cannot be the name of a snapshot, as a clause; null if it can. */
export function nameProblem(name: string): string | null {
  if (isSnapshotName(name)) return null;
  const rule =
    'use 1 to 128 characters of A-Z a-z 0-9 . _ -, the first of them a letter, a digit or _';
  return name === '' ? `a snapshot needs a name: ${rule}` : `${quote(name)} is not a name: ${rule}`;
}

/** Return the key of a snapshot's manifest. */
export function manifestKey(name: string): string {
  return PREFIX.snapshots + name;
}

/** Return the key of a pack. */
export function packKey(digest: string): string {
  return PREFIX.packs + digest;
}

/** Return the key of a map. */
export function mapKey(digest: string): string {
  return PREFIX.maps + digest;
}

/** Return the key of the working set of a snapshot with this map. */
export function workingSetKey(mapDigest: string): string {
  return PREFIX.workingSets + mapDigest;
}

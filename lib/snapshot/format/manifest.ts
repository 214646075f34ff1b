import { QemuFileError } from '../../contract/errors.ts';
import { damaged } from './damage.ts';
import { isDigest, isSnapshotName, manifestKey } from './keys.ts';
import { STORE_VERSION } from './limits.ts';
import { sealText, unsealText } from './sealed-text.ts';

const FORMAT = 'qemu-file-snapshot';

/** Facts about a snapshot, from its manifest. */
export interface SnapshotInfo {
  readonly name: string;
  /** Name of the snapshot that it was compared with when it was written, which may be gone; null without one. */
  readonly parent: string | null;
  /** Machine type, such as `pc-i440fx-7.2`; null if the stream did not say. */
  readonly machine: string | null;
  /** Bytes of guest memory, zeros included. */
  readonly ramBytes: number;
  /** Bytes of guest memory that are not zeros. */
  readonly dataBytes: number;
  /** Bytes in the store that were written for this snapshot. */
  readonly ownBytes: number;
  /** Bytes in the store that it shares with the snapshots before it. */
  readonly sharedBytes: number;
  /** Time at which it was complete, in ISO 8601. */
  readonly savedAt: string;
}

/** The manifest of a snapshot. */
export interface SnapshotManifest extends SnapshotInfo {
  /** The snapshot's map. */
  readonly map: { readonly sha256: string; readonly bytes: number };
}

/** The members of a manifest that was not checked yet. */
type Fields = { readonly [K in keyof SnapshotManifest | 'format' | 'version']?: unknown };

/** Return the bytes of a manifest: a line of JSON, and a line with its SHA-256. */
export function encodeManifest(manifest: SnapshotManifest): Buffer {
  return sealText(JSON.stringify({ format: FORMAT, version: STORE_VERSION, ...manifest }));
}

/**
 * Decode a manifest and check it.
 *
 * @param name - Name of the snapshot.
 * @throws {QemuFileError} `EBADMSG` for one that is damaged, or of another snapshot; `ENOTSUP` for one of a later
 *   version.
 */
export function decodeManifest(bytes: Uint8Array, name: string): SnapshotManifest {
  const fail = (reason: string): Error => damaged(manifestKey(name), reason);
  const text = unsealText(bytes, fail);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw damaged(manifestKey(name), 'it is not JSON', error);
  }
  if (typeof value !== 'object' || value === null) throw fail('it is not an object');
  const fields = value as Fields;
  if (fields.format !== FORMAT) throw fail('it is not the manifest of a snapshot');
  if (fields.version !== STORE_VERSION) throw laterVersion(manifestKey(name), fields.version);
  if (fields.name !== name) throw fail('it is the manifest of another snapshot');
  const { parent, machine, ramBytes, dataBytes, ownBytes, sharedBytes, savedAt } = fields;
  if (parent !== null && !isSnapshotName(parent)) throw fail('its parent has no valid name');
  if (parent === name) throw fail('it names itself as its parent');
  if (machine !== null && typeof machine !== 'string') throw fail('its machine is not text');
  if (typeof savedAt !== 'string' || !Number.isFinite(Date.parse(savedAt))) {
    throw fail('the time at which it was saved is not a time');
  }
  const isValid = isSize(ramBytes) && isSize(dataBytes) && isSize(ownBytes) && isSize(sharedBytes);
  if (!isValid) throw fail('a size is not a number of bytes');
  const { sha256, bytes: mapBytes } = (fields.map ?? {}) as { sha256?: unknown; bytes?: unknown };
  if (!isDigest(sha256) || !isSize(mapBytes)) throw fail('it does not name a map');
  const map = { sha256, bytes: mapBytes };
  return { name, parent, machine, ramBytes, dataBytes, ownBytes, sharedBytes, savedAt, map };
}

/** Return the error for an object of a version that this package does not know. */
export function laterVersion(key: string, version: unknown): QemuFileError {
  const reason = `${key} has version ${JSON.stringify(version)}, and this package reads version ${STORE_VERSION}; use a later qemu-file`;
  return new QemuFileError('ENOTSUP', reason, { operation: 'readSnapshot' });
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

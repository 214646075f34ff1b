import { isStoreUrl, parseStoreUrl, type StoreUrl } from '../../../adapters/storage/store-url.ts';
import { QemuFileError } from '../../contract/errors.ts';
import { nameProblem } from '../../snapshot/format/keys.ts';

/** The URL of a snapshot in a store. */
export type SnapshotUrl = StoreUrl & { readonly snapshot: string };

/**
 * Parse the URL of a snapshot.
 *
 * @throws {QemuFileError} `EINVAL` as `parseStoreUrl`; also without a name, or with one that no snapshot can have.
 */
export function parseSnapshotUrl(text: string): SnapshotUrl {
  const url = parseStoreUrl(text);
  if (hasName(url)) return checkName(text, url);
  throw urlError(`${text}: the name of a snapshot is missing: add #NAME`);
}

/**
 * Parse the URL of a store as a whole. It may end with a `#`: there may be another one in the name of the directory.
 *
 * @throws {QemuFileError} `EINVAL` as `parseStoreUrl`; also with the name of a snapshot.
 */
export function parseWholeStoreUrl(text: string): StoreUrl {
  const url = parseStoreUrl(text);
  if (!url.snapshot) return { ...url, snapshot: undefined };
  throw urlError(`${text}: this command is for a whole store: remove "#${url.snapshot}"`);
}

/**
 * Parse the URL of a store in which the name of a snapshot is optional.
 *
 * @throws {QemuFileError} `EINVAL` as `parseStoreUrl`; also with a name that no snapshot can have.
 */
export function parseCopyTarget(text: string): StoreUrl {
  const url = parseStoreUrl(text);
  return hasName(url) ? checkName(text, url) : url;
}

/**
 * Return why the names that options of a store have are not names of snapshots; undefined if they are.
 *
 * @param options - `workingSet` may also be a file.
 */
export function refuseNames(options: {
  readonly parent?: string | undefined;
  readonly workingSet?: string | undefined;
}): string | undefined {
  const { parent, workingSet } = options;
  const problem = parent === undefined ? null : nameProblem(parent);
  if (problem !== null) return `--parent: ${problem}`;
  if (workingSet === undefined || !isStoreUrl(workingSet)) return undefined;
  try {
    parseSnapshotUrl(workingSet);
    return undefined;
  } catch (error) {
    return `--working-set: ${(error as QemuFileError).reason}`;
  }
}

function hasName(url: StoreUrl): url is SnapshotUrl {
  return url.snapshot !== undefined;
}

function checkName(text: string, url: SnapshotUrl): SnapshotUrl {
  const problem = nameProblem(url.snapshot);
  if (problem !== null) throw urlError(`${text}: ${problem}`);
  return url;
}

function urlError(reason: string): QemuFileError {
  return new QemuFileError('EINVAL', reason, { operation: 'parseEndpoint' });
}

import { isStoreUrl, parseStoreUrl, type StoreUrl } from '../../../adapters/storage/store-url.ts';
import { QemuFileError } from '../../contract/errors.ts';
import { nameProblem } from '../../snapshot/format/keys.ts';

const NAME_OPERATION = 'checkSnapshotName';

/** The URL of a snapshot in a store. */
export type SnapshotUrl = StoreUrl & { readonly snapshot: string };

/**
 * Parse the URL of a snapshot.
 *
 * @throws {QemuFileError} `EINVAL` as `parseStoreUrl`; also without a name, or, by `isNameError`, with one that no
 *   snapshot can have.
 */
export function parseSnapshotUrl(text: string): SnapshotUrl {
  const url = parseStoreUrl(text);
  if (!hasName(url)) throw urlError(`${text}: the name of a snapshot is missing: add #NAME`);
  checkName(text, url.snapshot);
  return url;
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
 * @throws {QemuFileError} `EINVAL` as `parseStoreUrl`; also, by `isNameError`, with a name that no snapshot can have.
 */
export function parseCopyTarget(text: string): StoreUrl {
  const url = parseStoreUrl(text);
  if (hasName(url)) checkName(text, url.snapshot);
  return url;
}

/**
 * Check the names that options of a store have.
 *
 * @param options - `workingSet` may also be a file.
 * @throws {QemuFileError} `EINVAL`; by `isNameError`, for a name that no snapshot can have.
 */
export function checkNames(options: {
  readonly parent?: string | undefined;
  readonly workingSet?: string | undefined;
}): void {
  const { parent, workingSet } = options;
  if (parent !== undefined) checkName('--parent', parent);
  if (workingSet === undefined || !isStoreUrl(workingSet)) return;
  try {
    parseSnapshotUrl(workingSet);
  } catch (error) {
    const { reason, operation } = error as QemuFileError;
    throw new QemuFileError('EINVAL', `--working-set: ${reason}`, { operation, cause: error });
  }
}

/** Return whether an error is about a name that no snapshot can have. The command ends as if it were not there. */
export function isNameError({ operation }: QemuFileError): boolean {
  return operation === NAME_OPERATION;
}

function hasName(url: StoreUrl): url is SnapshotUrl {
  return url.snapshot !== undefined;
}

function checkName(what: string, name: string): void {
  const problem = nameProblem(name);
  if (problem !== null) throw urlError(`${what}: ${problem}`, NAME_OPERATION);
}

function urlError(reason: string, operation = 'parseEndpoint'): QemuFileError {
  return new QemuFileError('EINVAL', reason, { operation });
}

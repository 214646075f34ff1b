import { QemuFileError } from '../../lib/contract/errors.ts';
import { isObjectKey } from './object-key.ts';

/** A parsed URL of a snapshot store, with the name of a snapshot where there is one. */
export type StoreUrl =
  /** `store:DIR[#NAME]`: a directory. */
  | { scheme: 'store'; path: string; snapshot: string | undefined }
  /** `s3://BUCKET[/PREFIX][?endpoint=…&region=…&pathStyle=…][#NAME]`. */
  | {
      scheme: 's3';
      bucket: string;
      /** Begins the keys of all objects of the store; without slashes at its ends, and empty for none. */
      prefix: string;
      /** Undefined: as the environment of the AWS SDK has it. */
      endpoint: string | undefined;
      region: string | undefined;
      /** Whether the bucket is in the path instead of the host name; undefined to decide by the endpoint. */
      pathStyle: boolean | undefined;
      snapshot: string | undefined;
    };

/** Both forms of a store's URL, for messages. */
const STORE_URL_FORMS =
  'store:DIR[#NAME] or s3://BUCKET[/PREFIX][?endpoint=…&region=…&pathStyle=true][#NAME]';

const PARAMETERS: ReadonlySet<string> = new Set(['endpoint', 'region', 'pathStyle']);

/** The characters of bucket names, which S3 limits further; older buckets have capitals and underscores. */
const BUCKET = /^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$/;

/** Return whether text is meant as the URL of a snapshot store, right or wrong. */
export function isStoreUrl(text: string): boolean {
  return text.startsWith('store:') || text.startsWith('s3:');
}

/**
 * Parse the URL of a snapshot store. The name of the snapshot follows the last `#`; in `s3:` URLs, characters of
 * the parameters may be percent-encoded.
 *
 * @param text - `store:DIR[#NAME]` or `s3://BUCKET[/PREFIX][?endpoint=…&region=…&pathStyle=true|false][#NAME]`.
 * @returns The scheme and its parts; `snapshot` is undefined without a `#`, and may be invalid as a name.
 * @throws {QemuFileError} `EINVAL` for another scheme, a missing directory or bucket, an invalid bucket, prefix,
 *   endpoint or parameter, and for NUL.
 *
 * @example
 * ```js
 * parseStoreUrl('store:/srv/vm#agent-1'); // { scheme: 'store', path: '/srv/vm', snapshot: 'agent-1' }
 * parseStoreUrl('s3://vm/golden?region=eu-central-1#base'); // its prefix is 'golden'
 * ```
 */
export function parseStoreUrl(text: string): StoreUrl {
  if (text.includes('\0')) throw urlError('the URL of a store must not contain NUL');
  const hash = text.lastIndexOf('#');
  const location = hash < 0 ? text : text.slice(0, hash);
  const snapshot = hash < 0 ? undefined : text.slice(hash + 1);
  if (location.startsWith('store:')) {
    const path = location.slice('store:'.length);
    if (path === '') throw urlError(`${text}: the directory is missing, as in store:/srv/vm#name`);
    return { scheme: 'store', path, snapshot };
  }
  if (location.startsWith('s3:')) return parseS3(location, snapshot, text);
  throw urlError(`${text}: not a store; write ${STORE_URL_FORMS}`);
}

function parseS3(location: string, snapshot: string | undefined, text: string): StoreUrl {
  const [, bucket = '', path = '', query = ''] =
    /^s3:\/\/([^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/s.exec(location) ?? [];
  if (bucket === '')
    throw urlError(`${text}: the bucket is missing, as in s3://bucket/prefix#name`);
  if (!BUCKET.test(bucket)) throw urlError(`${text}: "${bucket}" is not the name of a bucket`);
  const prefix = path.replace(/\/$/, '');
  if (prefix !== '' && !isObjectKey(prefix)) {
    const reason =
      'the prefix must be words of A-Z a-z 0-9 . _ - and slashes, none beginning with a dot';
    throw urlError(`${text}: ${reason}`);
  }
  const parameters = new URLSearchParams(query);
  for (const name of parameters.keys()) {
    if (!PARAMETERS.has(name)) {
      throw urlError(
        `${text}: unknown parameter "${name}"; known are ${[...PARAMETERS].join(', ')}`,
      );
    }
  }
  return {
    scheme: 's3',
    bucket,
    prefix,
    endpoint: endpointOf(parameters.get('endpoint') ?? undefined, text),
    region: parameters.get('region') ?? undefined,
    pathStyle: booleanOf(parameters.get('pathStyle') ?? undefined, text),
    snapshot,
  };
}

function endpointOf(endpoint: string | undefined, text: string): string | undefined {
  if (endpoint === undefined) return undefined;
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined;
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw urlError(`${text}: "${endpoint}" is not an endpoint, as http://127.0.0.1:9000 is`);
  }
  if (url.username !== '' || url.password !== '') {
    // A command line is visible to other users.
    throw urlError(
      'the endpoint must not contain credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
    );
  }
  return endpoint;
}

function booleanOf(value: string | undefined, text: string): boolean | undefined {
  if (value === undefined || value === 'true' || value === 'false') {
    return value === undefined ? undefined : value === 'true';
  }
  throw urlError(`${text}: pathStyle is true or false, not "${value}"`);
}

function urlError(reason: string): QemuFileError {
  return new QemuFileError('EINVAL', reason, { operation: 'parseStoreUrl' });
}

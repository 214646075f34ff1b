import { constants } from 'node:os';
import { QemuFileError } from '../../../lib/contract/errors.ts';

/** The fields of an error of the SDK, of its HTTP client or of Node; all of them may be missing. */
interface SdkError {
  readonly name?: unknown;
  readonly message?: unknown;
  readonly code?: unknown;
  readonly Code?: unknown;
  readonly Region?: unknown;
  readonly $metadata?: { readonly httpStatusCode?: number | undefined } | undefined;
}

/** An errno name, a reason, and what to do. */
type Explanation = readonly [code: string, reason: string, advice?: string];

const CREDENTIALS =
  'check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile in ~/.aws/credentials';
const ENDPOINT =
  'check the endpoint in the URL or in AWS_ENDPOINT_URL_S3, and that the storage runs';

/** Meanings of S3's own codes. @see https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html */
const S3_CODES: Readonly<Record<string, Explanation>> = {
  AccessDenied: [
    'EACCES',
    'the storage denies access',
    'check that these credentials may read and write this bucket (s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket)',
  ],
  ExpiredToken: ['EACCES', 'the session of these credentials has expired', 'log in again'],
  InvalidAccessKeyId: ['EACCES', 'the storage does not know the access key', CREDENTIALS],
  InvalidToken: ['EACCES', 'the storage refuses the session token', CREDENTIALS],
  NoSuchBucket: [
    'ENOENT',
    'there is no such bucket',
    'create it first, or check its name, the endpoint and the region',
  ],
  NoSuchKey: ['ENOENT', 'there is no such object', 'check the name'],
  NotFound: ['ENOENT', 'there is no such object', 'check the name'],
  QuotaExceeded: ['ENOSPC', 'the quota of the storage is used up'],
  RequestTimeTooSkewed: [
    'EACCES',
    "this machine's clock differs too much from the clock of the storage",
    'set the clock, for instance by NTP',
  ],
  SignatureDoesNotMatch: [
    'EACCES',
    'the storage refuses the signature: the secret key or the access key is wrong',
    CREDENTIALS,
  ],
  XMinioStorageFull: ['ENOSPC', 'the storage is full'],
};

/** Meanings of statuses that come with another code or with none, as in answers to HEAD. */
const STATUSES: Readonly<Record<number, Explanation>> = {
  401: ['EACCES', 'the storage wants other credentials', CREDENTIALS],
  403: [
    'EACCES',
    'the storage denies access',
    `${CREDENTIALS}; what they may do with this bucket; and the clock of this machine`,
  ],
  404: ['ENOENT', 'there is no such object', 'check the name'],
  409: ['EIO', 'another writer changes the same object', 'try again'],
  412: ['EEXIST', 'the object exists already'],
  413: ['EFBIG', 'the storage refuses an object of this size'],
  501: ['ENOTSUP', 'the storage does not support this operation of S3'],
  507: ['ENOSPC', 'the storage is full'],
};

/** Meanings of errors of the connection. */
const NETWORK: Readonly<Record<string, Explanation>> = {
  ECONNREFUSED: ['ECONNREFUSED', 'the endpoint refuses connections', ENDPOINT],
  ENOTFOUND: ['EHOSTUNREACH', 'the host name of the endpoint is not known', ENDPOINT],
  EAI_AGAIN: ['EHOSTUNREACH', 'the name server does not answer', ENDPOINT],
  ECONNRESET: ['ECONNRESET', 'the storage ended the connection', ENDPOINT],
  EPIPE: ['ECONNRESET', 'the storage ended the connection', ENDPOINT],
  EPROTO: ['EPROTO', 'the endpoint does not speak TLS', ENDPOINT],
};

/** Statuses of a storage that is busy or broken for a moment. */
const TRANSIENT_STATUSES: ReadonlySet<number> = new Set([408, 409, 425, 429, 500, 502, 503, 504]);
/** S3's codes that mean the same, some of which come with status 400. */
const TRANSIENT_CODES: ReadonlySet<unknown> = new Set([
  'BadDigest',
  'IncompleteBody',
  'RequestTimeout',
  // The SDK has noted the difference of the clocks, and signs the next request with it.
  'RequestTimeTooSkewed',
  'SlowDown',
]);
/** Errors of a connection that another attempt may not have. */
const TRANSIENT_NETWORK: ReadonlySet<unknown> = new Set([
  'EAI_AGAIN',
  'ECONNABORTED',
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EPIPE',
  'ERR_STREAM_PREMATURE_CLOSE',
  'ETIMEDOUT',
]);

/** Return the HTTP status of an error's answer; 0 without an answer. */
export function statusOf(error: unknown): number {
  return (error as SdkError).$metadata?.httpStatusCode ?? 0;
}

/** Return whether another attempt may succeed. */
export function isTransientError(error: unknown): boolean {
  const { name, code } = error as SdkError;
  if (name === 'AbortError') return false;
  return (
    name === 'TimeoutError' ||
    TRANSIENT_CODES.has(name) ||
    TRANSIENT_STATUSES.has(statusOf(error)) ||
    TRANSIENT_NETWORK.has(code)
  );
}

/**
 * Convert an error of the SDK.
 *
 * @param error - Any value that was thrown; a `QemuFileError` is returned as it is.
 * @param operation - Of the storage.
 * @param where - URL of the object or of the bucket.
 */
export function s3Error(error: unknown, operation: string, where: string): QemuFileError {
  if (error instanceof QemuFileError) return error;
  const [code, reason, advice] = explain(error as SdkError);
  return new QemuFileError(code, `${where}: ${reason}`, { operation, advice, cause: error });
}

function explain(error: SdkError): Explanation {
  const { name, code } = error;
  const status = statusOf(error);
  const said = typeof error.message === 'string' && error.message !== '' ? error.message : '';
  if (name === 'AbortError') return ['ECANCELED', 'aborted by its signal'];
  if (name === 'CredentialsProviderError') {
    return ['EACCES', 'there are no credentials', `set them: ${CREDENTIALS}`];
  }
  if (isWrongRegion(error)) return wrongRegion(error);
  const known = S3_CODES[String(name)] ?? S3_CODES[String(error.Code)] ?? STATUSES[status];
  if (known !== undefined) return known;
  if (TRANSIENT_STATUSES.has(status)) {
    const details = name === 'Unknown' ? '' : `, ${String(name)}`;
    const text = `the storage is busy or broken (status ${status}${details})`;
    return ['EIO', text, 'try again later, or look at the log of the storage'];
  }
  if (status > 0)
    return ['EIO', `the storage answers with status ${status}: ${said || String(name)}`];
  // The SDK calls a reset connection a TimeoutError as well.
  const network = NETWORK[String(code)];
  if (network !== undefined) return network;
  if (name === 'TimeoutError' || code === 'ETIMEDOUT') {
    return ['ETIMEDOUT', 'the storage does not answer', ENDPOINT];
  }
  const errno = typeof code === 'string' && code in constants.errno ? code : 'EIO';
  return [errno, said || 'the request failed', ENDPOINT];
}

function isWrongRegion({ name, Region, $metadata }: SdkError): boolean {
  return (
    name === 'AuthorizationHeaderMalformed' ||
    name === 'PermanentRedirect' ||
    name === 'IllegalLocationConstraintException' ||
    (typeof Region === 'string' && Region !== '') ||
    $metadata?.httpStatusCode === 301
  );
}

function wrongRegion({ Region, message }: SdkError): Explanation {
  const [, expected] = /expecting '([a-z0-9-]+)'/.exec(String(message)) ?? [];
  const region = typeof Region === 'string' && Region !== '' ? Region : expected;
  const which = region === undefined ? 'another region' : `the region ${region}`;
  return ['EINVAL', `the bucket is in ${which}`, 'set AWS_REGION, or add ?region=… to the URL'];
}

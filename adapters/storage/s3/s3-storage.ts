import type { S3Client } from '@aws-sdk/client-s3';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { totalLength } from '../../../lib/util/total-length.ts';
import { checkKey, checkPrefix, checkRange, isObjectKey } from '../object-key.ts';
import type {
  LeftoverOptions,
  ObjectStorage,
  StorageOptions,
  StoredObject,
} from '../object-storage.ts';
import { ConditionalPut } from './conditional-put.ts';
import { abortOldUploads, putMultipart } from './multipart.ts';
import { readBody } from './read-body.ts';
import { retry } from './retry.ts';
import { s3Error, statusOf } from './s3-error.ts';
import type { S3Credentials } from './s3-target.ts';
import { abortedBy, loadSdk, makeClient, type S3Sdk } from './sdk.ts';

/** Longest time without a byte, in milliseconds, by default. */
const DEFAULT_TIMEOUT_MS = 30_000;
/** Attempts at a request by default: delays of 0.1, 0.2, 0.4 and 0.8 s lie between them, at most. */
const DEFAULT_MAX_ATTEMPTS = 5;

/** Objects from this size on are uploaded in parts. */
const MULTIPART_FROM_BYTES = 32 * 1024 * 1024;

/** Options of `s3Storage`. The AWS SDK takes what is undefined from the environment and its files. */
export interface S3StorageOptions {
  readonly bucket: string;
  /** Begins the keys of all objects, with a slash after it. Default: none. */
  readonly prefix?: string | undefined;
  /** URL of the service, such as `http://127.0.0.1:9000`. */
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
  /** Whether the bucket is in the path of URLs instead of the host name. Default: for IP addresses and localhost. */
  readonly pathStyle?: boolean | undefined;
  readonly credentials?: S3Credentials | undefined;
  /** Longest time without a byte in either direction, in milliseconds. Default 30000. */
  readonly timeoutMs?: number | undefined;
  /** Attempts at each request, at least 1. Default 5. */
  readonly maxAttempts?: number | undefined;
}

/**
 * Return object storage in a bucket of S3, or of a service with its interface. It needs the package
 * `@aws-sdk/client-s3`, which is loaded by this call. Credentials, region and endpoint that the options leave out
 * come from the environment and the files of the AWS SDK (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
 * `AWS_ENDPOINT_URL_S3`, `AWS_PROFILE`, `~/.aws/config` …).
 *
 * A request that fails for a moment (status 500, 503, 429, a broken or silent connection) is made again, with
 * growing delays. Objects of 32 MiB and more are uploaded in parts; an upload that fails is aborted, and
 * `removeLeftovers` aborts those of killed processes.
 *
 * `put` with `ifAbsent` sends `If-None-Match: *`. If the service does not know that (status 501), or ignores it,
 * `canPutIfAbsent` is false, and the object is looked for before and compared after it is written: of two writers
 * at the same moment, the later one can replace the object of the earlier one after both have succeeded.
 *
 * Each request to write is signed with the SHA-256 of its content, which the service verifies. Contents that are
 * read are checked for their length only: callers verify digests.
 *
 * @param options - `bucket`, and settings that the environment lacks.
 * @returns Storage whose methods reject with a `QemuFileError` that names the object's URL: `ENOENT` (no such
 *   object or bucket), `EACCES` (credentials, permissions, clock), `EEXIST`, `EFBIG`, `ENODATA`, `ENOSPC`,
 *   `EINVAL` (key, region), `EIO` (status 500 or 503 to the last attempt), `ETIMEDOUT`, `ECONNREFUSED`,
 *   `ECONNRESET`, `EHOSTUNREACH`, `ENOTSUP`, `ECANCELED`.
 * @throws {QemuFileError} (rejects) `ENOTSUP` if the package is not installed; `EINVAL` if there is neither a
 *   region nor an endpoint.
 */
export async function s3Storage(options: S3StorageOptions): Promise<ObjectStorage> {
  const sdk = await loadSdk();
  const client = await makeClient(sdk, options, options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
  return new S3Storage(sdk, client, options);
}

class S3Storage implements ObjectStorage {
  readonly name: string;
  readonly #sdk: S3Sdk;
  readonly #client: S3Client;
  readonly #bucket: string;
  /** Begins every key; empty, or with a slash at its end. */
  readonly #prefix: string;
  readonly #maxAttempts: number;
  readonly #conditional = new ConditionalPut();

  constructor(sdk: S3Sdk, client: S3Client, options: S3StorageOptions) {
    this.#sdk = sdk;
    this.#client = client;
    this.#bucket = options.bucket;
    this.#prefix = options.prefix ? `${options.prefix}/` : '';
    this.#maxAttempts = options.maxAttempts ?? DEFAULT_MAX_ATTEMPTS;
    this.name = `s3://${options.bucket}${options.prefix ? `/${options.prefix}` : ''}`;
  }

  get canPutIfAbsent(): boolean | null {
    return this.#conditional.isSupported;
  }

  async put(
    key: string,
    parts: readonly Uint8Array[],
    options: StorageOptions & { readonly ifAbsent?: boolean | undefined } = {},
  ): Promise<void> {
    checkKey(key, 'put');
    const bytes = totalLength(parts);
    const write = (isConditional: boolean): Promise<void> =>
      bytes < MULTIPART_FROM_BYTES
        ? this.#putWhole(key, parts, isConditional, options)
        : this.#putMultipart(key, parts, isConditional, options);
    if (options.ifAbsent !== true) return write(false);
    await this.#conditional.put({
      write,
      exists: async () => (await this.stat(key, options)) !== null,
      isOurs: async () => {
        const found = await this.get(key, bytes, options).catch((error: unknown) => {
          if (error instanceof QemuFileError && ['EFBIG', 'ENOENT'].includes(error.code))
            return null;
          throw error;
        });
        return found?.equals(Buffer.concat(parts)) === true;
      },
      existsError: () =>
        new QemuFileError('EEXIST', `${this.name}/${key}: the object exists already`, {
          operation: 'put',
        }),
    });
  }

  get(key: string, maxBytes: number, options: StorageOptions = {}): Promise<Buffer> {
    return this.#request(key, 'get', options, async () => {
      const { signal } = options;
      const command = new this.#sdk.GetObjectCommand(this.#object(key));
      const { Body, ContentLength } = await this.#client.send(command, abortedBy(signal));
      return readBody(Body, ContentLength, (bytes) => {
        if (bytes <= maxBytes) return;
        const reason = `${this.name}/${key}: the object has ${bytes} bytes; at most ${maxBytes} are read`;
        throw new QemuFileError('EFBIG', reason, { operation: 'get' });
      });
    });
  }

  async getRange(
    key: string,
    offset: number,
    length: number,
    options: StorageOptions = {},
  ): Promise<Buffer> {
    checkKey(key, 'getRange');
    checkRange(offset, length, 'getRange');
    const beyond = (): QemuFileError =>
      new QemuFileError('ENODATA', `${this.name}/${key}: the object ends before the range`, {
        operation: 'getRange',
        position: offset,
      });
    if (length === 0) {
      const found = await this.stat(key, options);
      if (found !== null && offset <= found.bytes) return Buffer.alloc(0);
      throw found === null ? this.#missing(key, 'getRange') : beyond();
    }
    return this.#request(key, 'getRange', options, async () => {
      const { signal } = options;
      const Range = `bytes=${offset}-${offset + length - 1}`;
      const command = new this.#sdk.GetObjectCommand({ ...this.#object(key), Range });
      try {
        const answer = await this.#client.send(command, abortedBy(signal));
        return await readBody(answer.Body, answer.ContentLength, (bytes) => {
          if (answer.$metadata.httpStatusCode !== 206) {
            const reason = `${this.name}/${key}: the storage does not read ranges of objects`;
            throw new QemuFileError('ENOTSUP', reason, { operation: 'getRange' });
          }
          // The service cuts a range at the end of the object.
          if (bytes !== length) throw beyond();
        });
      } catch (error) {
        throw statusOf(error) === 416 ? beyond() : error;
      }
    });
  }

  stat(key: string, options: StorageOptions = {}): Promise<StoredObject | null> {
    return this.#request(key, 'stat', options, async () => {
      const command = new this.#sdk.HeadObjectCommand(this.#object(key));
      try {
        const answer = await this.#client.send(command, abortedBy(options.signal));
        const { ContentLength: bytes = 0, LastModified } = answer;
        return { key, bytes, modifiedMs: LastModified?.getTime() ?? 0 };
      } catch (error) {
        if (statusOf(error) === 404) return null;
        throw error;
      }
    });
  }

  async *list(prefix: string, options: StorageOptions = {}): AsyncGenerator<StoredObject> {
    checkPrefix(prefix, 'list');
    let token: string | undefined;
    do {
      const page = await this.#request('', 'list', options, () => {
        const command = new this.#sdk.ListObjectsV2Command({
          Bucket: this.#bucket,
          Prefix: this.#prefix + prefix,
          // A name in the bucket may have characters that XML has not.
          EncodingType: 'url',
          ...(token !== undefined && { ContinuationToken: token }),
        });
        return this.#client.send(command, abortedBy(options.signal));
      });
      for (const { Key, Size, LastModified } of page.Contents ?? []) {
        // Characters of keys are never encoded, so an encoded key is not one of ours.
        const key = (Key ?? '').slice(this.#prefix.length);
        if (Key?.startsWith(this.#prefix) !== true || !isObjectKey(key)) continue;
        yield { key, bytes: Size ?? 0, modifiedMs: LastModified?.getTime() ?? 0 };
      }
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
  }

  async remove(key: string, options: StorageOptions = {}): Promise<void> {
    await this.#request(key, 'remove', options, async () => {
      const command = new this.#sdk.DeleteObjectCommand(this.#object(key));
      try {
        await this.#client.send(command, abortedBy(options.signal));
      } catch (error) {
        if ((error as Error).name !== 'NoSuchKey') throw error;
      }
    });
  }

  removeLeftovers(olderThanMs: number, options: LeftoverOptions = {}): Promise<number> {
    return abortOldUploads(
      {
        sdk: this.#sdk,
        client: this.#client,
        bucket: this.#bucket,
        run: (operation) => this.#request('', 'removeLeftovers', options, operation),
        signal: options.signal,
      },
      this.#prefix,
      (options.nowMs ?? Date.now()) - olderThanMs,
    );
  }

  close(): Promise<void> {
    this.#client.destroy();
    return Promise.resolve();
  }

  async #putWhole(
    key: string,
    parts: readonly Uint8Array[],
    isConditional: boolean,
    options: StorageOptions,
  ): Promise<void> {
    // A body of one piece is signed with its digest, and can be sent again.
    const body = parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts);
    await this.#request(key, 'put', options, (number) => {
      const command = new this.#sdk.PutObjectCommand({
        ...this.#object(key),
        Body: body,
        ContentLength: body.length,
        ...(isConditional && { IfNoneMatch: '*' }),
      });
      return this.#conditional.attempt(number, () =>
        this.#client.send(command, abortedBy(options.signal)),
      );
    });
  }

  #putMultipart(
    key: string,
    parts: readonly Uint8Array[],
    isConditional: boolean,
    options: StorageOptions,
  ): Promise<void> {
    return putMultipart(
      {
        sdk: this.#sdk,
        client: this.#client,
        bucket: this.#bucket,
        run: (operation) => this.#request(key, 'put', options, operation),
        signal: options.signal,
      },
      this.#prefix + key,
      parts,
      isConditional,
      this.#conditional,
    );
  }

  #object(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: this.#prefix + key };
  }

  /** @param key - Empty for an operation on the bucket. */
  async #request<T>(
    key: string,
    operation: string,
    { signal }: StorageOptions,
    attempt: (number: number) => Promise<T>,
  ): Promise<T> {
    if (key !== '' || !['list', 'removeLeftovers'].includes(operation)) checkKey(key, operation);
    try {
      return await retry(attempt, { signal, operation, maxAttempts: this.#maxAttempts });
    } catch (error) {
      throw s3Error(error, operation, key === '' ? this.name : `${this.name}/${key}`);
    }
  }

  #missing(key: string, operation: string): QemuFileError {
    const reason = `${this.name}/${key}: there is no such object`;
    return new QemuFileError('ENOENT', reason, { operation, advice: 'check the name' });
  }
}

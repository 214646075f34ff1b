import { isIP } from 'node:net';
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { noop } from '../../../lib/util/noop.ts';
import type { S3Target } from './s3-target.ts';

/** The package, which is loaded only when it is used. */
export type S3Sdk = typeof import('@aws-sdk/client-s3');

/** Name of the package. */
export const SDK_PACKAGE = '@aws-sdk/client-s3';

/** Region of storage at an endpoint of its own, which mostly ignores it. */
const DEFAULT_REGION = 'us-east-1';

/** Longest time that a connection may take, in milliseconds. */
const CONNECTION_TIMEOUT_MS = 10_000;
/** Connections that are open at the same time, as S3's users are advised; more requests wait. */
const MAX_CONNECTIONS = 64;

/** Variable that keeps the SDK from warning about the version of Node. */
const NO_NODE_WARNING = 'AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED';

const QUIET = { trace: noop, debug: noop, info: noop, warn: noop, error: noop };

/**
 * Load the SDK.
 *
 * @param load - Replaces the import in tests.
 * @throws {QemuFileError} (rejects) `ENOTSUP` if it is not installed.
 */
export async function loadSdk(
  load: () => Promise<S3Sdk> = () => import('@aws-sdk/client-s3'),
): Promise<S3Sdk> {
  try {
    return await load();
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    const reason = `s3: URLs need the package ${SDK_PACKAGE}, which is not installed; install it beside qemu-file: npm install ${SDK_PACKAGE}`;
    throw new QemuFileError('ENOTSUP', reason, { operation: 'openStorage', cause: error });
  }
}

/**
 * Make a client.
 *
 * @param timeoutMs - Longest time without a byte in either direction, in milliseconds.
 * @throws {QemuFileError} (rejects) `EINVAL` if there is neither a region nor an endpoint.
 */
export async function makeClient(
  sdk: S3Sdk,
  target: S3Target,
  timeoutMs: number,
): Promise<S3Client> {
  const { endpoint, region, credentials } = target;
  const config: S3ClientConfig = {
    ...(endpoint !== undefined && { endpoint }),
    ...(region !== undefined && { region }),
    ...(credentials !== undefined && { credentials: credentials }),
    ...(target.pathStyle !== undefined && { forcePathStyle: target.pathStyle }),
    // The SDK's own retries wait without regard to the signal, and do not cover the body of an answer.
    maxAttempts: 1,
    // Bodies are signed with their SHA-256, which the server verifies; many servers refuse the SDK's trailers.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    logger: QUIET,
    requestHandler: {
      connectionTimeout: Math.min(CONNECTION_TIMEOUT_MS, timeoutMs),
      socketTimeout: timeoutMs,
      httpAgent: { maxSockets: MAX_CONNECTIONS },
      httpsAgent: { maxSockets: MAX_CONNECTIONS },
      logger: QUIET,
    },
  };
  let client = construct(sdk, config);
  try {
    await client.config.region();
  } catch (error) {
    const { AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL } = process.env;
    if ((endpoint ?? AWS_ENDPOINT_URL_S3 ?? AWS_ENDPOINT_URL) === undefined) {
      const reason =
        'the region of the bucket is not known; set AWS_REGION, or add ?region=… to the URL';
      throw new QemuFileError('EINVAL', reason, { operation: 'openStorage', cause: error });
    }
    client.destroy();
    client = construct(sdk, { ...config, region: DEFAULT_REGION });
  }
  if (target.pathStyle === undefined) preferPathStyle(client);
  return client;
}

/** The SDK warns when it makes its first client; standard error belongs to the command. */
function construct(sdk: S3Sdk, config: S3ClientConfig): S3Client {
  const before = process.env[NO_NODE_WARNING];
  process.env[NO_NODE_WARNING] = 'true';
  try {
    return new sdk.S3Client(config);
  } finally {
    if (before === undefined) delete process.env[NO_NODE_WARNING];
    else process.env[NO_NODE_WARNING] = before;
  }
}

/** `bucket.127.0.0.1` is not a host. The endpoint may also come from the environment or from a file of the SDK. */
function preferPathStyle(client: S3Client): void {
  const resolve = client.config.endpointProvider;
  client.config.endpointProvider = (parameters, context) =>
    resolve(
      isWithoutSubdomains(parameters.Endpoint)
        ? { ...parameters, ForcePathStyle: true }
        : parameters,
      context,
    );
}

/** Return the options of a request that a signal ends. */
export function abortedBy(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal };
}

/** Return whether the host of an endpoint is an IP address or this machine. */
export function isWithoutSubdomains(endpoint: string | undefined): boolean {
  if (endpoint === undefined || !URL.canParse(endpoint)) return false;
  const host = new URL(endpoint).hostname.replace(/^\[(.*)\]$/, '$1');
  return isIP(host) !== 0 || host === 'localhost' || host.endsWith('.localhost');
}

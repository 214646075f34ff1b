import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { CreateBucketCommandOutput, S3Client } from '@aws-sdk/client-s3';
import type { S3Credentials } from '../../../adapters/storage/s3/s3-target.ts';
import { loadSdk, makeClient } from '../../../adapters/storage/s3/sdk.ts';
import { makeTempDir, onProcessEnd } from '../cleanup.ts';
import { within } from '../until.ts';

const SERVER = fileURLToPath(
  new URL('test/helpers/storage/s3-server', import.meta.resolve('qemu-file/package.json')),
);
const START_DEADLINE_MS = 60_000;

/** Why tests against an S3 server are skipped here; false where they run. In CI a missing server fails them. */
export const withoutS3: string | false =
  process.env.CI === 'true' || isInstalled() ? false : 'python3-swift is not installed';

function isInstalled(): boolean {
  const { status } = spawnSync('dpkg-query', ['-W', 'python3-swift'], { stdio: 'ignore' });
  return status === 0;
}

/** A running S3 server on this machine. */
export interface S3Server extends AsyncDisposable {
  readonly endpoint: string;
  readonly port: number;
  readonly region: string;
  /** Keys of the owner of all buckets. */
  readonly credentials: S3Credentials;
  /** Keys of a user who may do nothing. */
  readonly guest: S3Credentials;
  /** Directory of the server's data. */
  readonly dir: string;
  /** Make a bucket with a fresh name. */
  makeBucket(): Promise<string>;
  /** A client of the SDK, to prepare and to inspect buckets. */
  readonly client: S3Client;
}

/**
 * Start an S3 server: OpenStack Swift. A test file starts at most one of each kind.
 *
 * @param isModern - Whether the server has conditional PUTs (`If-None-Match: *`), as S3 itself has.
 */
export async function startS3Server(isModern = false): Promise<S3Server> {
  const directory = makeTempDir();
  const args = ['--no-install', '--watch-stdin', ...(isModern ? ['--modern'] : [])];
  const child = spawn(SERVER, [...args, directory.join('s3')], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const withdraw = onProcessEnd(() => child.kill('SIGTERM'));
  const closed = once(child, 'close');
  const [line] = await within(
    Promise.race([
      once(createInterface(child.stdout), 'line') as Promise<[string]>,
      closed.then(() => assert.fail(`the S3 server did not start: ${stderr}`)),
    ]),
    { what: 'the S3 server to start', deadlineMs: START_DEADLINE_MS },
  );
  const said = JSON.parse(line) as {
    endpoint: string;
    region: string;
    accessKeyId: string;
    secretAccessKey: string;
    guest: S3Credentials;
    dir: string;
  };
  const { endpoint, region, accessKeyId, secretAccessKey, guest, dir } = said;
  const credentials = { accessKeyId, secretAccessKey };
  const sdk = await loadSdk();
  const client = await makeClient(sdk, { endpoint, region, credentials }, START_DEADLINE_MS);
  let buckets = 0;
  return {
    endpoint,
    port: Number(new URL(endpoint).port),
    region,
    credentials,
    guest,
    dir,
    client,
    makeBucket: async () => {
      buckets += 1;
      const Bucket = `bucket-${buckets}`;
      const made: CreateBucketCommandOutput = await client.send(
        new sdk.CreateBucketCommand({ Bucket }),
      );
      assert.equal(made.$metadata.httpStatusCode, 200);
      return Bucket;
    },
    [Symbol.asyncDispose]: async () => {
      client.destroy();
      child.kill('SIGTERM');
      await closed;
      withdraw();
      directory.remove();
    },
  };
}

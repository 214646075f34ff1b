// Where the settings of a client come from, and what the package of the SDK may not do.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { s3Storage } from '../../../../adapters/storage/s3/s3-storage.ts';
import { isWithoutSubdomains, loadSdk } from '../../../../adapters/storage/s3/sdk.ts';
import { makeTempDir } from '../../../helpers/cleanup.ts';
import { keysOf } from '../conformance.ts';

const LIMITS = { timeout: 300_000 };
const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
const KEYS = { accessKeyId: 'key', secretAccessKey: 'secret' };

interface FakeServer extends AsyncDisposable {
  readonly endpoint: string;
  readonly requests: { method: string; url: string; headers: IncomingMessage['headers'] }[];
}

/** Start a server whose answers are ours. */
async function startFake(
  answer: (request: IncomingMessage, response: ServerResponse, body: Buffer) => void,
): Promise<FakeServer> {
  const requests: FakeServer['requests'] = [];
  const server = createServer((request, response) => {
    const { method = '', url = '', headers } = request;
    requests.push({ method, url, headers });
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => answer(request, response, Buffer.concat(chunks)));
  });
  server.listen(0);
  await once(server, 'listening');
  return {
    endpoint: `http://localhost:${(server.address() as AddressInfo).port}`,
    requests,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Run a program that opens storage by the environment alone, and return what it prints. */
async function runProgram(
  url: string,
  env: NodeJS.ProcessEnv,
): Promise<{ stdout: string; stderr: string }> {
  const program = `
    import { openStorage } from './adapters/storage/open-storage.ts';
    try {
      const storage = await openStorage(${JSON.stringify(url)});
      console.log(storage.name, await storage.stat('a'));
      await storage.close();
    } catch (error) {
      console.log(error.message);
    }`;
  const args = ['--import', 'tsx', '--input-type=module', '--eval', program];
  const home = { HOME: '/nonexistent', AWS_EC2_METADATA_DISABLED: 'true' };
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    env: { PATH: process.env.PATH, ...home, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  await once(child, 'close');
  return { stdout, stderr };
}

const notFound = (_: IncomingMessage, response: ServerResponse): void => {
  response.writeHead(404).end();
};

test(
  'credentials, region and endpoint come from the environment; stderr stays empty',
  LIMITS,
  async () => {
    await using fake = await startFake(notFound);
    const { stdout, stderr } = await runProgram('s3://bucket/pre', {
      AWS_ACCESS_KEY_ID: 'key',
      AWS_SECRET_ACCESS_KEY: 'secret',
      AWS_REGION: 'eu-west-3',
      AWS_ENDPOINT_URL_S3: fake.endpoint,
    });
    assert.equal(stdout, 's3://bucket/pre null\n');
    assert.equal(stderr, '', 'the SDK does not warn about this Node');
    const [request] = fake.requests;
    assert.equal(request?.method, 'HEAD');
    assert.equal(request?.url, '/bucket/pre/a', 'localhost has no subdomains');
    assert.match(String(request?.headers.authorization), /Credential=key\/\d{8}\/eu-west-3\/s3\//);
  },
);

test('credentials, region and endpoint come from the files of the SDK', LIMITS, async () => {
  await using fake = await startFake(notFound);
  await using directory = makeTempDir();
  writeFileSync(
    directory.join('config'),
    `[profile lab]\nregion = lab-1\nendpoint_url = ${fake.endpoint.replace('localhost', '127.0.0.1')}\n`,
  );
  writeFileSync(
    directory.join('credentials'),
    '[lab]\naws_access_key_id = filekey\naws_secret_access_key = s\n',
  );
  const { stdout } = await runProgram('s3://bucket', {
    AWS_PROFILE: 'lab',
    AWS_CONFIG_FILE: directory.join('config'),
    AWS_SHARED_CREDENTIALS_FILE: directory.join('credentials'),
  });
  assert.equal(stdout, 's3://bucket null\n');
  const [request] = fake.requests;
  assert.equal(request?.url, '/bucket/a', 'an IP address has no subdomains');
  assert.match(String(request?.headers.authorization), /Credential=filekey\/\d{8}\/lab-1\/s3\//);
});

test(
  'the URL comes before the environment; a region is not needed with an endpoint',
  LIMITS,
  async () => {
    await using fake = await startFake(notFound);
    const keys = { AWS_ACCESS_KEY_ID: 'key', AWS_SECRET_ACCESS_KEY: 'secret' };
    const env = { ...keys, AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:1' };
    await runProgram(`s3://bucket?endpoint=${fake.endpoint}&region=from-url`, env);
    await runProgram(`s3://bucket?endpoint=${fake.endpoint}`, keys);
    const regions = fake.requests.map(
      ({ headers }) => /\d{8}\/([^/]+)\/s3/.exec(String(headers.authorization))?.[1],
    );
    assert.deepEqual(regions, ['from-url', 'us-east-1']);
  },
);

test(
  'missing credentials and a missing region are errors that say what to set',
  LIMITS,
  async () => {
    const noKeys = await runProgram('s3://bucket?endpoint=http://127.0.0.1:1', {});
    assert.match(
      noKeys.stdout,
      /^EACCES: stat: s3:\/\/bucket\/a: there are no credentials; set them/,
    );
    const noRegion = await runProgram('s3://bucket', {});
    assert.match(noRegion.stdout, /^EINVAL: .*region of the bucket is not known; set AWS_REGION/);
  },
);

test('a missing package is an error that says what to install', async () => {
  const missing = Object.assign(new Error("Cannot find package '@aws-sdk/client-s3'"), {
    code: 'ERR_MODULE_NOT_FOUND',
  });
  await assert.rejects(
    loadSdk(() => Promise.reject(missing)),
    { name: 'QemuFileError', code: 'ENOTSUP', reason: /npm install @aws-sdk\/client-s3/ },
  );
});

test('IP addresses and localhost have no subdomains', () => {
  for (const endpoint of [
    ...['http://127.0.0.1:9000', 'https://[::1]:9000', 'http://localhost', 'http://s3.localhost/x'],
  ]) {
    assert.equal(isWithoutSubdomains(endpoint), true, endpoint);
  }
  for (const endpoint of ['https://s3.example.com', 'nonsense', undefined]) {
    assert.equal(isWithoutSubdomains(endpoint), false, endpoint);
  }
});

test('a write is signed with the digest of its content', LIMITS, async () => {
  await using fake = await startFake((_, response) => void response.writeHead(200).end());
  const storage = await s3Storage({ bucket: 'b', endpoint: fake.endpoint, credentials: KEYS });
  await storage.put('a', [Buffer.from('hel'), Buffer.from('lo')]);
  assert.equal(
    fake.requests[0]?.headers['x-amz-content-sha256'],
    // printf hello | sha256sum
    '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824',
  );
  assert.equal(fake.requests[0]?.headers['x-amz-trailer'], undefined);
  await storage.close();
});

test(
  'a service that ignores the condition of a write is found out, and then asked first',
  LIMITS,
  async () => {
    const objects = new Map<string, Buffer>();
    await using fake = await startFake(({ method, url = '' }, response, body) => {
      const key = url.split('?')[0] as string;
      if (method === 'PUT') objects.set(key, body);
      const found = objects.get(key);
      if (found === undefined) return void response.writeHead(404).end();
      const content = method === 'PUT' ? '' : found;
      response.writeHead(200, { 'Content-Length': content.length }).end(content);
    });
    const storage = await s3Storage({ bucket: 'b', endpoint: fake.endpoint, credentials: KEYS });
    assert.equal(storage.canPutIfAbsent, null);
    await storage.put('a', [Buffer.from('first')], { ifAbsent: true });
    assert.equal(storage.canPutIfAbsent, false);
    await assert.rejects(storage.put('a', [Buffer.from('second')], { ifAbsent: true }), {
      code: 'EEXIST',
    });
    assert.equal(String(await storage.get('a', 10)), 'first');
    await storage.close();
  },
);

test('a service that ignores ranges is an error, not a wrong range', LIMITS, async () => {
  await using fake = await startFake((_, response) => {
    response.writeHead(200, { 'Content-Length': 4 }).end('wxyz');
  });
  const storage = await s3Storage({ bucket: 'b', endpoint: fake.endpoint, credentials: KEYS });
  await assert.rejects(storage.getRange('a', 2, 2), { code: 'ENOTSUP' });
  await storage.close();
});

test(
  'a list of many pages is read whole; names that are no keys are left out',
  LIMITS,
  async () => {
    const page = (keys: readonly string[], next: string): string =>
      `<?xml version="1.0"?><ListBucketResult><IsTruncated>${next !== ''}</IsTruncated>` +
      keys.map((key) => `<Contents><Key>${key}</Key><Size>3</Size></Contents>`).join('') +
      `${next === '' ? '' : `<NextContinuationToken>${next}</NextContinuationToken>`}</ListBucketResult>`;
    const foreign = ['p/with%20space', 'p/../x', 'p/.hidden', 'p/', 'other/x', 'p//y', 'p/%2e%2e'];
    await using fake = await startFake(({ url = '' }, response) => {
      const token = new URL(url, 'http://x').searchParams.get('continuation-token');
      if (token === null) response.end(page(['p/a', ...foreign], 'two'));
      else response.end(token === 'two' ? page(['p/b/c'], 'three') : page(['p/d'], ''));
    });
    const storage = await s3Storage({
      bucket: 'b',
      prefix: 'p',
      endpoint: fake.endpoint,
      credentials: KEYS,
    });
    assert.deepEqual(await keysOf(storage, ''), ['a', 'b/c', 'd']);
    assert.equal(fake.requests.length, 3);
    await storage.close();
  },
);

test('an answer of another length than it states is an error', LIMITS, async () => {
  await using fake = await startFake((_, response) => {
    response.writeHead(200, { 'Content-Length': 100 });
    response.write('short');
    response.destroy();
  });
  const options = { bucket: 'b', endpoint: fake.endpoint, credentials: KEYS, maxAttempts: 2 };
  const storage = await s3Storage(options);
  await assert.rejects(storage.get('a', 1000), { code: 'ECONNRESET' });
  assert.equal(fake.requests.length, 2);
  await storage.close();
});

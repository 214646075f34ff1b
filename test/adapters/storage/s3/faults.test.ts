// What becomes of requests to S3 whose answers are errors, late, broken or lost.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import type { ObjectStorage } from '../../../../adapters/storage/object-storage.ts';
import { type S3StorageOptions, s3Storage } from '../../../../adapters/storage/s3/s3-storage.ts';
import { withoutLeaks } from '../../../helpers/leaks.ts';
import { type S3Server, startS3Server, withoutS3 } from '../../../helpers/storage/s3.ts';
import { startTcpProxy, type TcpProxy } from '../../../helpers/transports/tcp-proxy.ts';
import { until, within } from '../../../helpers/until.ts';
import { keysOf } from '../conformance.ts';

const MIB = 1 << 20;
const LIMITS = { timeout: 300_000 };

/** An answer of S3 with an error. */
function errorAnswer(status: string, code: string): { do: 'answer'; text: string } {
  const body = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>test</Message></Error>`;
  const head = `HTTP/1.1 ${status}\r\nContent-Type: application/xml\r\nContent-Length: ${body.length}`;
  return { do: 'answer', text: `${head}\r\nConnection: close\r\n\r\n${body}` };
}

const BUSY = errorAnswer('503 Slow Down', 'SlowDown');

describe('S3 with faults', { skip: withoutS3 }, () => {
  let server: S3Server;
  let proxy: TcpProxy;
  let bucket: string;

  before(async () => {
    server = await startS3Server(true);
    proxy = await startTcpProxy(server.port);
    bucket = await server.makeBucket();
  });
  after(async () => {
    await proxy[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  });

  /** Storage with connections of its own, through the proxy, under a prefix of its own. */
  async function open(options: Partial<S3StorageOptions> = {}): Promise<ObjectStorage> {
    const { region, credentials } = server;
    const endpoint = `http://127.0.0.1:${proxy.port}`;
    return s3Storage({
      bucket,
      prefix: `p${++prefixes}`,
      endpoint,
      region,
      credentials,
      ...options,
    });
  }
  let prefixes = 0;

  const check = (
    behaviour: string,
    body: (storage: ObjectStorage) => Promise<void>,
    options: Partial<S3StorageOptions> = {},
  ): void => {
    test(behaviour, LIMITS, async () => {
      const storage = await open(options);
      try {
        await body(storage);
      } finally {
        proxy.faults.length = 0;
        proxy.delayMs = 0;
        await storage.close();
      }
    });
  };

  check('a busy storage is asked again', async (storage) => {
    proxy.faults.push(BUSY, BUSY, errorAnswer('500 Internal Server Error', 'InternalError'));
    await storage.put('a', [Buffer.from('content')]);
    proxy.faults.push(BUSY);
    assert.equal((await storage.get('a', 10)).toString(), 'content');
  });

  check(
    'a storage that stays busy is an error, after as many attempts as wanted',
    async (storage) => {
      proxy.faults.push(...Array.from({ length: 9 }, () => BUSY));
      await assert.rejects(storage.put('a', [Buffer.from('content')]), {
        name: 'QemuFileError',
        code: 'EIO',
        reason:
          /s3:\/\/bucket-\d+\/p\d+\/a: the storage is busy or broken \(status 503, SlowDown\)/,
      });
      assert.equal(proxy.faults.length, 6);
    },
    { maxAttempts: 3 },
  );

  check(
    'a broken disk of the storage is an error, and the storage can be used when it is whole again',
    async (storage) => {
      await storage.put('a', [Buffer.from('content')]);
      const objects = join(server.dir, 'data/d1/objects');
      renameSync(objects, `${objects}.away`);
      writeFileSync(objects, '');
      try {
        await assert.rejects(storage.get('a', 10), { code: 'EIO', reason: /status 503/ });
        await assert.rejects(storage.put('b', [Buffer.from('x')]), { code: 'EIO' });
      } finally {
        rmSync(objects);
        renameSync(`${objects}.away`, objects);
      }
      assert.equal((await storage.get('a', 10)).toString(), 'content');
    },
    { maxAttempts: 2 },
  );

  check('a reset connection is made again', async (storage) => {
    proxy.faults.push({ do: 'reset' }, { do: 'reset' });
    await storage.put('a', [Buffer.from('content')]);
    assert.equal((await storage.stat('a'))?.bytes, 7);
  });

  check('an object whose answer breaks off is read again, whole', async (storage) => {
    const content = Buffer.alloc(MIB, 'content ');
    await storage.put('a', [content]);
    // The proxy breaks new connections only.
    const second = await open({ prefix: `p${prefixes}` });
    proxy.faults.push({ do: 'cut', answerBytes: MIB / 2 }, { do: 'cut', answerBytes: 100 });
    assert.ok(content.equals(await second.get('a', MIB)));
    await second.close();
  });

  check(
    'an answer that stops for longer than the time limit is an error',
    async (storage) => {
      proxy.faults.push({ do: 'stall', answerBytes: 0 }, { do: 'stall', answerBytes: 0 });
      await assert.rejects(storage.get('a', 10), {
        code: 'ETIMEDOUT',
        reason: /a: the storage does not answer/,
      });
      const prefix = `p${prefixes}`;
      const writer = await open({ prefix });
      await writer.put('a', [Buffer.alloc(MIB)]);
      await writer.close();
      proxy.faults.push({ do: 'stall', answerBytes: 5000 });
      // With attempts to spare: a busy machine may be slow as well.
      const patient = await open({ prefix, maxAttempts: 10, timeoutMs: 1500 });
      assert.equal((await patient.get('a', MIB)).length, MIB, 'once is not an error');
      await patient.close();
    },
    { maxAttempts: 2, timeoutMs: 1500 },
  );

  check('an aborted request ends at once, and nothing stays open', async (storage) => {
    await storage.put('warm', [Buffer.from('up')]);
    await storage.close();
    await withoutLeaks(async () => {
      const second = await open();
      proxy.faults.push({ do: 'stall', answerBytes: 0 });
      const abort = new AbortController();
      const before = proxy.accepted;
      const reading = second.get('a', 10, { signal: abort.signal });
      await until(() => proxy.accepted > before, { what: 'the connection' });
      abort.abort();
      await assert.rejects(reading, { code: 'ECANCELED' });
      await second.close();
    });
  });

  check(
    'an abort ends the wait between attempts',
    async (storage) => {
      proxy.faults.push(...Array.from({ length: 50 }, () => BUSY));
      const abort = new AbortController();
      const reading = storage.get('a', 10, { signal: abort.signal });
      await until(() => proxy.faults.length < 48, { what: 'the second attempt' });
      abort.abort();
      await assert.rejects(within(reading, { what: 'the end' }), { code: 'ECANCELED' });
    },
    { maxAttempts: 50 },
  );

  check('a conditional write whose answer was lost is no conflict with itself', async (storage) => {
    proxy.faults.push({ do: 'cut', answerBytes: 0 }, { do: 'cut', answerBytes: 1 });
    await storage.put('a', [Buffer.from('ours')], { ifAbsent: true });
    assert.equal((await storage.get('a', 4)).toString(), 'ours');
    await assert.rejects(storage.put('a', [Buffer.from('else')], { ifAbsent: true }), {
      code: 'EEXIST',
    });
  });

  check('slow answers of 20 ms each way change nothing', async (storage) => {
    proxy.delayMs = 20;
    await storage.put('a', [Buffer.alloc(3 * MIB, 1), Buffer.alloc(5, 2)]);
    assert.deepEqual([...(await storage.getRange('a', 3 * MIB - 1, 3))], [1, 2, 2]);
  });

  check('an object of 40 MiB is uploaded in parts', async (storage) => {
    const parts = [3, 13, 1, 23].map((count, index) => Buffer.alloc(count * MIB + 7, index + 1));
    await storage.put('big', parts, { ifAbsent: true });
    assert.equal((await storage.stat('big'))?.bytes, 40 * MIB + 28);
    assert.deepEqual([...(await storage.getRange('big', 16 * MIB + 13, 3))], [2, 3, 3]);
    await assert.rejects(storage.put('big', parts, { ifAbsent: true }), { code: 'EEXIST' });
    await storage.put('big', parts);
    assert.deepEqual(await uploads(), []);
    assert.equal(await storage.removeLeftovers(0), 0);
  });

  check('an upload in parts that fails is aborted', async (storage) => {
    const parts = [Buffer.alloc(36 * MIB)];
    const abort = new AbortController();
    const writing = storage.put('big', parts, { signal: abort.signal });
    await until(async () => (await uploads()).length > 0, { what: 'the upload' });
    abort.abort();
    await assert.rejects(writing, { code: 'ECANCELED' });
    await until(async () => (await uploads()).length === 0, { what: 'the end of the upload' });
    assert.equal(await storage.stat('big'), null);
  });

  check(
    'uploads that killed writers left are aborted, those under other prefixes not',
    async (storage) => {
      const { CreateMultipartUploadCommand } = await import('@aws-sdk/client-s3');
      for (const Key of [`p${prefixes}/x`, `p${prefixes}/y/z`, 'other/x']) {
        await server.client.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key }));
      }
      assert.equal(await storage.removeLeftovers(3_600_000), 0, 'they are too young');
      const yesterday = Date.now() - 86_400_000;
      assert.equal(await storage.removeLeftovers(0, { nowMs: yesterday }), 0, 'by the given time');
      // S3 states whole seconds, so that a new upload can seem to lie in the future.
      await until(async () => (await storage.removeLeftovers(-2000)) > 0, { what: 'the end' });
      assert.deepEqual(await uploads(), ['other/x']);
      const others = await open({ prefix: 'other' });
      assert.equal(await others.removeLeftovers(-2000), 1);
      await others.close();
    },
  );

  test('wrong credentials are an error that says what to check', LIMITS, async () => {
    const { accessKeyId } = server.credentials;
    for (const [credentials, reason] of [
      [{ accessKeyId, secretAccessKey: 'wrong' }, /secret key or the access key is wrong/],
      [{ accessKeyId: 'who', secretAccessKey: 'wrong' }, /secret key or the access key is wrong/],
      [server.guest, /the storage denies access/],
    ] as const) {
      const storage = await open({ credentials });
      await assert.rejects(storage.get('a', 10), { code: 'EACCES', reason });
      await assert.rejects(storage.put('a', []), { code: 'EACCES', reason });
      await assert.rejects(keysOf(storage, ''), { code: 'EACCES', reason });
      await assert.rejects(storage.stat('a'), { code: 'EACCES', message: /clock/ });
      await storage.close();
    }
  });

  test('a missing bucket is an error that names it', LIMITS, async () => {
    const storage = await open({ bucket: 'nowhere', prefix: '' });
    const missing = { code: 'ENOENT', reason: /^s3:\/\/nowhere\S*: there is no such bucket$/ };
    await assert.rejects(storage.get('a', 10), missing);
    await assert.rejects(storage.getRange('a', 0, 1), missing);
    await assert.rejects(storage.put('a', []), missing);
    await assert.rejects(storage.put('a', [], { ifAbsent: true }), missing);
    await assert.rejects(keysOf(storage, ''), missing);
    await assert.rejects(storage.remove('a'), missing);
    await assert.rejects(storage.removeLeftovers(0), missing);
    assert.equal(await storage.stat('a'), null);
    await storage.close();
  });

  test('a wrong region is an error that says the right one', LIMITS, async () => {
    const storage = await open({ region: 'eu-central-1' });
    await assert.rejects(storage.get('a', 10), {
      code: 'EINVAL',
      reason: /the bucket is in the region us-east-1/,
      message: /\?region=/,
    });
    await storage.close();
  });

  test('a wrong clock is corrected by that of the storage', LIMITS, async (t) => {
    const storage = await open();
    t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 2 * 3_600_000 });
    await storage.put('a', [Buffer.from('content')]);
    assert.equal((await storage.get('a', 7)).toString(), 'content');
    await storage.close();
  });

  check(
    'a clock that the storage refuses again and again is an error',
    async (storage) => {
      const skewed = errorAnswer('403 Forbidden', 'RequestTimeTooSkewed');
      proxy.faults.push(skewed, skewed);
      await assert.rejects(storage.get('a', 10), {
        code: 'EACCES',
        reason: /this machine's clock differs too much/,
      });
    },
    { maxAttempts: 2 },
  );

  test('an endpoint where nothing listens is an error', LIMITS, async () => {
    const listener = createServer().listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const { port } = listener.address() as AddressInfo;
    listener.close();
    await once(listener, 'close');
    const storage = await open({ endpoint: `http://127.0.0.1:${port}`, maxAttempts: 2 });
    await assert.rejects(storage.get('a', 10), {
      code: 'ECONNREFUSED',
      reason: /the endpoint refuses connections/,
    });
    await storage.close();
  });

  async function uploads(): Promise<string[]> {
    const command = new ListMultipartUploadsCommand({ Bucket: bucket });
    const { Uploads = [] } = await server.client.send(command);
    return Uploads.map(({ Key }) => String(Key));
  }
});

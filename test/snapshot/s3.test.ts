// The snapshot store in a bucket of S3: the same as in a directory, also when writers are killed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openStore, type SnapshotStore } from '../../lib/snapshot/index.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { MadeGuest, memoryDigest, PAGE } from '../helpers/guests/made-guest.ts';
import { type S3Server, startS3Server, withoutS3 } from '../helpers/storage/s3.ts';
import { guestToWrite } from '../helpers/storage/writer-to-kill.ts';

const WRITER = fileURLToPath(new URL('../helpers/storage/writer-to-kill.ts', import.meta.url));
const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const LIMITS = { timeout: 300_000 };
const MIB = 1 << 20;

for (const isModern of [false, true]) {
  const kind = isModern ? 'with conditional PUT' : 'without conditional PUT';
  describe(`a store in S3 ${kind}`, { skip: withoutS3 }, () => {
    let server: S3Server;
    before(async () => {
      server = await startS3Server(isModern);
      process.env.AWS_ACCESS_KEY_ID = server.credentials.accessKeyId;
      process.env.AWS_SECRET_ACCESS_KEY = server.credentials.secretAccessKey;
    });
    after(async () => {
      delete process.env.AWS_ACCESS_KEY_ID;
      delete process.env.AWS_SECRET_ACCESS_KEY;
      await server[Symbol.asyncDispose]();
    });

    async function newUrl(): Promise<string> {
      return `s3://${await server.makeBucket()}/vm/store?endpoint=${server.endpoint}`;
    }

    test('a guest and its child are written and read, and share their pages', LIMITS, async () => {
      const store = await openStore(await newUrl());
      const golden = guestToWrite();
      const child = golden.clone('another state').fill(20, 30, 'changed');
      const base = await store.writer('base').writeGuest(golden);
      const info = await store.writer('child', { parent: 'base' }).writeGuest(child);
      assert.ok(base.ownBytes > 20 * MIB && info.ownBytes < 33 * PAGE * 1.1 + 20_000);
      assert.equal(await digestOf(store, 'base'), await memoryDigest(golden));
      assert.equal(await digestOf(store, 'child'), await memoryDigest(child));
      await store.remove('base');
      assert.equal(await digestOf(store, 'child'), await memoryDigest(child));
      assert.deepEqual(
        (await store.list()).map(({ name }) => name),
        ['child'],
      );
      await store.close();
    });

    test('of two writers of one name one wins, and the other is told', LIMITS, async () => {
      const url = await newUrl();
      const stores = [await openStore(url), await openStore(url)];
      const guests = ['a', 'b'].map((seed) => new MadeGuest(100).fill(0, 50, seed));
      const results = await Promise.allSettled(
        stores.map((store, index) => store.writer('one').writeGuest(guests[index] as MadeGuest)),
      );
      const winner = results.findIndex(({ status }) => status === 'fulfilled');
      const loser = results[1 - winner] as PromiseRejectedResult;
      assert.equal(loser.status, 'rejected');
      assert.equal((loser.reason as { code?: unknown }).code, 'EEXIST');
      const store = stores[0] as SnapshotStore;
      assert.equal(await digestOf(store, 'one'), await memoryDigest(guests[winner] as MadeGuest));
      for (const each of stores) await each.close();
    });

    test(`a writer puts ${isModern ? 'no claim' : 'a claim'} to publish`, LIMITS, async () => {
      const store = await openStore(await newUrl());
      const { storage } = store;
      const put = storage.put.bind(storage);
      const keys: string[] = [];
      storage.put = (key, ...rest) => {
        keys.push(key.replace(/\/.*/, ''));
        return put(key, ...rest);
      };
      await store.writer('one').writeGuest(new MadeGuest(4).fill(0, 1, 'data'));
      assert.equal(keys.includes('claims'), !isModern, keys.join());
      await store.close();
    });

    test('is copied to and from a directory, checked, and freed of garbage', LIMITS, async () => {
      await using directory = makeTempDir();
      const store = await openStore(await newUrl());
      const local = await openStore(`store:${directory.join('store')}`);
      const golden = guestToWrite();
      const child = golden.clone().fill(20, 30, 'changed');
      await store.writer('base').writeGuest(golden);
      await store.writer('child', { parent: 'base' }).writeGuest(child);
      await store.copy('child', local);
      assert.equal(await digestOf(local, 'child'), await memoryDigest(child));
      await assert.rejects(local.copy('child', store), { code: 'EEXIST' });
      await local.copy('child', store, { name: 'back' });
      assert.equal(await digestOf(store, 'back'), await memoryDigest(child));
      for (const each of [store, local]) {
        assert.deepEqual((await each.fsck({ deep: true })).damage, []);
      }
      for (const name of ['base', 'child', 'back']) await store.remove(name);
      const { removed, kept } = await store.gc({ graceMs: 0 });
      assert.ok(removed.length >= 4, 'packs and maps');
      assert.equal(kept, 0);
      assert.deepEqual(await store.list(), []);
      assert.equal((await store.gc({ graceMs: 0 })).removed.length, 0);
      await store.close();
      await local.close();
    });

    test('says whether the bucket or the store in it is missing', LIMITS, async () => {
      const { endpoint } = server;
      const empty = await openStore(await newUrl());
      const nowhere = await openStore(`s3://nowhere?endpoint=${endpoint}`);
      const noStore = { code: 'ENOENT', reason: /is not a snapshot store: it has no object/ };
      const noBucket = { code: 'ENOENT', reason: /s3:\/\/nowhere\S*: there is no such bucket/ };
      await assert.rejects(empty.list(), noStore);
      await assert.rejects(empty.reader('one'), noStore);
      await assert.rejects(nowhere.list(), noBucket);
      await assert.rejects(nowhere.reader('one'), noBucket);
      await assert.rejects(nowhere.writer('one').writeGuest(new MadeGuest(1)), noBucket);
      await empty.close();
      await nowhere.close();
    });

    test('names each snapshot that a damaged object hurts', LIMITS, async () => {
      const store = await openStore(await newUrl());
      const golden = guestToWrite();
      await store.writer('base').writeGuest(golden);
      await store.writer('child', { parent: 'base' }).writeGuest(golden.clone().fill(20, 30, 'x'));
      let pack = '';
      let bytes = 0;
      for await (const object of store.storage.list('packs/')) {
        if (object.bytes > bytes) ({ key: pack, bytes } = object);
      }
      const content = await store.storage.get(pack, 32 * MIB);
      const middle = content.length >> 1;
      content[middle] = (content[middle] as number) ^ 1;
      await store.storage.put(pack, [content]);
      const { damage } = await store.fsck({ deep: true });
      assert.deepEqual(
        damage.map(({ key, snapshots }) => [key, [...snapshots].sort()]),
        [[pack, ['base', 'child']]],
      );
      await store.close();
    });

    if (isModern) return;
    test('a writer that is killed at any object leaves no broken snapshot', LIMITS, async (t) => {
      const url = await newUrl();
      const store = await openStore(url);
      const base = new MadeGuest(6000).fill(0, 2000, 'golden');
      await store.writer('base').writeGuest(base);
      const expected = await memoryDigest(guestToWrite());
      const whens = ['before', 'during', 'after'];
      let killed = 0;
      let whole = 0;
      for (let number = 0; ; number += 1) {
        const name = `s${number}`;
        const when = whens[number % whens.length] as string;
        const wasKilled = await runWriter([url, name, 'base', String(number), when], server);
        const names = (await store.list()).map((info) => info.name);
        if (names.includes(name)) {
          whole += 1;
          assert.equal(await digestOf(store, name), expected, `${name}, killed ${when}`);
        }
        assert.equal(await digestOf(store, 'base'), await memoryDigest(base));
        if (!wasKilled) break;
        killed += 1;
      }
      assert.ok(killed >= 4, 'mark, packs, map and manifest');
      assert.deepEqual((await store.fsck({ deep: true })).damage, []);
      t.diagnostic(`${killed} writers killed, ${whole} snapshots whole`);
      await store.close();
    });
  });
}

async function digestOf(store: SnapshotStore, name: string): Promise<string> {
  const reader = await store.reader(name);
  return memoryDigest(reader);
}

/** Run the writer, and return whether it was killed. */
async function runWriter(args: readonly string[], server: S3Server): Promise<boolean> {
  const child = spawn(process.execPath, ['--import', 'tsx', WRITER, ...args], {
    cwd: ROOT,
    env: {
      PATH: process.env.PATH,
      AWS_ACCESS_KEY_ID: server.credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: server.credentials.secretAccessKey,
    },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  assert.ok(signal === 'SIGKILL' || code === 0, `the writer ended with status ${code}`);
  return signal === 'SIGKILL';
}

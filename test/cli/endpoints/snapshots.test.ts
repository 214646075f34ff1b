// Each command that reads or writes a stream takes a snapshot in a store, in a directory and in a bucket.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openStore, type SnapshotInfo } from '../../../lib/snapshot/index.ts';
import { recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { MadeGuest, memoryDigest } from '../../helpers/guests/made-guest.ts';
import { savedGuestOf } from '../../helpers/guests/saved-guest.ts';
import { type S3Server, startS3Server, withoutS3 } from '../../helpers/storage/s3.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const LIMITS = { timeout: 300_000 };

type Place = 'a directory' | 'a bucket';

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Run the command with the environment of this process, in which the keys of the S3 server are. */
function run(args: readonly string[]): Promise<Ended> {
  return new Promise((resolve) => {
    const all = ['--import', 'tsx', 'lib/cli/main.ts', ...args];
    execFile(process.execPath, all, { cwd: ROOT }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

async function succeed(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(args);
  assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}

describe('a snapshot at the command line', { skip: withoutS3, concurrency: 2 }, () => {
  let server: S3Server;
  let dir: TempDir;
  let file: string;
  let digest: string;
  const stores: Record<Place, string> = { 'a directory': '', 'a bucket': '' };
  before(async () => {
    server = await startS3Server();
    process.env.AWS_ACCESS_KEY_ID = server.credentials.accessKeyId;
    process.env.AWS_SECRET_ACCESS_KEY = server.credentials.secretAccessKey;
    dir = makeTempDir();
    file = dir.join('guest.mig');
    const [main] = recording('pc').files;
    assert.ok(main);
    writeFileSync(file, unpack(main));
    digest = await digestOf(file);
    stores['a directory'] = `store:${dir.join('store')}`;
    stores['a bucket'] = `s3://${await server.makeBucket()}/vm?endpoint=${server.endpoint}`;
    await Promise.all(
      Object.values(stores).map((store) => succeed('relay', file, `${store}#guest`)),
    );
  });
  after(async () => {
    delete process.env.AWS_ACCESS_KEY_ID;
    delete process.env.AWS_SECRET_ACCESS_KEY;
    await server[Symbol.asyncDispose]();
    dir.remove();
  });

  async function digestOf(path: string): Promise<string> {
    return memoryDigest(await savedGuestOf(readFileSync(path)));
  }

  /** Read a snapshot without the command. */
  async function read(place: Place, name: string): Promise<{ info: SnapshotInfo; memory: string }> {
    const store = await openStore(stores[place]);
    const guest = await store.reader(name);
    const memory = await memoryDigest(guest);
    await store.close();
    return { info: guest.info, memory };
  }

  for (const place of ['a directory', 'a bucket'] as const) {
    const from = (): string => `${stores[place]}#guest`;
    const to = (name: string): string => dir.join(`${name}-${place.slice(2)}`);

    for (const verb of ['relay', 'convert', 'compact'] as const) {
      test(`${place} is read and written by ${verb}`, LIMITS, async () => {
        await succeed(verb, from(), to(verb));
        assert.equal(await digestOf(to(verb)), digest);
        await succeed(verb, file, `${stores[place]}#${verb}`, '--parent', 'guest');
        const { info, memory } = await read(place, verb);
        assert.equal(info.parent, 'guest');
        assert.ok(info.ownBytes < info.sharedBytes, 'it shares the pages');
        assert.equal(memory, digest);
      });
    }

    test(`${place} is read by inspect, verify and diff`, LIMITS, async () => {
      const inspected = JSON.parse(await succeed('inspect', from(), '--json')) as {
        ram: { blocks: { name: string }[] };
      };
      assert.ok(inspected.ram.blocks.some(({ name }) => name === 'pc.ram'));
      await succeed('verify', from());
      await succeed('diff', from(), file);
    });

    test(`${place} is read by extract and template`, LIMITS, async () => {
      await succeed('extract', from(), '--raw', to('raw'), '--block', 'pc.ram');
      await succeed('extract', file, '--raw', to('raw-of-file'), '--block', 'pc.ram');
      assert.deepEqual(readFileSync(to('raw')), readFileSync(to('raw-of-file')));
      const made = JSON.parse(
        await succeed('template', from(), to('template'), '--json'),
      ) as object;
      assert.ok(Object.keys(made).length > 0);
    });

    test(`${place} is listed with the fields that are documented, and copied`, LIMITS, async () => {
      const list = JSON.parse(await succeed('store', 'ls', stores[place], '--json')) as object[];
      assert.deepEqual(Object.keys(list[0] ?? {}), [
        'name',
        'parent',
        'machine',
        'ramBytes',
        'ownBytes',
        'sharedBytes',
        'savedAt',
      ]);
      const other = place === 'a bucket' ? 'a directory' : 'a bucket';
      const name = `from-${place.slice(2)}`;
      await succeed('store', 'copy', from(), `${stores[other]}#${name}`);
      assert.equal((await read(other, name)).memory, digest);
    });

    test(`${place} is not replaced unless that is asked for`, LIMITS, async () => {
      const { code, stderr } = await run(['relay', file, from()]);
      assert.equal(code, 4);
      assert.match(stderr, /has a snapshot "guest" already/);
      const orphan = await run(['relay', file, `${stores[place]}#orphan`, '--parent', 'nobody']);
      assert.equal(orphan.code, 4);
      assert.match(orphan.stderr, /has no snapshot "nobody"/);
      await assert.rejects(read(place, 'orphan'), { code: 'ENOENT' });
    });
  }

  test('a snapshot that is not there is an error', LIMITS, async () => {
    const { code, stderr } = await run(['verify', `${stores['a directory']}#nobody`]);
    assert.equal(code, 4);
    assert.match(stderr, /has no snapshot "nobody"/);
  });

  test(
    'a name that no snapshot can have is an error before anything is opened',
    LIMITS,
    async () => {
      const bad = `store:${dir.join('unmade')}#a/b`;
      const good = `store:${dir.join('unmade')}#good`;
      const refused = [
        ['verify', bad],
        ['relay', file, bad],
        ['save', '--qmp', dir.join('no-monitor'), good, '--parent', '../x'],
        ['store', 'copy', `${stores['a directory']}#guest`, bad],
        ['store', 'rm', bad],
      ];
      const ended = await Promise.all(refused.map((args) => run(args)));
      for (const [at, { code, stderr }] of ended.entries()) {
        assert.match(stderr, /"(a\/b|..\/x)" is not a name/);
        assert.equal(code, 4, refused[at]?.join(' '));
      }
      assert.ok(!existsSync(dir.join('unmade')));
    },
  );

  test('a manifest of the stream that was written fits the snapshot', LIMITS, async () => {
    const manifest = dir.join('manifest.json');
    await succeed('relay', file, `${stores['a directory']}#known`, '--manifest', manifest);
    await succeed('verify', `${stores['a directory']}#known`, '--manifest', manifest);
  });

  test('a damaged manifest is left out of the list, and can be removed', LIMITS, async () => {
    const url = `store:${dir.join('damaged')}`;
    const store = await openStore(url);
    for (const name of ['a', 'b', 'c']) await store.writer(name).writeGuest(new MadeGuest(4));
    await store.close();
    writeFileSync(dir.join('damaged/snapshots/b'), 'no manifest\n');
    const { code, stdout, stderr } = await run(['store', 'ls', url, '--json']);
    assert.deepEqual(
      (JSON.parse(stdout) as SnapshotInfo[]).map(({ name }) => name),
      ['a', 'c'],
    );
    assert.match(stderr, /snapshots\/b is damaged: .*; it is left out/);
    assert.equal(code, 1);
    assert.equal(await succeed('store', 'rm', `${url}#b`, '--json'), '{"removed":"b"}\n');
  });

  test('a store of a later version is an error', LIMITS, async () => {
    mkdirSync(dir.join('later'));
    const mark = dir.join('later/qemu-file-store');
    writeFileSync(mark, '{"format":"qemu-file-store","version":9}\n');
    const { code, stderr } = await run(['relay', file, `store:${dir.join('later')}#new`]);
    assert.match(stderr, /has version 9, and this package reads version 1; use a later qemu-file/);
    assert.equal(code, 4);
    assert.deepEqual(readdirSync(dir.join('later')), ['qemu-file-store']);
  });

  test('a store after --tee is refused', LIMITS, async () => {
    const tee = `${stores['a directory']}#tee`;
    const { code, stderr } = await run(['relay', file, dir.join('teed.mig'), '--tee', tee]);
    assert.match(stderr, /--tee writes a file/);
    assert.equal(code, 2);
  });

  test('a bucket that is not there, or not ours, is an error', LIMITS, async () => {
    const nowhere = await run(['verify', `s3://nowhere?endpoint=${server.endpoint}#guest`]);
    assert.equal(nowhere.code, 4);
    assert.match(nowhere.stderr, /there is no such bucket/);
    const { AWS_SECRET_ACCESS_KEY } = process.env;
    process.env.AWS_SECRET_ACCESS_KEY = 'wrong';
    const denied = run(['verify', `${stores['a bucket']}#guest`]);
    process.env.AWS_SECRET_ACCESS_KEY = AWS_SECRET_ACCESS_KEY;
    const { code, stderr } = await denied;
    assert.equal(code, 4);
    assert.match(stderr, /secret key or the access key is wrong/);
  });
});

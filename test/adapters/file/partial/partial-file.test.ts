// Partial files: their owners, their removal and their permissions.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { basename } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { describe, test } from 'node:test';
import { openFd } from '../../../../adapters/file/open-file.ts';
import { PartialFile } from '../../../../adapters/file/partial/partial-file.ts';
import { makeTempDir, type TempDir } from '../../../helpers/cleanup.ts';
import { withoutLeaks } from '../../../helpers/leaks.ts';
import { until, within } from '../../../helpers/until.ts';

const DAY_MS = 24 * 3_600_000;
const PARTIAL = /^\.(.+)\.([0-9a-f]{8})-(\d+)-(\d+)-([0-9a-f]{12})\.qemu-file-partial$/;

/** The parts of a partial file's name. */
interface Parts {
  name: string;
  scope: string;
  pid: number;
  startTime: string;
}

function partsOf(path: string): Parts {
  const [, name, scope, pid, startTime] = PARTIAL.exec(basename(path)) ?? [];
  assert.ok(name && scope && pid && startTime, `${path} names its writer`);
  return { name, scope, pid: Number(pid), startTime };
}

/** The parts that this process writes into the names of its partial files. */
async function ownParts(): Promise<Parts> {
  await using directory = makeTempDir();
  const file = await PartialFile.create(directory.join('vm.mig'), 0o600, true);
  const parts = partsOf(file.path);
  await endOf(file);
  return parts;
}

async function endOf(file: PartialFile): Promise<void> {
  fs.closeSync(file.fd);
  await file.discard();
}

let made = 0;

/** Create a partial file of a given process; return its name. */
function plant(directory: TempDir, { name, scope, pid, startTime }: Parts): string {
  made += 1;
  const random = made.toString(16).padStart(12, '0');
  const entry = `.${name}.${scope}-${pid}-${startTime}-${random}.qemu-file-partial`;
  fs.writeFileSync(directory.join(entry), 'half');
  return entry;
}

/** Save a file under a name; return the other names in the directory. */
async function save(directory: TempDir, name = 'vm.mig'): Promise<string[]> {
  const ops = await openFd(directory.join(name), { direction: 'write' });
  await ops.writevBuffer([Buffer.from('new')], 0);
  await ops.close();
  assert.equal(fs.readFileSync(directory.join(name), 'latin1'), 'new');
  return fs.readdirSync(directory.path).filter((entry) => entry !== name);
}

function deadPid(): number {
  return spawnSync('true').pid;
}

/** Return the 22nd field of `/proc/PID/stat`, read independently of the code under test. */
function startTimeOf(pid: number): string {
  return spawnSync('sed', ['s/.*) //', `/proc/${pid}/stat`], { encoding: 'utf8' }).stdout.split(
    ' ',
  )[19] as string;
}

async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGKILL');
  await closed;
}

describe('a file that is being written', () => {
  test('has its writer in its name', async () => {
    const { name, pid, startTime } = await ownParts();
    assert.deepEqual(
      { name, pid, startTime },
      { name: 'vm.mig', pid: process.pid, startTime: startTimeOf(process.pid) },
    );
  });

  test('has a name within the limit of the file system, another one for each final name', async () => {
    await using directory = makeTempDir();
    const paths: string[] = [];
    for (const name of ['x'.repeat(255), `${'x'.repeat(254)}y`, 'ü'.repeat(127)]) {
      const file = await PartialFile.create(directory.join(name), 0o600, true);
      paths.push(file.path);
      await endOf(file);
    }
    for (const path of paths) assert.ok(Buffer.byteLength(basename(path)) <= 255);
    assert.equal(new Set(paths.map((path) => partsOf(path).name)).size, 3);
  });

  test('is private from its creation, with any umask', async (t) => {
    await using directory = makeTempDir();
    const modes: number[] = [];
    const { open } = fs;
    t.mock.method(
      fs,
      'open',
      (
        path: string,
        flags: number,
        mode: number,
        done: (error: Error | null, fd: number) => void,
      ) =>
        open(path, flags, mode, (error, fd) => {
          modes.push(fs.statSync(path).mode & 0o7777);
          done(error, fd);
        }),
    );
    const before = process.umask(0);
    try {
      const file = await PartialFile.create(directory.join('vm.mig'), 0o600, true);
      await endOf(file);
    } finally {
      process.umask(before);
    }
    assert.deepEqual(modes, [0o600]);
  });

  test('is touched every hour, until it has its name, is kept or is removed', async (t) => {
    await using directory = makeTempDir();
    t.mock.timers.enable({ apis: ['setInterval'] });
    const files: PartialFile[] = [];
    for (let i = 0; i < 4; i++) {
      files.push(await PartialFile.create(directory.join('vm.mig'), 0o600, true));
    }
    const touched: string[] = [];
    t.mock.method(fs, 'lutimes', (path: string) => void touched.push(path));
    const paths = files.map(({ path }) => path);
    t.mock.timers.tick(3_600_000);
    assert.deepEqual(touched.splice(0), paths);
    await files[0]?.publish();
    await files[1]?.keep();
    await files[2]?.discard();
    t.mock.timers.tick(3_600_000);
    assert.deepEqual(touched, [paths[3]]);
    await files[3]?.discard();
    for (const { fd } of files) fs.closeSync(fd);
  });

  test('looks fresh once it was touched', async (t) => {
    await using directory = makeTempDir();
    t.mock.timers.enable({ apis: ['setInterval'] });
    const file = await PartialFile.create(directory.join('vm.mig'), 0o600, true);
    fs.utimesSync(file.path, 0, 0);
    const { lutimes } = fs;
    const done = new Promise((resolve) => {
      t.mock.method(fs, 'lutimes', (path: string, atime: Date, mtime: Date) =>
        lutimes(path, atime, mtime, resolve),
      );
    });
    t.mock.timers.tick(3_600_000);
    assert.equal(await within(done, { what: 'the file to be touched' }), null);
    assert.ok(Date.now() - fs.statSync(file.path).mtimeMs < 600_000);
    await endOf(file);
  });

  test('leaves no descriptor and no timer, however it ends', async () => {
    await using directory = makeTempDir();
    await withoutLeaks(async () => {
      await save(directory);
      for (const keepPartial of [true, false]) {
        const ops = await openFd(directory.join('vm.mig'), { direction: 'write', keepPartial });
        await ops.close(new Error('the connection broke'));
      }
    });
  });
});

describe('the partial file of a killed process', () => {
  test('is removed when the same name is written to again', async () => {
    await using directory = makeTempDir();
    plant(directory, { ...(await ownParts()), pid: deadPid() });
    assert.deepEqual(await save(directory), []);
  });

  test('is removed though another process has its id by now', async () => {
    await using directory = makeTempDir();
    const own = await ownParts();
    plant(directory, { ...own, startTime: `${Number(own.startTime) - 1}` });
    assert.deepEqual(await save(directory), []);
  });

  test('is removed while its writer is a zombie', async () => {
    await using directory = makeTempDir();
    // The background job of sh becomes a child of sleep, which does not wait for it.
    const parent = spawn('sh', ['-c', 'cat <&3 & echo $!; exec sleep 600 3<&-'], {
      stdio: ['ignore', 'pipe', 'ignore', 'pipe'],
    });
    try {
      const [line] = (await once(parent.stdout as Readable, 'data')) as [Buffer];
      const pid = Number(line.toString());
      const startTime = startTimeOf(pid);
      const statOf = (of: number | undefined) => fs.readFileSync(`/proc/${of}/stat`, 'latin1');
      await until(() => statOf(parent.pid).includes('(sleep)'), { what: 'sh to be sleep' });
      (parent.stdio[3] as Writable).end();
      await until(() => statOf(pid).includes(') Z '), { what: 'the process to be dead' });
      plant(directory, { ...(await ownParts()), pid, startTime });
      assert.deepEqual(await save(directory), []);
    } finally {
      await endChild(parent);
    }
  });

  test('can be removed by two processes at the same time', async () => {
    await using directory = makeTempDir();
    const own = await ownParts();
    for (let i = 0; i < 20; i++) plant(directory, { ...own, pid: deadPid() });
    const path = directory.join('vm.mig');
    const files = await Promise.all(
      Array.from({ length: 4 }, () => PartialFile.create(path, 0o600, true)),
    );
    assert.deepEqual(
      fs.readdirSync(directory.path).sort(),
      files.map((file) => basename(file.path)).sort(),
    );
    for (const file of files) await endOf(file);
  });

  test('does not keep a file from being written when it cannot be removed', async (t) => {
    await using directory = makeTempDir();
    const stale = plant(directory, { ...(await ownParts()), pid: deadPid() });
    const refuse = () => Promise.reject(Object.assign(new Error('EPERM'), { code: 'EPERM' }));
    const unlink = t.mock.method(fs.promises, 'unlink', refuse);
    assert.deepEqual(await save(directory), [stale]);
    unlink.mock.restore();
    const readdir = t.mock.method(fs.promises, 'readdir', refuse);
    assert.deepEqual(await save(directory), [stale]);
    readdir.mock.restore();
    assert.deepEqual(await save(directory), []);
  });

  test('on another machine is removed when it was not touched for a day', async () => {
    await using directory = makeTempDir();
    const own = await ownParts();
    const scope = own.scope === '01234567' ? '76543210' : '01234567';
    const elsewhere = { ...own, scope, pid: deadPid() };
    const [fresh, old] = [plant(directory, elsewhere), plant(directory, elsewhere)];
    touch(directory.join(fresh), Date.now() - DAY_MS + 600_000);
    touch(directory.join(old), Date.now() - DAY_MS - 600_000);
    assert.deepEqual(await save(directory), [fresh]);
  });
});

describe('the next writer does not remove', () => {
  test('the file of a living process', async () => {
    await using directory = makeTempDir();
    const own = await ownParts();
    const child = spawn('sleep', ['600'], { stdio: 'ignore' });
    try {
      const pid = child.pid as number;
      const theirs = plant(directory, { ...own, pid, startTime: startTimeOf(pid) });
      const ours = plant(directory, own);
      // However long it has had nothing to write.
      for (const entry of [theirs, ours]) touch(directory.join(entry), 0);
      assert.deepEqual((await save(directory)).sort(), [theirs, ours].sort());
      await endChild(child);
      assert.deepEqual(await save(directory), [ours]);
    } finally {
      await endChild(child);
    }
  });

  test('a file that was kept on purpose', async () => {
    await using directory = makeTempDir();
    const path = directory.join('vm.mig');
    const ops = await openFd(path, { direction: 'write', keepPartial: true });
    await ops.writevBuffer([Buffer.from('half')], 0);
    const written = ops.partialPath as string;
    await ops.close(new Error('the connection broke'));
    const kept = ops.partialPath as string;
    assert.notEqual(kept, written);
    assert.doesNotMatch(basename(kept), PARTIAL);
    touch(kept, 0);
    assert.deepEqual(await save(directory), [basename(kept)]);
    assert.equal(fs.readFileSync(kept, 'latin1'), 'half');
  });

  test('a kept file that could not be renamed, while its writer lives', async (t) => {
    await using directory = makeTempDir();
    const asked: string[] = [];
    const ops = await openFd(directory.join('vm.mig'), {
      direction: 'write',
      keepPartial: (_, path) => asked.push(path) > 0,
    });
    const refuse = () => Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO' }));
    const rename = t.mock.method(fs.promises, 'rename', refuse);
    await ops.close(new Error('the connection broke'));
    rename.mock.restore();
    assert.deepEqual(asked, [ops.partialPath]);
    assert.deepEqual(await save(directory), [basename(ops.partialPath as string)]);
  });

  test('a file of another name or another kind', async () => {
    await using directory = makeTempDir();
    const own = { ...(await ownParts()), pid: deadPid() };
    const stay = [
      plant(directory, { ...own, name: 'vm.mig.gz' }),
      plant(directory, { ...own, name: 'vm' }),
      plant(directory, { ...own, name: 'vm-mig' }),
      // As an older version of this package named them.
      '.vm.mig.58b7a58bef6e.qemu-file-partial',
      `.vm.mig.${own.scope}-0-1-00000000000a.qemu-file-partial`,
      `.vm.mig.${own.scope}-${own.pid}-1-00000000000b.qemu-file-partial.bak`,
    ];
    for (const entry of stay) fs.writeFileSync(directory.join(entry), 'mine');
    const target = directory.join('elsewhere');
    fs.writeFileSync(target, 'mine');
    const link = `.vm.mig.${own.scope}-${own.pid}-1-00000000000c.qemu-file-partial`;
    fs.symlinkSync(target, directory.join(link));
    const folder = `.vm.mig.${own.scope}-${own.pid}-1-00000000000d.qemu-file-partial`;
    fs.mkdirSync(directory.join(folder));
    assert.deepEqual((await save(directory)).sort(), [...stay, link, folder, 'elsewhere'].sort());
  });

  test('a file of another user', {
    skip: process.geteuid?.() !== 0 && 'only root can make it',
  }, async () => {
    await using directory = makeTempDir();
    const entry = plant(directory, { ...(await ownParts()), pid: deadPid() });
    fs.chownSync(directory.join(entry), 12_345, 12_345);
    assert.deepEqual(await save(directory), [entry]);
  });

  test('anything where /proc does not show which processes live', async (t) => {
    await using directory = makeTempDir();
    const own = await ownParts();
    // The answer is kept, so it takes a new module to ask anew.
    const fresh: string = '../../../../adapters/file/partial/stale-partials.ts?without-proc';
    const { ownWriter, removeStalePartials } = (await import(
      fresh
    )) as typeof import('../../../../adapters/file/partial/stale-partials.ts');
    const { PartialNames } = await import('../../../../adapters/file/partial/partial-name.ts');
    const entry = plant(directory, { ...own, pid: deadPid() });
    touch(directory.join(entry), 0);
    t.mock.method(fs, 'readlinkSync', () => {
      throw Object.assign(new Error('ENOENT'), { code: 'ENOENT' });
    });
    assert.equal(ownWriter(), undefined);
    await removeStalePartials(directory.path, new PartialNames('vm.mig'));
    assert.deepEqual(fs.readdirSync(directory.path), [entry]);
  });
});

function touch(path: string, ms: number): void {
  fs.utimesSync(path, ms / 1000, ms / 1000);
}

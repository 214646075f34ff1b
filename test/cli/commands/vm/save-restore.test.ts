// `qemu-file save` and `qemu-file restore`, as their users meet them, with real QEMUs.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { fixturePath } from '../../../fixtures/recording.ts';
import { makeTempDir, type TempDir } from '../../../helpers/cleanup.ts';
import { Command, run } from '../../../helpers/command/command.ts';
import { assertSays, jsonIn } from '../../../helpers/command/reading-command.ts';
import { until } from '../../../helpers/until.ts';
import { firmware, type GuestProgram, memoryProblems } from '../../../qemu/harness/guest.ts';
import {
  type Qemu,
  type QemuOptions,
  requireQemu,
  startQemu,
} from '../../../qemu/harness/harness.ts';
import { findQemu10, requireQemu10 } from '../../../qemu/harness/qemu10.ts';

const program: GuestProgram = { patternBytes: 2 << 20, dirtyBytes: 1 << 20 };
const image = firmware(program);

/** Starts a QEMU whose monitor is at `qmp`, or another name, in a directory. */
function start(dir: TempDir, options: QemuOptions = {}, name = 'qmp'): Promise<Qemu> {
  const monitor = `unix:${dir.join(name)},server=on,wait=off`;
  return startQemu({ firmware: image, extraArgs: ['-qmp', monitor], ...options });
}

/** Names in a directory that are not sockets. */
function filesIn(dir: TempDir): string[] {
  return readdirSync(dir.path).filter((name) => statSync(dir.join(name)).isFile());
}

describe('save and restore', { skip: requireQemu() }, () => {
  let dir: TempDir;
  let source: Qemu;
  before(async () => {
    dir = makeTempDir();
    source = await start(dir);
    await source.waitGuestReady();
  });
  after(async () => {
    await source.stop();
    dir.remove();
  });

  const save = (to: string, ...options: string[]): Command =>
    new Command(['save', '--qmp', dir.join('qmp'), ...options, to]);

  test('move a running guest into a compressed file and out of it, with a manifest', async () => {
    const path = dir.join('vm.mig.zst');
    const manifest = dir.join('vm.json');
    const options = ['--compress', 'zstd', '--manifest', manifest, '--resume', '--json'];
    const saved = await save(path, ...options).ended();
    assertSays(saved, 0, /saved .* MiB \(\d+ bytes\) in .* s, .*\/s; the guest keeps running$/m);
    const { to, status, warnings } = jsonIn(saved);
    assert.deepEqual([to, status, warnings], [path, 'running', []]);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    await source.waitCounterRises();
    const verified = await run(['verify', path, '--manifest', manifest]);
    assertSays(verified, 0);
    execFileSync('zstd', ['-tq', path]);

    await using there = makeTempDir();
    await using destination = await start(there, { incoming: 'defer' });
    const restored = await run(['restore', '--qmp', `unix:${there.join('qmp')}`, path, '--json']);
    assertSays(restored, 0, /restored .* MiB .*; the guest is running$/m);
    assert.equal(jsonIn(restored).status, 'running');
    await destination.waitCounterRises();
    await destination.pause();
    assert.deepEqual(memoryProblems(await destination.readRam(), program), []);
  });

  test('go through a pipe, and leave the guests stopped if that is asked for', async () => {
    const saved = await save('-', '--pause', '--json').ended();
    assert.equal(saved.code, 0, saved.stderr);
    assert.match(saved.stderr, /the guest is stopped \(postmigrate\)/);
    assert.match(saved.stderr, /^\{"to":"-".*"status":"postmigrate".*\}$/m);
    assert.equal(await source.status(), 'postmigrate');
    await source.resume();

    await using there = makeTempDir();
    await using destination = await start(there, { incoming: 'defer' });
    const args = ['restore', '--qmp', there.join('qmp'), '--resume', '--quiet', '-'];
    const restored = await run(args, saved.stdout);
    assert.deepEqual([restored.code, restored.stderr], [0, '']);
    await destination.waitCounterRises();
  });

  test('end in order when they are interrupted: no file, and the guest runs on', async () => {
    for (const [signal, code] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
    ] as const) {
      const saving = save(dir.join('interrupted'), '--max-bandwidth', '64k');
      const hasBegun = async (): Promise<boolean> => {
        const { status, ram } = await source.migrationInfo();
        return status === 'active' && (ram?.transferred ?? 0) > 0;
      };
      await until(hasBegun, { what: 'the save to begin' });
      saving.child.kill(signal);
      assertSays(await saving.ended(), code, new RegExp(`interrupted by ${signal}; the migration`));
      assert.deepEqual(
        filesIn(dir).filter((name) => name.includes('interrupted')),
        [],
      );
      await source.waitCounterRises();
    }
  });

  test('do not claim that the guest continues when QEMU is gone as well', async () => {
    await using there = makeTempDir();
    await using qemu = await start(there);
    await qemu.waitGuestReady();
    const args = ['save', '--qmp', there.join('qmp'), there.join('x'), '--max-bandwidth', '64k'];
    const saving = new Command(args);
    const hasBegun = async (): Promise<boolean> =>
      ((await qemu.migrationInfo()).ram?.transferred ?? 0) > 0;
    await until(hasBegun, { what: 'the save to begin' });
    // Stopped, so that it cannot receive the cancel before it ends.
    process.kill(qemu.pid, 'SIGSTOP');
    saving.child.kill('SIGINT');
    const isGone = (): boolean => filesIn(there).length === 0;
    await until(isGone, { what: 'the file to be given up' });
    process.kill(qemu.pid, 'SIGKILL');
    const { code, stderr } = await saving.ended();
    assert.equal(code, 130, stderr);
    assert.match(stderr, /interrupted by SIGINT; .*(cannot be reached|does not run on)/);
    assert.doesNotMatch(stderr, /continues as before/);
  });

  test('report the mistake, and change nothing', async () => {
    assertSays(await save('/dev/full').ended(), 4, /ENOSPC.*no space left on device/);
    await source.waitCounterRises();
    const nowhere = await run(['save', '--qmp', dir.join('nothing'), dir.join('x')]);
    assertSays(nowhere, 4, /qemu-file: \S*nothing: ENOENT: [^;]*; check the path$/m);
    const wrong = await run(['restore', '--qmp', dir.join('qmp'), '/dev/null']);
    assertSays(
      wrong,
      4,
      /state "running" and does not wait for a migration; start it with -incoming/,
    );
    assert.equal(existsSync(dir.join('x')), false);
  });

  test('say of a QEMU that listens at an address of its own how to start it', async () => {
    await using there = makeTempDir();
    await using destination = await start(there, { incoming: `unix:${there.join('in')}` });
    const path = fixturePath('microvm.mig.gz');
    const { code, stderr } = await run(['restore', '--qmp', there.join('qmp'), '--no-check', path]);
    assert.equal(code, 4);
    assert.match(stderr, /EBUSY: .*start it with -incoming defer instead of an address$/m);
    assert.equal(await destination.status(), 'inmigrate');
  });
});

describe('save and restore refuse, before they do anything,', { concurrency: 2 }, () => {
  for (const [what, args, says] of [
    ['to work without a monitor', ['save', 'x'], /required option '--qmp <socket>'/],
    ['two wishes at once', ['save', '--qmp', 'q', '--resume', '--keep-paused', 'x'], /exclude/],
    ['an unknown compression', ['save', '--qmp', 'q', '--compress', 'rar', 'x'], /gzip, zstd/],
    [
      'a monitor that is not a socket',
      ['restore', '--qmp', 'exec:sh', 'x'],
      /is not the endpoint of a monitor/,
    ],
    ['an unknown endpoint', ['save', '--qmp', 'q', 'ftp://x'], /ftp/],
    [
      'a manifest of what is not checked',
      ['save', '--qmp', 'q', '--no-check', '--manifest', 'm', 'x'],
      /--manifest needs the check/,
    ],
    [
      'an index of a compressed stream',
      ['save', '--qmp', 'q', '--index', '--compress', 'gzip', 'x'],
      /--index and --compress exclude each other/,
    ],
    [
      'an index of what is not checked',
      ['save', '--qmp', 'q', '--index', '--no-check', 'x'],
      /--index needs the check/,
    ],
    [
      'an index of what is not a file',
      ['save', '--qmp', 'q', '--index', 'tcp:host:1'],
      /tcp:host:1 is not a file/,
    ],
  ] as const) {
    test(what, async () => {
      const { code, stderr } = await run(args);
      assert.equal(code, 2, stderr);
      assert.match(stderr, says);
    });
  }
});

for (const { version, skip, options } of [
  { version: '7.2', skip: requireQemu(), options: {} },
  { version: '10.0', skip: requireQemu10(), options: { binary: findQemu10() ?? '' } },
]) {
  test(`a save that is killed before its last moment costs nothing: QEMU ${version}`, {
    skip,
  }, async () => {
    await using dir = makeTempDir();
    await using source = await start(dir, options);
    await source.waitGuestReady();
    // All has been taken, and what takes it does not say that it is done.
    const pid = dir.join('pid');
    const to = `exec:cat > ${dir.join('vm')}; echo $$ > ${pid}.new; mv ${pid}.new ${pid}; exec sleep 1000`;
    const saving = new Command(['save', '--qmp', dir.join('qmp'), to]);
    await until(() => existsSync(pid), { what: 'the stream' });
    const { status } = await source.migrationInfo();
    assert.ok(status === 'active' || status === 'device', status);
    assert.equal(await source.status(), 'finish-migrate');
    saving.child.kill('SIGKILL');
    assert.equal((await source.waitMigrationEnd()).status, 'failed');
    await source.waitRunning();
    await source.waitCounterRises();
    process.kill(Number(readFileSync(pid, 'utf8')), 'SIGKILL');
  });
}

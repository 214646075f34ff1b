// The harness, the guests and the bundled recording, against real QEMU and without a line of lib/:
// when a test in this directory fails, these say whether the fault may be the harness's own.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { constants, existsSync, openSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { buffer, text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import {
  readSidecar,
  recordedMachine,
  recordedProgram,
  recordingPath,
} from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { until } from '../../helpers/until.ts';
import { bootSector, firmware, type GuestProgram, memoryProblems } from './guest.ts';
import { differingPages, type QemuOptions, requireQemu, startQemu } from './harness.ts';

const still: GuestProgram = { patternBytes: 1 << 20 };
const dirtying: GuestProgram = { patternBytes: 2 << 20, dirtyBytes: 1 << 20 };
const microvm: QemuOptions = { firmware: firmware(dirtying) };
const pc: QemuOptions = { machine: 'pc', bootSector: bootSector(dirtying) };

describe('harness against real QEMU', { skip: requireQemu() }, () => {
  for (const [what, program, options] of [
    ['a still guest, as firmware', still, { firmware: firmware(still) }],
    ['a dirtying guest, as firmware', dirtying, microvm],
    ['a dirtying guest, as firmware of a pc', dirtying, { ...microvm, machine: 'pc' }],
    ['a dirtying guest, from a boot sector', dirtying, pc],
  ] as const) {
    test(`${what}, counts and keeps its pattern in memory`, async () => {
      await using qemu = await startQemu(options);
      await qemu.waitGuestReady();
      const { from, to } = await qemu.waitCounterRises();
      assert.ok(to > from);
      await qemu.pause();
      assert.deepEqual(memoryProblems(await qemu.readRam(), program), []);
    });
  }

  test('a wrong word, in the pattern or in a dirtied page, is found', async () => {
    await using qemu = await startQemu(microvm);
    await qemu.waitGuestReady();
    await qemu.pause();
    const memory = await qemu.readRam();
    memory.writeUInt32LE(1, 0x1ff004);
    memory.writeUInt32LE(memory.readUInt32LE(0x100800) + 7, 0x100800);
    assert.equal(memoryProblems(memory, dirtying).length, 2);
  });

  for (const [what, options] of [
    ['microvm', microvm],
    ['pc', pc],
  ] as const) {
    test(`a ${what} guest migrates through a file and keeps counting`, async () => {
      await using dir = makeTempDir();
      await using source = await startQemu(options);
      await source.waitGuestReady();
      const info = await source.migrate(`exec:cat > ${dir.join('stream')}`);
      assert.ok((info.ram?.transferred ?? 0) > 2 << 20);
      assert.equal(await source.status(), 'postmigrate');
      const counterAtEnd = await source.counter();

      await using destination = await startQemu({
        ...options,
        startStopped: true,
        incoming: 'defer',
      });
      await destination.migrateIncoming(`exec:cat ${dir.join('stream')}`);
      await destination.waitStatus(['paused']);
      assert.deepEqual(differingPages(await source.readRam(), await destination.readRam()), []);
      assert.equal(await source.ramSha256(), await destination.ramSha256());
      assert.equal(await destination.counter(), counterAtEnd);
      await destination.resume();
      await destination.waitCounterRises();
    });
  }

  test('no write is lost to a migration that takes several rounds', async () => {
    await using dir = makeTempDir();
    const busy = { patternBytes: 4 << 20, dirtyBytes: 1 << 20, ticksPerSecond: 1000 };
    const options = { firmware: firmware(busy) };
    await using source = await startQemu(options);
    await source.waitGuestReady();
    const info = await source.migrate(`exec:cat > ${dir.join('stream')}`, {
      parameters: { 'max-bandwidth': 32 << 20, 'downtime-limit': 10 },
    });
    assert.ok((info.ram?.['dirty-sync-count'] ?? 0) > 2, 'more than one round');
    await using destination = await startQemu({
      ...options,
      startStopped: true,
      incoming: `exec:cat ${dir.join('stream')}`,
    });
    await destination.waitStatus(['paused']);
    const memory = await destination.readRam();
    assert.deepEqual(differingPages(await source.readRam(), memory), []);
    assert.deepEqual(memoryProblems(memory, busy), []);
  });

  test('a guest migrates over tcp to the port that QEMU chose', async () => {
    await using source = await startQemu(microvm);
    await using destination = await startQemu({ ...microvm, incoming: 'defer' });
    await destination.migrateIncoming('tcp:127.0.0.1:0');
    const port = await destination.incomingPort();
    await source.waitGuestReady();
    await source.migrate(`tcp:127.0.0.1:${port}`, { parameters: { 'downtime-limit': 200 } });
    await destination.waitRunning();
    await destination.waitCounterRises();
  });

  test('a guest migrates out of a passed descriptor and into an inherited one', async () => {
    await using source = await startQemu(microvm);
    await using destination = await startQemu({
      ...microvm,
      inherit: ['pipe'],
      incoming: 'fd:3',
    });
    await source.waitGuestReady();
    const from = await source.passChannel('channel');
    const [to] = destination.channels;
    assert.ok(to);
    from.pipe(to);
    await source.migrate('fd:channel');
    await destination.waitRunning();
    await destination.waitCounterRises();
  });

  test('a stream of QEMU through a passed FIFO ends with the migration', async () => {
    await using dir = makeTempDir();
    await using source = await startQemu(microvm);
    const fifo = dir.join('fifo');
    assert.equal(spawnSync('mkfifo', [fifo]).status, 0);
    const ours = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    const channel = new Socket({ fd: ours, readable: true, writable: false });
    await source.passDescriptor('fifo', openSync(fifo, constants.O_WRONLY));
    const [bytes] = await Promise.all([buffer(channel), source.migrate('fd:fifo')]);
    assert.equal(bytes.toString('latin1', 0, 4), 'QEVM');
  });

  test('the recording is what its sidecar says, restores, and runs', async () => {
    const bytes = gunzipSync(await readFile(recordingPath));
    const sidecar = await readSidecar();
    assert.equal(bytes.length, sidecar.bytes);
    assert.equal(createHash('sha256').update(bytes).digest('hex'), sidecar.sha256);

    await using qemu = await startQemu({
      ...recordedMachine(),
      incoming: `exec:gunzip -c ${recordingPath}`,
    });
    await qemu.waitRunning();
    await qemu.waitCounterRises();
    await qemu.pause();
    const memory = await qemu.readRam();
    assert.deepEqual(memoryProblems(memory, recordedProgram), []);
    const rom = memory.subarray(0xf0000, 0x100000);
    assert.ok(
      rom.equals(firmware(recordedProgram)),
      'the recording is of the firmware as it is now',
    );
  });

  test("a migration to a missing destination fails with QEMU's reason", async () => {
    await using qemu = await startQemu(microvm);
    await assert.rejects(qemu.migrate('unix:/nonexistent/socket'), /No such file or directory/);
    await assert.rejects(qemu.migrate('nonsense:'), { name: 'QmpError' });
  });

  test('an invalid stream ends the destination, and every wait reports why', async () => {
    await using qemu = await startQemu({ ...microvm, incoming: 'defer' });
    const resumed = qemu.qmp.waitForEvent('RESUME');
    const resumedFails = assert.rejects(resumed, /Not a migration stream/);
    await qemu.migrateIncoming('exec:head -c 65536 /dev/zero');
    await assert.rejects(qemu.waitRunning(), /exited with status 1.*Not a migration stream/s);
    await resumedFails;
    await assert.rejects(qemu.status(), /exited with status 1/);
  });

  test('an event ends its wait, and so do a deadline and a signal', async () => {
    await using qemu = await startQemu(microvm);
    const [stopped] = await Promise.all([qemu.qmp.waitForEvent('STOP'), qemu.pause()]);
    assert.equal(stopped.event, 'STOP');
    assert.ok(qemu.qmp.events.some(({ event }) => event === 'STOP'));
    await assert.rejects(
      qemu.qmp.waitForEvent('STOP', { deadlineMs: 20 }),
      /20 ms for the event STOP/,
    );
    const controller = new AbortController();
    const aborted = qemu.qmp.waitForEvent('STOP', { signal: controller.signal });
    controller.abort(new Error('enough'));
    await assert.rejects(aborted, /enough/);
    assert.match(await qemu.qmp.hmp('info status'), /paused/);
  });

  test('nothing is left of a QEMU that was stopped, twice, or while it migrated', async () => {
    await using qemu = await startQemu(microvm);
    await qemu.passChannel('channel');
    await qemu.startMigration('fd:channel');
    await Promise.all([qemu.stop(), qemu.stop()]);
    await qemu.stop();
    assertGone(qemu.pid, dirOf(qemu.commandLine));
  });

  test('a QEMU that does not start says why and leaves nothing', async () => {
    await using dir = makeTempDir();
    const TMPDIR = process.env.TMPDIR;
    process.env.TMPDIR = dir.path;
    try {
      await assert.rejects(startQemu({ extraArgs: ['-nonsense'] }), /-nonsense: invalid option/);
      await assert.rejects(startQemu({ binary: '/nonexistent/qemu' }), /No such file|ENOENT/);
      await assert.rejects(startQemu({ signal: AbortSignal.abort() }), { name: 'AbortError' });
      assert.equal(spawnSync('ls', ['-A', dir.path], { encoding: 'utf8' }).stdout, '');
    } finally {
      if (TMPDIR === undefined) delete process.env.TMPDIR;
      else process.env.TMPDIR = TMPDIR;
    }
  });

  for (const [how, code, signal] of [
    ['an exception that is not caught', 'throw new Error("on purpose")', undefined],
    ['a signal', '', 'SIGTERM'],
  ] as const) {
    test(`nothing is left of the QEMU of a process that ends by ${how}`, async () => {
      const script = `
        import { startQemu } from ${JSON.stringify(import.meta.resolve('./harness.ts'))};
        const qemu = await startQemu({ firmware: new Uint8Array(65536) });
        console.log(JSON.stringify([qemu.pid, qemu.commandLine]));
        ${code || 'setInterval(() => {}, 1000);'}`;
      const args = ['--import', 'tsx', '--input-type=module', '--eval', script];
      const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
      const ended = once(child, 'close');
      const stderr = text(child.stderr);
      const line = await Promise.race([
        once(child.stdout, 'data').then(String),
        ended.then(async () => assert.fail(await stderr)),
      ]);
      const [pid, commandLine] = JSON.parse(line) as [number, string[]];
      if (signal !== undefined) child.kill(signal);
      await ended;
      await until(() => !isAlive(pid), { what: 'the end of the QEMU left alone' });
      assertGone(pid, dirOf(commandLine));
    });
  }
});

test('a missing QEMU skips tests, but not in CI', () => {
  const CI = process.env.CI;
  try {
    delete process.env.CI;
    assert.match(String(requireQemu('/nonexistent/qemu')), /not installed/);
    process.env.CI = 'true';
    assert.throws(() => requireQemu('/nonexistent/qemu'), /must not be skipped in CI/);
  } finally {
    if (CI === undefined) delete process.env.CI;
    else process.env.CI = CI;
  }
});

/** The directory of a QEMU, from the path of its firmware image. */
function dirOf(commandLine: readonly string[]): string {
  const [, dir] = /-bios (.*)\/firmware\.bin/.exec(commandLine.join(' ')) ?? [];
  assert.ok(dir);
  return dir;
}

function assertGone(pid: number, dir: string): void {
  assert.ok(!isAlive(pid), 'the process is gone');
  assert.ok(!existsSync(dir), 'its directory is gone');
}

/** Return whether a process runs; a zombie does not. */
function isAlive(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

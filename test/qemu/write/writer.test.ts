// Streams that we write: each QEMU loads them, and the guest's memory is what it was.
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { openTo } from '../../../adapters/index.ts';
import {
  writerOptionsOf,
  writeSavedGuest,
} from '../../../lib/migration/guest-writer/write-saved-guest.ts';
import { MigrationWriter } from '../../../lib/migration/writer/migration-writer.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { runWell } from '../../helpers/command/command.ts';
import { savedGuestOf } from '../../helpers/guests/saved-guest.ts';
import { firmware, memoryProblems } from '../harness/guest.ts';
import {
  differingPages,
  type MigrationSettings,
  type QemuOptions,
  requireQemu,
  startQemu,
} from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import { BUSY_GUEST, qemu10, UNLIMITED } from '../harness/scenario.ts';

const mapped = { capabilities: { 'mapped-ram': true } };

/** A guest whose main memory has a name that the user gave it. */
const NAMED_MEMORY: QemuOptions = {
  machine:
    'microvm,acpi=off,rtc=off,isa-serial=off,x-option-roms=off,auto-kernel-cmdline=off,memory-backend=mem',
  extraArgs: ['-object', 'memory-backend-ram,id=mem,size=16M'],
};

/** A guest that was saved, and its memory. */
interface Saved {
  readonly dir: TempDir;
  readonly path: string;
  readonly ram: Buffer;
  readonly guest: QemuOptions;
}

/** Save a guest that is busy, in several rounds. */
async function save(dir: TempDir, options: QemuOptions): Promise<Saved> {
  const guest = { firmware: firmware(BUSY_GUEST), ...options };
  const path = dir.join('saved');
  await using source = await startQemu(guest);
  await source.waitGuestReady();
  await source.migrate(`exec:cat > ${path}`, {
    parameters: { 'max-bandwidth': UNLIMITED, 'downtime-limit': 20 },
  });
  return { dir, path, ram: await source.readRam(), guest };
}

/** Assert that a QEMU loads the guest, whole, and that the guest goes on. */
async function assertLoads(
  { ram, guest }: Saved,
  uri: string,
  options: QemuOptions = {},
  settings: MigrationSettings = {},
  { beforeEnd }: { beforeEnd?: () => Promise<unknown> } = {},
): Promise<void> {
  const waiting = { startStopped: true, incoming: 'defer' };
  await using destination = await startQemu({ ...guest, ...waiting, ...options });
  await destination.migrateIncoming(uri, settings);
  await beforeEnd?.();
  await destination.waitIncomingEnd();
  const restored = await destination.readRam();
  assert.deepEqual(differingPages(restored, ram), []);
  assert.deepEqual(memoryProblems(restored, BUSY_GUEST), []);
  await destination.resume();
  await destination.waitCounterRises();
}

for (const [version, skip, options] of [
  ['7.2', requireQemu(), (): QemuOptions => ({})],
  ['10.0', requireQemu10(), qemu10],
] as const) {
  describe(`QEMU ${version} loads`, { skip }, () => {
    test('a stream of one round, by writeSavedGuest', async () => {
      await using dir = makeTempDir();
      const saved = await save(dir, options());
      const guest = await savedGuestOf(await readFile(saved.path));
      const file = await openTo({ scheme: 'file', path: dir.join('compact'), offset: 0 });
      await writeSavedGuest(guest, new MigrationWriter(file, writerOptionsOf(guest)));
      await file.close();
      await assertLoads(saved, `exec:cat ${dir.join('compact')}`);
    });

    test('what compact and convert write', async () => {
      await using dir = makeTempDir();
      const saved = await save(dir, options());
      const [compact, renamed] = [dir.join('compact'), dir.join('renamed')];
      await runWell('compact', saved.path, compact);
      await assertLoads(saved, `exec:cat ${compact}`);
      const socket = `unix:${dir.join('socket')}`;
      const sending = { beforeEnd: () => runWell('convert', saved.path, socket) };
      await assertLoads(saved, socket, {}, {}, sending);
      await runWell('convert', saved.path, renamed, '--rename-block', 'microvm.ram=mem');
      await assertLoads(saved, `exec:cat ${renamed}`, NAMED_MEMORY);
    });
  });
}

describe('QEMU 10.0 loads from a file, with mapped-ram,', { skip: requireQemu10() }, () => {
  test('what convert makes of a sequential stream, at any offset, and the way back', async () => {
    await using dir = makeTempDir();
    const saved = await save(dir, qemu10());
    const [file, back] = [`file:${dir.join('mapped')},offset=0x3000`, dir.join('back')];
    await runWell('convert', saved.path, file, '--layout', 'mapped-ram');
    await assertLoads(saved, file, {}, mapped);
    const renamed = dir.join('renamed');
    await runWell('convert', file, renamed, '--rename-block', 'microvm.ram=mem');
    await assertLoads(saved, `file:${renamed}`, NAMED_MEMORY, mapped);
    await runWell('convert', file, back, '--layout', 'sequential');
    await assertLoads(saved, `exec:cat ${back}`);
  });

  test('what compact makes of it', async () => {
    await using dir = makeTempDir();
    const saved = await save(dir, qemu10());
    const file = dir.join('mapped');
    await runWell('compact', saved.path, file, '--layout', 'mapped-ram');
    await assertLoads(saved, `file:${file}`, {}, mapped);
  });
});

describe('a guest of QEMU 7.2 in a mapped-ram file', { skip: requireQemu() }, () => {
  test('is saved in several rounds, without a longer file, and restored', async () => {
    await using dir = makeTempDir();
    const saved = dir.join('saved');
    const [from, to] = [dir.join('from.qmp'), dir.join('to.qmp')];
    const monitor = (path: string) => ['-qmp', `unix:${path},server=on,wait=off`];
    const guest = { firmware: firmware(BUSY_GUEST) };
    await using source = await startQemu({ ...guest, extraArgs: monitor(from) });
    await source.waitGuestReady();
    await runWell('save', '--qmp', from, saved, '--layout', 'mapped-ram', '--quiet');
    const ram = await source.readRam();
    await runWell('verify', saved);
    // Memory, and the device sections after it; blocks begin at multiples of 1 MiB.
    assert.ok(statSync(saved).size < 20 << 20);
    assert.ok(statSync(saved).blocks * 512 < 5 << 20, 'zeros are holes');

    const waiting = { startStopped: true, incoming: 'defer', extraArgs: monitor(to) };
    await using destination = await startQemu({ ...guest, ...waiting });
    await runWell('restore', '--qmp', to, saved, '--keep-paused', '--quiet');
    const restored = await destination.readRam();
    assert.deepEqual(differingPages(restored, ram), []);
    assert.deepEqual(memoryProblems(restored, BUSY_GUEST), []);
    await destination.resume();
    await destination.waitCounterRises();
  });
});

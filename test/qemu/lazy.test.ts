// Guests that run before their memory has arrived.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { openFrom, openTo } from '../../adapters/index.ts';
import { openSavedGuest, type SavedGuest, unwrap } from '../../lib/migration/index.ts';
import { QmpClient, restoreLazily, saveVm } from '../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { run } from '../helpers/command.ts';
import { firmware, type GuestProgram, memoryProblems } from './guest.ts';
import { type Qemu, type QemuOptions, requireQemu, startQemu } from './harness.ts';
import { findQemu10, requireQemu10 } from './qemu10.ts';

const program: GuestProgram = { patternBytes: 3 << 20, dirtyBytes: 1 << 20 };
const image = firmware(program);

/** A QEMU with a monitor of our client's. */
interface Machine extends AsyncDisposable {
  qemu: Qemu;
  qmp: QmpClient;
  monitor: string;
}

async function machine(options: QemuOptions): Promise<Machine> {
  const dir = makeTempDir();
  const monitor = dir.join('qmp');
  const extraArgs = ['-qmp', `unix:${monitor},server=on,wait=off`];
  const qemu = await startQemu({ firmware: image, extraArgs, ...options });
  const qmp = await QmpClient.connect(monitor);
  return {
    qemu,
    qmp,
    monitor,
    [Symbol.asyncDispose]: async () => {
      await qmp.close();
      await qemu.stop();
      dir.remove();
    },
  };
}

/** Checks that the guest runs and that every word of its memory is right. */
async function assertSound({ qemu }: Machine): Promise<void> {
  await qemu.waitCounterRises();
  await qemu.pause();
  assert.deepEqual(memoryProblems(await qemu.readRam(), program), []);
}

for (const { version, skip, binary } of [
  { version: '7.2', skip: requireQemu(), binary: undefined },
  { version: '10.0', skip: requireQemu10(), binary: findQemu10() },
]) {
  const which: QemuOptions = binary === undefined ? {} : { binary };

  describe(`a lazy restore to QEMU ${version}`, { skip }, () => {
    let dir: TempDir;
    let path: string;
    before(async () => {
      dir = makeTempDir();
      path = dir.join('running.mig');
      await using source = await machine(which);
      await source.qemu.waitGuestReady();
      await saveVm(source.qmp, await openTo(path), {});
    });
    after(() => dir.remove());

    const open = async (): Promise<SavedGuest> =>
      openSavedGuest(await unwrap(await openFrom(path)));

    test('runs the guest, and sends all of its memory', async () => {
      await using restored = await machine({ ...which, incoming: 'defer' });
      const guest = await open();
      const result = await restoreLazily(restored.qmp, guest);
      await guest.close();
      assert.equal(result.status, 'running');
      assert.ok(result.resumeMs !== null && result.resumeMs <= result.completeMs);
      await assertSound(restored);
    });

    test('is a command', async () => {
      await using restored = await machine({ ...which, incoming: 'defer' });
      await restored.qmp.close();
      const { code, stderr, stdout } = await run([
        ...['restore', '--lazy', '--json', '--qmp', restored.monitor, path],
      ]);
      assert.equal(code, 0, stderr);
      assert.match(stderr, /the guest ran after \d+ ms, all its memory was there after \d+ ms/);
      const { resumeMs, completeMs, startMs, status } = JSON.parse(stdout.toString()) as Record<
        string,
        number
      >;
      assert.equal(String(status), 'running');
      assert.ok(
        Number(resumeMs) > 0 && Number(completeMs) >= Number(resumeMs) && Number(startMs) > 0,
      );
      await assertSound(restored);
    });
  });
}

// Capabilities of QEMU's that change what one connection carries, or how long it takes: each of them
// between two live QEMUs, through our command.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command } from '../../helpers/command/command.ts';
import { until } from '../../helpers/until.ts';
import { firmware, memoryProblems } from '../harness/guest.ts';
import { type Qemu, requireQemu, startQemu } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import {
  BUSY_GUEST,
  ENDLESS,
  endCommand,
  qemu10,
  type Scenario,
  scenario,
} from '../harness/scenario.ts';

const returnPath = { 'return-path': true };

const versions = [
  { version: '7.2', skip: requireQemu(), qemu: {} },
  { version: '10.0', skip: requireQemu10(), qemu: qemu10() },
] as const;

for (const { version, skip, qemu } of versions) {
  describe(`between two live QEMUs ${version}`, { skip }, () => {
    test('xbzrle: pages sent as differences arrive whole', async () => {
      await using run = await scenario({
        qemu,
        settings: { capabilities: { ...returnPath, xbzrle: true }, parameters: ENDLESS },
        relays: [['--check']],
      });
      await run.startMigration();
      await until(
        async () => ((await run.source.migrationInfo())['xbzrle-cache']?.pages ?? 0) > 0,
        { what: 'pages to be sent as differences' },
      );
      await run.letFinish();
      await run.assertArrived();
    });

    test('auto-converge: a guest too busy to migrate is slowed down, and arrives', async () => {
      await using run = await scenario({
        qemu,
        settings: {
          capabilities: { ...returnPath, 'auto-converge': true },
          parameters: ENDLESS,
        },
      });
      await run.startMigration();
      await until(async () => ((await throttleOf(run)) ?? 0) > 0, {
        what: 'QEMU to throttle the guest',
      });
      await run.letFinish();
      await run.assertArrived();
    });

    test('validate-uuid: a destination of the same UUID takes the guest', async () => {
      await using run = await scenario({
        qemu: { ...qemu, extraArgs: ['-uuid', ONE] },
        settings: { capabilities: { ...returnPath, 'validate-uuid': true } },
      });
      await run.migrate();
      await run.assertArrived();
    });

    test('validate-uuid: one of another UUID refuses it, and it runs on', async () => {
      await using run = await scenario({
        qemu: { ...qemu, extraArgs: ['-uuid', ONE] },
        destination: { extraArgs: ['-uuid', OTHER] },
        settings: { capabilities: { ...returnPath, 'validate-uuid': true } },
      });
      await run.startMigration();
      assert.equal((await run.source.waitMigrationEnd()).status, 'failed');
      const [relay] = await run.relaysEnded();
      assert.equal(relay?.code, 4, relay?.stderr);
      assert.match(relay.stderr, /"to" .* failed after .*: look at its log/);
      await run.assertStayed();
    });

    test('background-snapshot: the file holds the moment at which it began', async (t) => {
      await using dir = makeTempDir();
      const file = dir.join('vm.mig');
      const guest = { ...qemu, firmware: firmware(BUSY_GUEST) };
      await using source = await startQemu(guest);
      await source.waitGuestReady();
      const refusal = await refusalOf(source, 'background-snapshot');
      if (refusal !== undefined) {
        assert.match(refusal, /Background-snapshot is not supported by host kernel/);
        assert.ok(!process.env.CI, `${refusal}; this test must not be skipped in CI`);
        t.skip(refusal);
        return;
      }
      const relay = new Command(['relay', `unix:${dir.join('socket')}`, file]);
      try {
        await relay.listening();
        const before = await source.counter();
        // So slow that the guest has time to write to what has not been sent yet.
        await source.startMigration(`unix:${dir.join('socket')}`, {
          capabilities: { 'background-snapshot': true },
          parameters: { 'max-bandwidth': 4 << 20 },
        });
        await until(async () => ((await source.migrationInfo()).ram?.transferred ?? 0) > 1 << 20, {
          what: 'a part of the memory to be saved',
        });
        const during = await source.counter();
        await source.waitCounterRises();
        assert.equal((await source.waitMigrationEnd()).status, 'completed');
        assert.equal(await source.status(), 'running', 'the guest was never taken away');
        await source.waitCounterRises();
        const { code, stderr } = await relay.ended();
        assert.equal(code, 0, stderr);

        await using restored = await startQemu({
          ...guest,
          startStopped: true,
          incoming: `exec:cat ${file}`,
        });
        await restored.waitIncomingEnd();
        const counter = await restored.counter();
        assert.ok(before <= counter && counter <= during, `${before}, ${counter}, ${during}`);
        assert.deepEqual(memoryProblems(await restored.readRam(), BUSY_GUEST), []);
        await restored.resume();
        await restored.waitCounterRises();
      } finally {
        await endCommand(relay);
      }
    });
  });
}

describe('between two live QEMUs 7.2', { skip: requireQemu() }, () => {
  test('multi-thread compression: the guest arrives whole', async () => {
    await using run = await scenario({
      settings: {
        capabilities: { ...returnPath, compress: true },
        parameters: { 'compress-level': 1 },
      },
      relays: [['--check']],
    });
    const info = await run.migrate();
    await run.assertArrived();
    assert.ok((info.compression?.pages ?? 0) > 0, 'pages were compressed');
  });
});

describe('QEMU 10.0, under TCG,', { skip: requireQemu10() }, () => {
  test('has no multi-thread compression, and dirty-limit only under KVM', async () => {
    await using qemu = await startQemu(qemu10());
    assert.match(
      (await refusalOf(qemu, 'compress')) ?? 'no refusal',
      /Parameter 'capability' does not accept value 'compress'/,
    );
    assert.match(
      (await refusalOf(qemu, 'dirty-limit')) ?? 'no refusal',
      /dirty-limit requires KVM with accelerator property 'dirty-ring-size' set/,
    );
  });
});

const ONE = '11111111-2222-3333-4444-555555555555';
const OTHER = '11111111-2222-3333-4444-666666666666';

/** Why QEMU does not switch a capability on; undefined if it does. */
async function refusalOf(qemu: Qemu, capability: string): Promise<string | undefined> {
  try {
    await qemu.setMigration({ capabilities: { [capability]: true } });
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** By how many per cent the source's processor is slowed down. */
async function throttleOf({ source }: Scenario): Promise<number | undefined> {
  return (await source.migrationInfo())['cpu-throttle-percentage'];
}

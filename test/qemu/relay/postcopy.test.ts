// Postcopy between two QEMUs, with the command in between: the guest runs at the destination while its
// memory is still on the way, and its requests for pages go back through the relay.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command } from '../../helpers/command/command.ts';
import { reportIn } from '../../helpers/command/relay-report.ts';
import { until } from '../../helpers/until.ts';
import { memoryProblems } from '../harness/guest.ts';
import { type MigrationSettings, type Qemu, requireQemu, startQemu } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import { endCommand, qemu10, type Scenario, scenario } from '../harness/scenario.ts';

interface Row {
  qemu: '7.2' | '10.0';
  /** With the channel on which pages that are asked for overtake the others. */
  preempt: boolean;
  /** The relay is killed in the middle, and another one takes its place. */
  isCut: boolean;
}

const ROWS: Row[] = [
  { qemu: '7.2', preempt: false, isCut: false },
  { qemu: '7.2', preempt: true, isCut: false },
  { qemu: '7.2', preempt: false, isCut: true },
  { qemu: '7.2', preempt: true, isCut: true },
  { qemu: '10.0', preempt: true, isCut: false },
  { qemu: '10.0', preempt: true, isCut: true },
];

/** So slow that there is always something left for postcopy. */
const PRECOPY_BANDWIDTH = 300_000;
/** So slow that there is time to cut it. */
const POSTCOPY_BANDWIDTH = 1_000_000;

/** The value for `skip`: whether the kernel lets a QEMU do postcopy. Throws where that must not be in CI. */
async function requirePostcopy(skip: string | false): Promise<string | false> {
  if (skip !== false) return skip;
  await using qemu = await startQemu({ incoming: 'defer' });
  try {
    await qemu.setMigration({ capabilities: { 'postcopy-ram': true } });
    return false;
  } catch (error) {
    const reason = `NO POSTCOPY IS TESTED: this kernel refuses it (userfaultfd): ${String(error)}`;
    if (process.env.CI) throw new Error(reason);
    process.stderr.write(`${reason}\n`);
    return reason;
  }
}

function settingsOf({ preempt, isCut }: Row): MigrationSettings {
  return {
    capabilities: { 'postcopy-ram': true, ...(preempt ? { 'postcopy-preempt': true } : {}) },
    parameters: {
      'max-bandwidth': PRECOPY_BANDWIDTH,
      ...(isCut ? { 'max-postcopy-bandwidth': POSTCOPY_BANDWIDTH } : {}),
    },
  };
}

async function waitStatus(qemu: Qemu, ...wanted: string[]): Promise<void> {
  await until(
    async () => {
      const { status = '', 'error-desc': reason } = await qemu.migrationInfo();
      assert.notEqual(status, 'failed', reason);
      return wanted.includes(status);
    },
    { what: `the migration to be ${wanted.join(' or ')}` },
  );
}

/** Has the guest go on at the destination, while most of its memory is at the source. */
async function goPostcopy({ source, destination }: Scenario): Promise<void> {
  await until(async () => ((await source.migrationInfo()).ram?.transferred ?? 0) > 100_000, {
    what: 'precopy to have begun',
  });
  await source.qmp.execute('migrate-start-postcopy');
  // Without a limit, postcopy can be over before the next look.
  await waitStatus(destination, 'postcopy-active', 'completed');
}

/** Cut the connection, and let both QEMUs continue through a new relay; return the relay. */
async function recover(run: Scenario, uri: (name: string) => string, args: readonly string[]) {
  const { source, destination } = run;
  // A guest that waits for a page in the middle of an interrupt has its QEMU's monitor wait, too, until it is
  // recovered: so let it have the pages of its interrupts before.
  await destination.waitCounterRises();
  await endCommand(run.relay);
  for (const qemu of [source, destination]) await waitStatus(qemu, 'postcopy-paused');
  await source.qmp.execute('migrate-set-parameters', { 'max-postcopy-bandwidth': 0 });
  await destination.qmp.execute('migrate-recover', { uri: uri('recover') });
  const relay = new Command(['relay', uri('again'), uri('recover'), ...args]);
  await relay.listening();
  await source.qmp.execute('migrate', { uri: uri('again'), resume: true });
  return relay;
}

const skips = {
  '7.2': await requirePostcopy(requireQemu()),
  '10.0': await requirePostcopy(requireQemu10()),
};

describe('postcopy', { timeout: 300_000 }, () => {
  for (const row of ROWS) {
    const { qemu, preempt, isCut } = row;
    const channels = preempt ? ', with the channel of preemption' : '';
    const cut = isCut ? ', resumed through a new relay after it was cut' : '';
    test(`QEMU ${qemu}${channels}${cut}`, { skip: skips[qemu] }, async () => {
      const args = preempt ? ['--channels', '2', '--json'] : ['--json'];
      await using dir = makeTempDir();
      await using run = await scenario({
        qemu: qemu === '10.0' ? qemu10() : {},
        settings: settingsOf(row),
        destination: { startStopped: false },
        relays: [args],
      });
      const { source, destination } = run;
      await run.startMigration();
      await goPostcopy(run);
      await destination.waitRunning();
      let relay = run.relay;
      if (isCut) relay = await recover(run, (name) => `unix:${dir.join(name)}`, args);
      try {
        const { status, ram } = await source.waitMigrationEnd();
        assert.equal(status, 'completed');
        assert.ok((ram?.['postcopy-bytes'] ?? 0) > 0, 'memory moved after the guest');
        await destination.waitIncomingEnd();
        const { code, stdout, stderr } = await relay.ended();
        assert.equal(code, 0, stderr);
        const result = reportIn(stdout);
        assert.ok((result.return?.bytes ?? 0) > 0, 'requests went back');
        if (preempt) assert.equal(result.channels?.length, 2);
        await destination.waitCounterRises();
        await destination.pause();
        assert.deepEqual(memoryProblems(await destination.readRam(), run.program), []);
      } finally {
        await endCommand(relay);
      }
    });
  }
});

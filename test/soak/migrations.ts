// Migrations between two live QEMUs through the command, of a random kind, with a random mishap.
import assert from 'node:assert/strict';
import type { Command } from '../helpers/command/command.ts';
import { below, type Chance, oneOf } from '../helpers/streams/mutate.ts';
import { until } from '../helpers/until.ts';
import type { GuestProgram } from '../qemu/harness/guest.ts';
import { memoryProblems } from '../qemu/harness/guest.ts';
import type { MigrationSettings } from '../qemu/harness/harness.ts';
import { findQemu10 } from '../qemu/harness/qemu10.ts';
import { qemu10, type Scenario, type ScenarioOptions, scenario } from '../qemu/harness/scenario.ts';
import { attempt, type Outcome } from './outcome.ts';

const MIB = 1 << 20;

/** A mishap after a number of bytes. */
const MISHAPS = [
  'none',
  'none',
  'none',
  'cancel at the source',
  'SIGTERM to the relay',
  'SIGKILL to the relay',
  'SIGKILL to the source',
  'SIGKILL to the destination',
] as const;

type Mishap = (typeof MISHAPS)[number];

interface Plan {
  options: ScenarioOptions;
  postcopy: boolean;
  mishap: Mishap;
  /** Bytes sent by then. */
  at: number;
}

/** Runs one migration and asserts that the guest is where it must be, unharmed. */
export async function randomMigration(chance: Chance): Promise<Outcome> {
  const plan = planOf(chance);
  const { options } = plan;
  const what = JSON.stringify({ ...plan, options: { ...options, qemu: undefined } });
  return attempt(what, () => carryOut(plan));
}

function planOf(chance: Chance): Plan {
  const isNew = findQemu10() !== undefined && below(3, chance) === 0;
  // Slow enough, in MiB/s, that a mishap can hit it.
  const bandwidth = 4 + below(61, chance);
  const limit = below(3, chance) === 0 ? 4 + below(61, chance) : undefined;
  const pattern = 1 + below(8, chance);
  const program: GuestProgram = {
    patternBytes: pattern * MIB,
    wordsPerPage: oneOf([2, 64, 1024], chance),
    dirtyBytes: dirtied(pattern, Math.min(bandwidth, limit ?? bandwidth), chance),
  };
  const capabilities: Record<string, boolean> = { 'return-path': below(2, chance) === 0 };
  const parameters: Record<string, number | string> = {};
  const relay: string[] = [];
  let postcopy = false;
  switch (oneOf(['plain', 'xbzrle', 'auto-converge', 'compress', 'multifd', 'postcopy'], chance)) {
    case 'xbzrle':
      capabilities.xbzrle = true;
      break;
    case 'auto-converge':
      capabilities['auto-converge'] = true;
      break;
    case 'compress':
      if (!isNew) capabilities.compress = true;
      break;
    case 'multifd':
      capabilities.multifd = true;
      parameters['multifd-channels'] = 1 + below(8, chance);
      parameters['multifd-compression'] = oneOf(['none', 'zlib', 'zstd'], chance);
      relay.push('--channels', '9');
      break;
    case 'postcopy':
      postcopy = true;
      capabilities['postcopy-ram'] = true;
      if (below(2, chance) === 0) {
        capabilities['postcopy-preempt'] = true;
        relay.push('--channels', '2');
      }
      break;
  }
  const settings: MigrationSettings = { capabilities, parameters };
  if (!relay.includes('--channels') && below(2, chance) === 0) relay.push('--check');
  if (limit !== undefined) relay.push('--max-bandwidth', `${limit}MiB`);
  if (below(3, chance) === 0) relay.push('--digest');
  parameters['max-bandwidth'] = bandwidth * MIB;
  return {
    options: {
      program,
      settings,
      transport: oneOf(['unix', 'tcp'], chance),
      relays: below(4, chance) === 0 ? [relay, relay] : [relay],
      ...(isNew ? { qemu: qemu10() } : {}),
    },
    postcopy,
    mishap: oneOf(MISHAPS, chance),
    at: below(6 * MIB, chance),
  };
}

/**
 * Return how much memory a guest keeps writing to: no more than QEMU can send within its downtime, or the
 * migration would not converge.
 *
 * @param bandwidth - In MiB/s.
 */
export function dirtied(patternMiB: number, bandwidth: number, chance: Chance): number {
  const most = Math.min(patternMiB, Math.floor(bandwidth / 4));
  return below(most + 1, chance) * MIB;
}

async function carryOut(plan: Plan): Promise<string> {
  await using run = await scenario(plan.options);
  await run.startMigration();
  const happened = await strike(run, plan);
  if (!happened && plan.postcopy) await switchToPostcopy(run);
  if (plan.mishap === 'SIGKILL to the source' && happened) return await withoutSource(run);
  const info = await run.source.waitMigrationEnd();
  if (info.status === 'completed') return await arrived(run, plan, happened);
  assert.ok(happened, `the migration ended as ${info.status}: ${info['error-desc']}`);
  await run.assertStayed();
  await until(() => isAtItsEnd(run.relay), { what: 'the relay to be through' });
  // An early end on a unix socket looks like any end to a relay without a check.
  const isChecked = plan.options.relays?.[0]?.includes('--check') === true;
  // A migration cancelled after its last byte has arrived: QEMU leaves the guest at both ends then.
  if (isChecked && run.relay.child.exitCode === 0) await run.destination.waitIncomingEnd();
  return `${plan.mishap}: the guest stayed`;
}

/** Waits until enough has been sent, and lets the mishap happen; false if all was over before. */
async function strike(run: Scenario, { mishap, at }: Plan): Promise<boolean> {
  if (mishap === 'none') return false;
  const status = await until(
    async () => {
      const info = await run.source.migrationInfo();
      if (['completed', 'failed', 'cancelled'].includes(info.status ?? '')) return info.status;
      return (info.ram?.transferred ?? 0) >= at && 'there';
    },
    { what: `${at} bytes to be sent`, deadlineMs: 60_000 },
  );
  if (status !== 'there') return false;
  const [relay] = run.relays;
  switch (mishap) {
    case 'cancel at the source':
      await run.source.qmp.execute('migrate_cancel');
      break;
    case 'SIGTERM to the relay':
      relay?.child.kill('SIGTERM');
      break;
    case 'SIGKILL to the relay':
      relay?.child.kill('SIGKILL');
      break;
    case 'SIGKILL to the source':
      process.kill(run.source.pid, 'SIGKILL');
      break;
    case 'SIGKILL to the destination':
      process.kill(run.destination.pid, 'SIGKILL');
      break;
  }
  return true;
}

async function switchToPostcopy(run: Scenario): Promise<void> {
  // It may be over by now; then it is too late for that.
  await run.source.qmp.execute('migrate-start-postcopy').catch(() => {});
}

/** The source says that the guest has gone. */
async function arrived(run: Scenario, { mishap }: Plan, happened: boolean): Promise<string> {
  if (!happened || mishap === 'cancel at the source') {
    await run.assertArrived();
    return happened ? `${mishap}: too late` : 'arrived';
  }
  // It struck after the last byte: a source without an answer cannot know, and its guest is still there.
  assert.equal(await run.source.status(), 'postmigrate');
  await run.source.resume();
  await run.assertStayed();
  return `${mishap}: after the last byte`;
}

/** A destination whose source was killed has all of the guest or does not run it. */
async function withoutSource(run: Scenario): Promise<string> {
  await until(() => run.relays.every(isAtItsEnd), { what: 'the relays to be through' });
  const status = await run.destination
    .waitStatus(['paused', 'running', 'inmigrate'])
    // QEMU 7.2 ends with an incoming migration that fails.
    .catch(() => 'gone');
  if (status === 'gone') return 'SIGKILL to the source: no half a guest';
  const info = await run.destination.waitMigrationEnd().catch(() => undefined);
  if (info?.status !== 'completed') return 'SIGKILL to the source: no half a guest';
  await run.destination.pause();
  assert.deepEqual(memoryProblems(await run.destination.readRam(), run.program), []);
  return 'SIGKILL to the source: after the last byte';
}

/** One to which nothing has come goes on listening. */
function isAtItsEnd({ child, stderr }: Command): boolean {
  const hasEnded = child.exitCode !== null || child.signalCode !== null;
  return hasEnded || stderr.includes('rejected a connection');
}

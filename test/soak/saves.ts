// A guest saved by the command and restored in another QEMU, with a random mishap on the way.
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { Command, run } from '../helpers/command/command.ts';
import { below, type Chance, oneOf } from '../helpers/streams/mutate.ts';
import { until } from '../helpers/until.ts';
import { firmware, type GuestProgram, memoryProblems } from '../qemu/harness/guest.ts';
import { type Qemu, startQemu } from '../qemu/harness/harness.ts';
import { findQemu10 } from '../qemu/harness/qemu10.ts';
import { dirtied } from './migrations.ts';
import { attempt, type Outcome } from './outcome.ts';

const MIB = 1 << 20;

const MISHAPS = [
  'none',
  'none',
  'SIGINT to the command',
  'SIGKILL to the command',
  'SIGKILL to QEMU',
  'cancelled by another',
] as const;

interface Plan {
  program: GuestProgram;
  binary: string | undefined;
  returnPath: boolean;
  args: string[];
  mishap: (typeof MISHAPS)[number];
  /** Bytes that QEMU has sent by then. */
  at: number;
}

/** Saves a guest and asserts that it is in the file or goes on, and never half of it. */
export async function randomSave(chance: Chance): Promise<Outcome> {
  const pattern = 1 + below(8, chance);
  const limit = below(3, chance) === 0 ? 4 + below(60, chance) : undefined;
  const plan: Plan = {
    program: { patternBytes: pattern * MIB, dirtyBytes: dirtied(pattern, limit ?? 64, chance) },
    binary: below(2, chance) === 0 ? undefined : findQemu10(),
    returnPath: below(2, chance) === 0,
    args: [],
    mishap: oneOf(MISHAPS, chance),
    at: below(pattern * MIB, chance),
  };
  if (below(2, chance) === 0) plan.args.push('--compress', oneOf(['gzip', 'zstd'], chance));
  if (limit !== undefined) plan.args.push('--max-bandwidth', `${limit}MiB`);
  return attempt(JSON.stringify(plan), () => carryOut(plan));
}

async function carryOut(plan: Plan): Promise<string> {
  const { mishap, args } = plan;
  await using dir = makeTempDir();
  await using source = await start(dir, plan, 'source');
  await source.waitGuestReady();
  await source.setMigration({ capabilities: { 'return-path': plan.returnPath } });
  const path = dir.join('vm.mig');
  const command = ['save', '--qmp', dir.join('source.qmp'), path, ...args];
  const save = new Command(command);
  const happened = await strike(source, save, plan);
  const { code, stderr } = await save.ended();
  let how = happened ? `${mishap}: too late` : 'restored';
  if (code !== 0 && existsSync(path)) {
    // QEMU ended, or was cancelled, while it waited for the message that its guest is safe: the file is complete.
    assert.ok(['SIGKILL to QEMU', 'cancelled by another'].includes(mishap), stderr);
    how = `${mishap}: the guest was safe`;
  } else if (code !== 0) {
    assert.ok(happened, stderr);
    if (mishap === 'SIGKILL to QEMU') return `${mishap}: no file`;
    await source.waitRunning();
    await source.waitCounterRises();
    // QEMU notices a moment after a command that was killed is gone.
    await source.waitMigrationEnd();
    const again = await run(command);
    assert.equal(again.code, 0, again.stderr);
    how = `${mishap}: the guest ran on, and was saved then`;
  }
  const partial = readdirSync(dir.path).filter((name) => name.includes('partial'));
  assert.deepEqual(partial, [], 'no part of a file is left');
  await using target = await start(dir, plan, 'target', 'defer');
  const restored = await run(['restore', '--qmp', dir.join('target.qmp'), path]);
  assert.equal(restored.code, 0, restored.stderr);
  await target.waitRunning();
  await target.waitCounterRises();
  await target.pause();
  assert.deepEqual(memoryProblems(await target.readRam(), plan.program), []);
  return how;
}

function start(dir: TempDir, plan: Plan, name: string, incoming?: string): Promise<Qemu> {
  return startQemu({
    firmware: firmware(plan.program),
    extraArgs: ['-qmp', `unix:${dir.join(`${name}.qmp`)},server=on,wait=off`],
    ...(plan.binary === undefined ? {} : { binary: plan.binary }),
    ...(incoming === undefined ? {} : { incoming }),
  });
}

/** Waits until enough has been sent, and lets the mishap happen; false if all was over before. */
async function strike(source: Qemu, save: Command, { mishap, at }: Plan): Promise<boolean> {
  if (mishap === 'none') return false;
  let isOver = false;
  void save.ended().then(
    () => {
      isOver = true;
    },
    () => {},
  );
  const hasCome = await until(
    async () => {
      if (isOver) return 'over';
      return ((await source.migrationInfo()).ram?.transferred ?? 0) >= at && 'there';
    },
    { what: `${at} bytes to be sent`, deadlineMs: 60_000 },
  );
  if (hasCome === 'over') return false;
  switch (mishap) {
    case 'SIGINT to the command':
      save.child.kill('SIGINT');
      break;
    case 'SIGKILL to the command':
      save.child.kill('SIGKILL');
      break;
    case 'SIGKILL to QEMU':
      process.kill(source.pid, 'SIGKILL');
      break;
    case 'cancelled by another':
      await source.qmp.execute('migrate_cancel');
      break;
  }
  return true;
}

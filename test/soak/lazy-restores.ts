// A saved guest restored lazily, from a file, an index or a store, with sources that die on the way.
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
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

const FORMS = ['file', 'index', 'mapped-ram', 'store'] as const;
const MISHAPS = ['none', 'SIGKILL to the command', 'SIGKILL to QEMU'] as const;

/** Milliseconds, many times what QEMU takes to notice the death of its source. */
const STUCK_MS = 20_000;

interface Plan {
  program: GuestProgram;
  binary: string | undefined;
  form: (typeof FORMS)[number];
  args: string[];
  mishap: (typeof MISHAPS)[number];
  /** Number of sources that die, for the first mishap. */
  deaths: number;
  /** Milliseconds from the start of postcopy to the mishap. */
  afterMs: number;
}

/** Restore a guest lazily and assert that its memory is right, however many sources died. */
export async function randomLazyRestore(chance: Chance): Promise<Outcome> {
  const pattern = 1 + below(8, chance);
  const limit = 2 + below(30, chance);
  const plan: Plan = {
    program: { patternBytes: pattern * MIB, dirtyBytes: dirtied(pattern, 64, chance) },
    binary: below(2, chance) === 0 ? undefined : findQemu10(),
    form: oneOf(FORMS, chance),
    args: ['--max-bandwidth', `${limit}MiB`],
    mishap: oneOf(MISHAPS, chance),
    deaths: 1 + below(3, chance),
    afterMs: below(Math.ceil((1000 * pattern) / limit), chance),
  };
  if (below(3, chance) === 0) plan.args.push('--preempt');
  return attempt(JSON.stringify(plan), () => carryOut(plan));
}

async function carryOut(plan: Plan): Promise<string> {
  await using dir = makeTempDir();
  const from = await save(dir, plan);
  await using target = await start(dir, plan, 'target', 'defer');
  const restore = ['restore', '--lazy', '--qmp', dir.join('target.qmp'), from, ...plan.args];
  let happened = 0;
  let next = restore;
  for (;;) {
    const isLast = plan.mishap === 'none' || happened >= plan.deaths;
    const seen = target.qmp.events.length;
    const command = new Command(next);
    const hasStruck = !isLast && (await strike(target, command, seen, plan));
    const { code, stderr } = await command.ended();
    if (!hasStruck) {
      if (next !== restore && isOutOfReach(stderr)) {
        process.kill(target.pid, 'SIGKILL');
        await startAnew(dir, plan, restore);
        return `${plan.mishap}: QEMU waited for a page, restored by another QEMU`;
      }
      assert.equal(code, 0, stderr);
      break;
    }
    happened += 1;
    if (plan.mishap === 'SIGKILL to QEMU') {
      if (code === 0) return `${plan.mishap}: too late`;
      return await startAnew(dir, plan, restore);
    }
    const state = await stateOf(target, seen, plan);
    if (state === 'completed') break;
    if (state === 'lost') {
      process.kill(target.pid, 'SIGKILL');
      await startAnew(dir, plan, restore);
      return `${plan.mishap}: QEMU 7.2 does not leave postcopy-recover, restored by another QEMU`;
    }
    if (state === 'gone') return await startAnew(dir, plan, restore);
    next = [...restore, '--recover'];
  }
  await assertSound(target, plan);
  return happened === 0 ? 'restored' : `${plan.mishap}: recovered`;
}

/**
 * Return whether QEMU accepts no commands on a new connection, because the processor waits for a page while it
 * holds QEMU's lock: under TCG it does so where an interrupt begins.
 */
function isOutOfReach(stderr: string): boolean {
  return /ETIMEDOUT: qmp_capabilities/.test(stderr);
}

/** A QEMU that has lost its guest is replaced, and the guest is restored from the start. */
async function startAnew(dir: TempDir, plan: Plan, restore: readonly string[]): Promise<string> {
  await using target = await start(dir, plan, 'again', 'defer');
  const again = restore.map((word) => word.replace(dir.join('target.qmp'), dir.join('again.qmp')));
  const { code, stderr } = await run(again);
  assert.equal(code, 0, stderr);
  await assertSound(target, plan);
  return `${plan.mishap}: restored by another QEMU`;
}

async function save(dir: TempDir, plan: Plan): Promise<string> {
  await using source = await start(dir, plan, 'source');
  await source.waitGuestReady();
  const isStore = plan.form === 'store';
  const to = isStore ? `store:${dir.join('store')}#guest` : dir.join('vm.mig');
  const options = plan.form === 'index' ? ['--index'] : [];
  const saved = await run(['save', '--qmp', dir.join('source.qmp'), to, ...options]);
  assert.equal(saved.code, 0, saved.stderr);
  if (plan.form !== 'mapped-ram') return to;
  const mapped = dir.join('mapped.mig');
  const converted = await run(['convert', to, mapped, '--layout', 'mapped-ram']);
  assert.equal(converted.code, 0, converted.stderr);
  return mapped;
}

function start(dir: TempDir, plan: Plan, name: string, incoming?: string): Promise<Qemu> {
  return startQemu({
    firmware: firmware(plan.program),
    machine: 'pc',
    extraArgs: ['-qmp', `unix:${dir.join(`${name}.qmp`)},server=on,wait=off`],
    ...(plan.binary === undefined ? {} : { binary: plan.binary }),
    ...(incoming === undefined ? {} : { incoming }),
  });
}

/** Let the mishap happen some time after the start of postcopy; return false if the restore was over before. */
async function strike(
  target: Qemu,
  command: Command,
  seen: number,
  { mishap, afterMs }: Plan,
): Promise<boolean> {
  let isOver = false;
  void command.ended().then(
    () => {
      isOver = true;
    },
    () => {},
  );
  await until(() => isOver || statuses(target, seen).some(isPostcopy), {
    what: 'postcopy to begin',
    deadlineMs: 60_000,
  });
  await delay(afterMs);
  if (isOver) return false;
  if (mishap === 'SIGKILL to QEMU') process.kill(target.pid, 'SIGKILL');
  else command.child.kill('SIGKILL');
  return true;
}

/**
 * Return what became of a QEMU whose source died; `gone` if it ended. QEMU 7.2 can be `lost`: it was seen to stay in
 * `postcopy-recover` after its new source died there.
 */
async function stateOf(
  target: Qemu,
  seen: number,
  { binary }: Plan,
): Promise<'paused' | 'completed' | 'gone' | 'lost'> {
  const since = performance.now();
  let isGone = false;
  // QEMU answers nothing while its main thread waits for a page, but the call fails when QEMU ends.
  target.qmp.execute('query-status').catch(() => {
    isGone = true;
  });
  return until(
    () => {
      const last = statuses(target, seen).at(-1);
      if (isGone || last === 'failed') return 'gone';
      if (last === 'postcopy-paused') return 'paused';
      const isStuck = binary === undefined && performance.now() - since > STUCK_MS;
      if (last === 'postcopy-recover' && isStuck) return 'lost';
      return last === 'completed' && 'completed';
    },
    { what: 'QEMU to notice that its source died', deadlineMs: 60_000 },
  );
}

function statuses(target: Qemu, seen: number): unknown[] {
  return target.qmp.events
    .slice(seen)
    .filter(({ event }) => event === 'MIGRATION')
    .map(({ data }) => data.status);
}

function isPostcopy(status: unknown): boolean {
  return status === 'postcopy-active' || status === 'postcopy-recover' || status === 'completed';
}

async function assertSound(target: Qemu, { program }: Plan): Promise<void> {
  await target.waitRunning();
  await target.waitCounterRises();
  await target.pause();
  assert.deepEqual(memoryProblems(await target.readRam(), program), []);
}

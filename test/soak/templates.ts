// A template of a guest and clones of it, with a file that is damaged or a process that is killed on the way.
import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, statSync, truncateSync, writeSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { Command, run, runWell } from '../helpers/command/command.ts';
import { below, type Chance, oneOf } from '../helpers/streams/mutate.ts';
import { until } from '../helpers/until.ts';
import { firmware, type GuestProgram, memoryProblems } from '../qemu/harness/guest.ts';
import { type Qemu, type QemuOptions, startQemu } from '../qemu/harness/harness.ts';
import { findQemu10 } from '../qemu/harness/qemu10.ts';
import { dirtied } from './migrations.ts';
import { attempt, type Outcome } from './outcome.ts';

const MIB = 1 << 20;

const FORMS = ['file', 'mapped-ram', 'store', 'live'] as const;
const MISHAPS = [
  'none',
  'a changed byte',
  'a file cut off',
  'SIGKILL to a clone',
  'SIGKILL to the command',
] as const;

interface Plan {
  program: GuestProgram;
  binary: string | undefined;
  form: (typeof FORMS)[number];
  clones: number;
  mishap: (typeof MISHAPS)[number];
  /** Which of the files is damaged, and where: both between 0 and 1. */
  file: number;
  at: number;
  /** Milliseconds from QEMU's first event to the death of the command. */
  afterMs: number;
}

interface Template {
  path: string;
  arguments: string[];
  files: string[];
}

interface Clone {
  qemu: Qemu;
  monitor: string;
}

/** Make a template and clones of it, and assert that each clone is sound and no damage unnoticed. */
export async function randomTemplate(chance: Chance): Promise<Outcome> {
  const pattern = 1 + below(8, chance);
  const plan: Plan = {
    program: { patternBytes: pattern * MIB, dirtyBytes: dirtied(pattern, 64, chance) },
    binary: below(2, chance) === 0 ? undefined : findQemu10(),
    form: oneOf(FORMS, chance),
    clones: 1 + below(3, chance),
    mishap: oneOf(MISHAPS, chance),
    file: chance(),
    at: chance(),
    afterMs: below(30, chance),
  };
  return attempt(JSON.stringify(plan), () => carryOut(plan));
}

async function carryOut(plan: Plan): Promise<string> {
  await using dir = makeTempDir();
  const template = await make(dir, plan);
  if (plan.mishap === 'a changed byte' || plan.mishap === 'a file cut off') {
    return await refuseDamaged(dir, plan, template);
  }
  const clones: Clone[] = [];
  try {
    for (let at = 0; at < plan.clones; at++) {
      const clone = await startClone(dir, plan, template, `clone-${at}`);
      clones.push(clone);
      await restore(clone, template, at === 0);
    }
    let how = 'cloned';
    if (plan.mishap === 'SIGKILL to a clone') {
      const killed = clones.pop();
      assert.ok(killed);
      process.kill(killed.qemu.pid, 'SIGKILL');
      await killed.qemu.stop();
      how = `${plan.mishap}: the others go on`;
    } else if (plan.mishap === 'SIGKILL to the command') {
      const clone = await startClone(dir, plan, template, 'victim');
      clones.push(clone);
      how = `${plan.mishap}: ${await killCommand(clone, template, plan)}`;
      if (!how.endsWith('the clone runs')) await clones.pop()?.qemu.stop();
    }
    const last = await startClone(dir, plan, template, 'last');
    clones.push(last);
    await restore(last, template, true);
    for (const clone of clones) await assertSound(clone, plan);
    // No clone has written to the template.
    const verified = await startClone(dir, plan, template, 'verified');
    clones.push(verified);
    await restore(verified, template, true);
    return how;
  } finally {
    for (const { qemu } of clones) await qemu.stop();
  }
}

async function make(dir: TempDir, plan: Plan): Promise<Template> {
  await using source = await start(dir, plan, 'source');
  await source.waitGuestReady();
  const path = dir.join('golden');
  const command = (from: string): Command => new Command(['template', from, path, '--json']);
  let making: Command;
  if (plan.form === 'live') {
    const socket = `unix:${dir.join('live')}`;
    making = command(socket);
    await making.listening();
    await source.migrate(socket, { parameters: { 'max-bandwidth': 2 ** 40 } });
  } else {
    const to = plan.form === 'store' ? `store:${dir.join('store')}#guest` : dir.join('vm.mig');
    await runWell('save', '--qmp', dir.join('source.qmp'), to);
    const mapped = dir.join('mapped.mig');
    if (plan.form === 'mapped-ram') await runWell('convert', to, mapped, '--layout', plan.form);
    making = command(plan.form === 'mapped-ram' ? mapped : to);
  }
  const { code, stdout, stderr } = await making.ended();
  assert.equal(code, 0, stderr);
  const made = JSON.parse(stdout.toString()) as { arguments: string[]; blocks: { name: string }[] };
  const files = made.blocks.map(({ name }) => `${path}/ram/${name}`);
  return { path, arguments: made.arguments, files: [...files, `${path}/state.mig`] };
}

async function startClone(
  dir: TempDir,
  plan: Plan,
  template: Template,
  name: string,
): Promise<Clone> {
  const options = { incoming: 'defer', extraArgs: template.arguments };
  return { qemu: await start(dir, plan, name, options), monitor: dir.join(`${name}.qmp`) };
}

function start(
  dir: TempDir,
  { program, binary }: Plan,
  name: string,
  { extraArgs = [], ...options }: QemuOptions = {},
): Promise<Qemu> {
  return startQemu({
    firmware: firmware(program),
    extraArgs: ['-qmp', `unix:${dir.join(`${name}.qmp`)},server=on,wait=off`, ...extraArgs],
    ...(binary === undefined ? {} : { binary }),
    ...options,
  });
}

async function restore({ monitor }: Clone, { path }: Template, mustRead: boolean): Promise<void> {
  await runWell('restore', '--qmp', monitor, path, ...(mustRead ? ['--verify'] : []));
}

/** Damage a file of the template; the next clone is refused, and its QEMU still waits. */
async function refuseDamaged(dir: TempDir, plan: Plan, template: Template): Promise<string> {
  const path = template.files[Math.floor(plan.file * template.files.length)] ?? '';
  const { size } = statSync(path);
  const at = Math.floor(plan.at * size);
  if (plan.mishap === 'a file cut off') truncateSync(path, at);
  else {
    const fd = openSync(path, 'r+');
    const byte = Buffer.alloc(1);
    readSync(fd, byte, 0, 1, at);
    byte.writeUInt8(byte.readUInt8() ^ 0x40);
    writeSync(fd, byte, 0, 1, at);
    closeSync(fd);
  }
  // A clone that is started now cannot map all of a file that was cut off.
  const started = await startClone(dir, plan, template, 'refused').catch((error: unknown) => {
    assert.match(String(error), /size|backing store/);
  });
  if (started === undefined) return `${plan.mishap}: QEMU refused it`;
  await using qemu = started.qemu;
  const { code, stderr } = await run([
    ...['restore', '--qmp', started.monitor, template.path, '--verify'],
  ]);
  assert.equal(code, 4, stderr);
  assert.match(stderr, /EBADMSG: .*was changed after the template was made/);
  assert.equal(await qemu.status(), 'inmigrate');
  return `${plan.mishap}: refused`;
}

/** Kill the command that gives a clone its state. */
async function killCommand(clone: Clone, { path }: Template, { afterMs }: Plan): Promise<string> {
  const command = new Command(['restore', '--qmp', clone.monitor, path]);
  await until(() => clone.qemu.qmp.events.length > 0 || command.child.exitCode !== null, {
    what: 'QEMU to load',
    deadlineMs: 60_000,
  });
  await delay(afterMs);
  command.child.kill('SIGKILL');
  await command.ended();
  const isRunning = await clone.qemu.waitRunning(1000).then(
    () => true,
    () => false,
  );
  return isRunning ? 'the clone runs' : 'no clone';
}

async function assertSound({ qemu }: Clone, { program }: Plan): Promise<void> {
  await qemu.waitRunning();
  await qemu.waitCounterRises();
  await qemu.pause();
  assert.deepEqual(memoryProblems(await qemu.readRam(), program), []);
}

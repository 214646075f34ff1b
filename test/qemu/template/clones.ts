// What the tests of templates share: the guest, its clones, the output of the command.
import assert from 'node:assert/strict';
import type { TempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { jsonIn } from '../../helpers/command/reading-command.ts';
import { firmware, memoryProblems } from '../harness/guest.ts';
import { type Qemu, type QemuOptions, startQemu } from '../harness/harness.ts';
import { BUSY_GUEST } from '../harness/scenario.ts';

/** Size of the guest's memory. */
export const CLONE_MEMORY_MIB = 64;
const image = firmware(BUSY_GUEST);

/** What the command prints with `--json`. */
export interface Made {
  directory: string;
  machine: string;
  qemuVersion: string | null;
  blocks: { name: string; id: string; bytes: number; sha256: string }[];
  arguments: string[];
  notes: string[];
}

/** Run `qemu-file template`, which must succeed. */
export async function makeTemplate(from: string, directory: string): Promise<Made> {
  const ended = await run(['template', from, directory, '--json']);
  assert.equal(ended.code, 0, ended.stderr);
  return jsonIn(ended) as unknown as Made;
}

/** Start the guest of which templates are made. */
export async function startGolden(options: QemuOptions): Promise<Qemu> {
  const qemu = await startQemu({ firmware: image, memoryMiB: CLONE_MEMORY_MIB, ...options });
  await qemu.waitGuestReady();
  return qemu;
}

/** A QEMU for a clone, with a monitor for the command. */
export interface Clone {
  readonly qemu: Qemu;
  /** Path of the monitor. */
  readonly qmp: string;
}

/** Start a QEMU that waits for the state of a clone. */
export async function startClone(
  dir: TempDir,
  name: string,
  options: QemuOptions,
  args: readonly string[],
): Promise<Clone> {
  const qmp = dir.join(`${name}.qmp`);
  const qemu = await startQemu({
    firmware: image,
    memoryMiB: CLONE_MEMORY_MIB,
    ...options,
    startStopped: true,
    incoming: 'defer',
    // QEMU merges both -machine; the later -m takes precedence.
    extraArgs: [
      ...(options.extraArgs ?? []),
      ...['-qmp', `unix:${qmp},server=on,wait=off`],
      ...args,
    ],
  });
  return { qemu, qmp };
}

/** Assert that a clone runs, and that every word of its memory is right; it is stopped meanwhile. */
export async function assertCloneSound({ qemu }: Clone): Promise<void> {
  await qemu.resume();
  await qemu.waitCounterRises();
  await qemu.pause();
  assert.deepEqual(memoryProblems(await qemu.readRam(), BUSY_GUEST), []);
}

// Clones of one golden guest: restored, at work, saved into a snapshot store, killed, restored elsewhere.
import { copyFileSync } from 'node:fs';
import type { SnapshotInfo, SnapshotStore } from '../../../lib/snapshot/index.ts';
import {
  type LazyRestoreResult,
  QmpClient,
  restoreLazily,
  restoreTemplate,
  saveVm,
  type Template,
} from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { firmware, type GuestProgram } from '../harness/guest.ts';
import { type Qemu, startQemu } from '../harness/harness.ts';

/** Name of the golden guest's snapshot. */
export const GOLDEN = 'golden';

const MACHINE = 'microvm,acpi=off,rtc=off,isa-serial=off,x-option-roms=off,auto-kernel-cmdline=off';
const DISK_BYTES = 65_536;

/** What all guests of a fleet have in common. */
export interface FleetOptions {
  readonly program: GuestProgram;
  readonly memoryMiB: number;
  /** File with which the memory of the golden guest begins; it is not changed. Default: zeros. */
  readonly memoryFile?: string | undefined;
}

/** A guest in a QEMU, with a disk of its own. */
export interface FleetGuest extends AsyncDisposable {
  readonly qemu: Qemu;
  readonly qmp: QmpClient;
  /** Path of its disk. */
  readonly disk: string;
}

/** Return the arguments of a machine with its memory; `isIncoming` for one that waits for a guest. */
function memoryArguments({ memoryMiB, memoryFile }: FleetOptions, isIncoming: boolean): string[] {
  const size = `size=${memoryMiB}M`;
  const memory =
    isIncoming || memoryFile === undefined
      ? `memory-backend-ram,id=ram,${size}`
      : `memory-backend-file,id=ram,${size},mem-path=${memoryFile},share=off`;
  return ['-object', memory, '-machine', 'memory-backend=ram'];
}

/** Start a QEMU with a disk; with `isIncoming` it waits for a guest. */
async function start(
  { program, memoryMiB }: FleetOptions,
  disk: string,
  isIncoming: boolean,
  memory: readonly string[],
): Promise<FleetGuest> {
  const dir: TempDir = makeTempDir();
  const monitor = dir.join('qmp');
  const qemu = await startQemu({
    machine: MACHINE,
    firmware: firmware(program),
    memoryMiB,
    ...(isIncoming && { incoming: 'defer' }),
    extraArgs: [
      ...memory,
      ...['-qmp', `unix:${monitor},server=on,wait=off`],
      ...['-drive', `if=none,id=disk,format=raw,file=${disk}`],
      ...['-device', 'virtio-blk-device,drive=disk'],
    ],
  });
  const qmp = await QmpClient.connect(monitor);
  return {
    qemu,
    qmp,
    disk,
    [Symbol.asyncDispose]: async () => {
      await qmp.close();
      await qemu.stop();
      dir.remove();
    },
  };
}

/** Boot the golden guest, and save it. */
export async function makeGolden(
  options: FleetOptions,
  disk: string,
  store: SnapshotStore,
): Promise<SnapshotInfo> {
  await using guest = await start(options, disk, false, memoryArguments(options, false));
  await guest.qemu.waitGuestReady();
  return await save(guest, store, GOLDEN, undefined);
}

/** Restore a guest into a new QEMU. */
export async function restoreGuest(
  options: FleetOptions,
  disk: string,
  store: SnapshotStore,
  name: string,
  keepPaused: boolean,
): Promise<FleetGuest & { result: LazyRestoreResult }> {
  const guest = await start(options, disk, true, memoryArguments(options, true));
  try {
    const reader = await store.reader(name);
    const result = await restoreLazily(guest.qmp, reader, { keepPaused, resume: !keepPaused });
    await reader.close();
    return Object.assign(guest, { result });
  } catch (error) {
    await guest[Symbol.asyncDispose]();
    throw error;
  }
}

/** Start a clone of a template, which shares its memory until it writes to it. */
export async function cloneTemplate(
  options: FleetOptions,
  disk: string,
  directory: string,
  template: Template,
): Promise<FleetGuest> {
  const guest = await start(options, disk, true, template.arguments);
  try {
    await restoreTemplate(guest.qmp, directory, { resume: true });
    return guest;
  } catch (error) {
    await guest[Symbol.asyncDispose]();
    throw error;
  }
}

/** Save a guest; it stays stopped. */
export async function save(
  { qmp }: FleetGuest,
  store: SnapshotStore,
  name: string,
  parent: string | undefined,
): Promise<SnapshotInfo> {
  let info: SnapshotInfo | undefined;
  const file = store.writer(name, { parent }).file({
    onWritten: (written) => {
      info = written;
    },
  });
  await saveVm(qmp, file, {});
  if (info === undefined) throw new Error(`${name} was not written`);
  return info;
}

/** Give a clone a disk: a copy of the golden guest's. */
export function copyDisk(golden: string, disk: string): string {
  copyFileSync(golden, disk);
  return disk;
}

/** Bytes of an empty disk. */
export function emptyDisk(): Buffer {
  return Buffer.alloc(DISK_BYTES);
}

/** Write to a guest's disk through its QEMU. */
export async function writeDisk({ qemu }: FleetGuest, pattern: number): Promise<void> {
  const command = `qemu-io disk "write -P ${pattern} 4096 512"`;
  await qemu.qmp.execute('human-monitor-command', { 'command-line': command });
}

/** Kill a guest's QEMU, as a host that fails does. */
export async function kill(guest: FleetGuest): Promise<void> {
  process.kill(guest.qemu.pid, 'SIGKILL');
  await guest[Symbol.asyncDispose]();
}

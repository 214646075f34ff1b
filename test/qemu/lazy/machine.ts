// What the tests of lazy restores share: guests, QEMUs with a monitor, files.
import assert from 'node:assert/strict';
import { openFrom, openTo } from '../../../adapters/index.ts';
import {
  openSavedGuest,
  type PageSource,
  type SavedGuest,
  unwrap,
} from '../../../lib/migration/index.ts';
import { QmpClient, type SaveOptions, saveVm } from '../../../lib/vm/index.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { firmware, type GuestProgram, memoryProblems } from '../harness/guest.ts';
import { type Qemu, type QemuOptions, requireQemu, startQemu } from '../harness/harness.ts';
import { findQemu10, requireQemu10 } from '../harness/qemu10.ts';

/** The guest of these tests: 3 MiB of pattern, 1 MiB of it written to for ever. */
export const PROGRAM: GuestProgram = { patternBytes: 3 << 20, dirtyBytes: 1 << 20 };
const IMAGE = firmware(PROGRAM);

/** The QEMUs that these tests use. */
export const QEMUS: readonly {
  readonly version: string;
  readonly skip: string | false;
  readonly options: QemuOptions;
}[] = [
  { version: '7.2', skip: requireQemu(), options: {} },
  { version: '10.0', skip: requireQemu10(), options: binaryOf(findQemu10()) },
];

function binaryOf(binary: string | undefined): QemuOptions {
  return binary === undefined ? {} : { binary };
}

/** A QEMU with a monitor of our client's. */
export interface Machine extends AsyncDisposable {
  qemu: Qemu;
  qmp: QmpClient;
  /** Path of another monitor, for one client. */
  monitor: string;
}

/** Starts a QEMU; hold it by `await using`. */
export async function machine(
  options: QemuOptions,
  extra: readonly string[] = [],
): Promise<Machine> {
  const dir = makeTempDir();
  const monitor = dir.join('spare');
  const monitors = [dir.join('qmp'), monitor].flatMap((path) => {
    return ['-qmp', `unix:${path},server=on,wait=off`];
  });
  const extraArgs = [...monitors, ...extra];
  const qemu = await startQemu({ firmware: IMAGE, ...options, extraArgs });
  const qmp = await QmpClient.connect(dir.join('qmp'), { oob: true });
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

/** Saves a guest that counts. */
export async function saveGuest(
  path: string,
  options: QemuOptions,
  save: SaveOptions = {},
): Promise<void> {
  await using source = await machine(options);
  await source.qemu.waitGuestReady();
  await saveVm(source.qmp, await openTo(path), save);
}

/** Opens a saved guest. */
export async function openGuest(path: string): Promise<SavedGuest> {
  return openSavedGuest(await unwrap(await openFrom(path)));
}

/** Checks that the guest runs and that every word of its memory is right. */
export async function assertSound(
  { qemu }: Machine,
  program: GuestProgram = PROGRAM,
): Promise<void> {
  await qemu.waitCounterRises();
  await qemu.pause();
  assert.deepEqual(memoryProblems(await qemu.readRam(), program), []);
}

/** A guest whose memory reports each read, with the bytes that were read so far; an exception fails the read. */
export function watchReads(guest: SavedGuest, onRead: (bytes: number) => void): SavedGuest {
  let bytes = 0;
  const { pages } = guest;
  const watched: PageSource = {
    pageSize: pages.pageSize,
    blocks: pages.blocks,
    extents: (block) => pages.extents(block),
    read: (block, offset, target) => {
      bytes += target.length;
      onRead(bytes);
      return pages.read(block, offset, target);
    },
  };
  return { ...guest, pages: watched, close: () => guest.close() };
}

/** Returns the bytes of pages that have to be read. */
export function dataBytes({ pages }: SavedGuest): number {
  let bytes = 0;
  for (const index of pages.blocks.keys()) {
    for (const { length } of pages.extents(index)) bytes += length;
  }
  return bytes;
}

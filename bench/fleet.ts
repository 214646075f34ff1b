// What do N clones of one golden guest cost, in bytes and in time?
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { directoryStorage } from '../adapters/index.ts';
import { SnapshotStore } from '../lib/snapshot/index.ts';
import { requireQemu } from '../test/qemu/harness/harness.ts';
import {
  copyDisk,
  emptyDisk,
  type FleetOptions,
  GOLDEN,
  kill,
  makeGolden,
  restoreGuest,
  save,
} from '../test/qemu/store/fleet.ts';
import { makeFolder } from './harness/folder.ts';
import { writeMemory } from './harness/guest.ts';
import { type Bench, type Row, rowOf } from './harness/row.ts';

const MIB = 2 ** 20;
const MANY = 1000;
const ours = 'store';
const apart = 'each snapshot by itself';

/** What has been measured of the clones so far, one entry each. */
interface Fleet {
  readonly bytes: number[];
  readonly saveMs: number[];
  readonly runsMs: number[];
}

/** Restore a clone of the golden guest, let it work, save it, and restore that. */
async function addClone(
  fleet: Fleet,
  options: FleetOptions,
  folder: string,
  store: SnapshotStore,
): Promise<void> {
  const name = `clone-${fleet.bytes.length + 1}`;
  const disk = copyDisk(join(folder, 'golden.img'), join(folder, `${name}.img`));
  const clone = await restoreGuest(options, disk, store, GOLDEN, false);
  try {
    // 16 pages at each tick: all that the program ever writes to.
    await clone.qemu.waitCounterRises(64);
    const began = performance.now();
    const { ownBytes } = await save(clone, store, name, GOLDEN);
    fleet.saveMs.push(performance.now() - began);
    fleet.bytes.push(ownBytes);
  } finally {
    await kill(clone);
  }
  const again = await restoreGuest(options, disk, store, name, false);
  const { startMs, resumeMs } = again.result;
  fleet.runsMs.push(startMs + (resumeMs ?? Number.NaN));
  await kill(again);
}

const bench: Bench = {
  question: 'What do N clones of one golden guest cost, in bytes and in time?',
  async *run({ quick }): AsyncGenerator<Row> {
    if (requireQemu() !== false) return;
    const memoryMiB = quick ? 32 : 256;
    const counts = quick ? [1, 2] : [1, 4, 8];
    const folder = makeFolder('/dev/shm/qemu-file-bench-');
    try {
      const memoryFile = join(folder, 'memory');
      writeMemory(memoryFile, memoryMiB);
      writeFileSync(join(folder, 'golden.img'), emptyDisk());
      const program = { patternBytes: 4 * MIB, dirtyBytes: 4 * MIB };
      const options: FleetOptions = { program, memoryMiB, memoryFile };
      const store = new SnapshotStore(directoryStorage(join(folder, 'store')));
      const golden = await makeGolden(options, join(folder, 'golden.img'), store);
      const fleet: Fleet = { bytes: [], saveMs: [], runsMs: [] };
      const total = (count: number): number =>
        fleet.bytes.slice(0, count).reduce((sum, bytes) => sum + bytes, golden.ownBytes);
      for (const count of counts) {
        while (fleet.bytes.length < count) await addClone(fleet, options, folder, store);
        yield sizeRow(
          `${count} clones and their golden guest of ${memoryMiB} MiB`,
          total(count),
          golden.ownBytes * (count + 1),
        );
        yield timeRow(`${count} clones: save of one`, fleet.saveMs);
        yield timeRow(`${count} clones: lazy restore of one, until it runs`, fleet.runsMs);
      }
      const last = fleet.bytes.length;
      const slope = (total(last) - total(1)) / (last - 1);
      const bytes = total(1) + slope * (MANY - 1);
      yield sizeRow(`${MANY} clones, by the same slope`, bytes, golden.ownBytes * (MANY + 1));
      await store.close();
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};

function sizeRow(name: string, bytes: number, bytesApart: number): Row {
  const rounds = new Map([
    [ours, [bytes / MIB]],
    [apart, [bytesApart / MIB]],
  ]);
  return rowOf(rounds, { name, unit: 'MiB', ours, against: [apart] });
}

function timeRow(name: string, ms: readonly number[]): Row {
  return rowOf(new Map([[ours, [...ms]]]), { name, unit: 'ms', ours, against: [] });
}

export default bench;

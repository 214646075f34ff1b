// What does a snapshot store cost, against files?
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { directoryStorage } from '../adapters/index.ts';
import { fingerprintPages } from '../lib/snapshot/format/fingerprint.ts';
import { SnapshotStore } from '../lib/snapshot/index.ts';
import { bareGuest } from '../test/helpers/guests/saved-guest.ts';
import { makeFolder } from './harness/folder.ts';
import { Guest, timed, writeMemory } from './harness/guest.ts';
import { MAIN } from './harness/paths.ts';
import { start } from './harness/process.ts';
import {
  alternate,
  atLeast,
  atMost,
  type Bench,
  type Contender,
  type Row,
  ratio,
  rowOf,
} from './harness/row.ts';

const MIB = 2 ** 20;
const PAGE = 4096;
const store = 'store';

/** Run the command; throw if it fails. */
async function command(...args: string[]): Promise<void> {
  const code = await start(process.execPath, [MAIN, ...args, '--quiet']).ended;
  if (code !== 0) throw new Error(`qemu-file ${args.join(' ')} ended with ${code}`);
}

/** Change one page in a hundred of a guest's memory. */
function changeMemory(path: string, mib: number): void {
  const fd = openSync(path, 'r+');
  for (let page = 50; page < mib * 256; page += 100) {
    writeSync(fd, `changed ${page}`, page * PAGE + 1024);
  }
  closeSync(fd);
}

/** Return the row of the seconds of work, against the seconds of other work. */
async function rowOfWork(
  name: string,
  contenders: readonly [Contender, Contender],
  maxRatio: number,
  rounds: number,
): Promise<Row> {
  const results = await alternate(contenders, rounds);
  const [{ name: ours }, { name: peer }] = contenders;
  return rowOf(results, {
    name,
    unit: 's',
    ours,
    against: [peer],
    mustReach: `≤ ${maxRatio.toFixed(2)} × in time`,
    reached: () => atMost(ratio(results, ours, peer), maxRatio),
  });
}

async function rowOfFingerprints(rounds: number): Promise<Row> {
  const pages = Buffer.alloc(256 * PAGE, 7);
  const fingerprints = Buffer.alloc(256 * 16);
  const work = (name: string, once: () => void): Contender => ({
    name,
    run: async () => {
      await Promise.resolve();
      const began = performance.now();
      for (let round = 0; round < 128; round++) once();
      return (128 * pages.length) / 1e6 / (performance.now() - began);
    },
  });
  const results = await alternate(
    [work('SHA-256', () => fingerprintPages(pages, 256, PAGE, fingerprints))],
    rounds,
  );
  return rowOf(results, {
    name: 'fingerprints of pages',
    unit: 'GB/s',
    ours: 'SHA-256',
    against: [],
  });
}

/**
 * Read a snapshot with 50 ancestors, against snapshots of the same memory: one with a parent of which as many pages were
 * replaced, so that only the depth differs, and one without a parent.
 */
async function rowOfDepth(folder: string, pages: number, rounds: number): Promise<Row> {
  const storage = directoryStorage(join(folder, 'chain'));
  const snapshots = new SnapshotStore(storage);
  const bytes = Buffer.alloc(pages * PAGE);
  for (let word = 0; word < bytes.length; word += 4)
    bytes.writeUInt32LE((word * 2654435761) % 2 ** 28, word);
  const guest = bareGuest({
    pageSize: PAGE,
    blocks: [{ name: 'ram', usedLength: bytes.length, hostPageSize: null, address: null }],
    extents: () => [{ at: 0, length: bytes.length }],
    read: (_block: number, offset: number, target: Uint8Array) => {
      target.set(bytes.subarray(offset, offset + target.length));
    },
  });
  await snapshots.writer('depth-0').writeGuest(guest);
  let parent = 'depth-0';
  for (let depth = 1; depth <= 50; depth++) {
    for (let page = depth; page < pages; page += 100) bytes.writeUInt32LE(depth, page * PAGE);
    const name = `chain-${depth}`;
    await snapshots.writer(name, { parent }).writeGuest(guest);
    parent = name;
  }
  await snapshots.writer('depth-1', { parent: 'depth-0' }).writeGuest(guest);
  await snapshots.writer('alone').writeGuest(guest);
  const read = (name: string): Contender => ({
    name,
    run: async () => {
      const fresh = new SnapshotStore(storage);
      const began = performance.now();
      const reader = await fresh.reader(name);
      // As restore reads it.
      for await (const _chunk of reader.stream());
      return bytes.length / 1e6 / (performance.now() - began);
    },
  });
  const results = await alternate([read(parent), read('depth-1'), read('alone')], rounds);
  return rowOf(results, {
    name: 'read a snapshot with 50 ancestors, 1 % changed each time',
    unit: 'GB/s',
    ours: parent,
    against: ['depth-1', 'alone'],
    mustReach: '≥ 0.8 × one with one parent',
    reached: () => atLeast(ratio(results, parent, 'depth-1'), 0.8),
  });
}

const bench: Bench = {
  question: 'What does a snapshot store cost, against files?',
  async *run({ quick }) {
    const folder = makeFolder(join(tmpdir(), 'qemu-file-store-'));
    const memory = join(folder, 'memory');
    const monitor = join(folder, 'qmp');
    const out = join(folder, 'out');
    const url = `store:${join(folder, 'store')}`;
    const mib = quick ? 64 : 2048;
    const rounds = quick ? 1 : 3;
    const fresh = async (path: string | null): Promise<Guest | null> => {
      rmSync(monitor, { force: true });
      rmSync(out, { force: true });
      return Guest.start(monitor, mib, path);
    };
    const source = (): Promise<Guest | null> => fresh(memory);
    try {
      yield await rowOfFingerprints(quick ? 3 : 9);
      yield await rowOfDepth(folder, ((quick ? 64 : 256) * MIB) / PAGE, rounds);
      writeMemory(memory, mib);
      yield await rowOfWork(
        `save into a store, ${mib} MiB`,
        [
          timed(store, source, (guest) =>
            command('save', '--qmp', guest.monitor, `${url}#base`, '--replace'),
          ),
          timed('save --compress zstd', source, (guest) =>
            command('save', '--qmp', guest.monitor, out, '--compress', 'zstd'),
          ),
        ],
        1 / 0.8,
        rounds,
      );
      changeMemory(memory, mib);
      yield await rowOfWork(
        `save into a store with a parent, 1 % changed, ${mib} MiB`,
        [
          timed(store, source, (guest) =>
            command(
              'save',
              '--qmp',
              guest.monitor,
              `${url}#child`,
              '--parent',
              'base',
              '--replace',
            ),
          ),
          timed('save', source, (guest) => command('save', '--qmp', guest.monitor, out)),
        ],
        1.5,
        rounds,
      );
      {
        await using guest = await source();
        if (guest === null) return;
        await command('save', '--qmp', guest.monitor, join(folder, 'zst'), '--compress', 'zstd');
      }
      yield await rowOfWork(
        `restore from a store, ${mib} MiB`,
        [
          timed(
            store,
            () => fresh(null),
            (guest) => command('restore', '--qmp', guest.monitor, `${url}#child`),
          ),
          timed(
            'restore of a .zst',
            () => fresh(null),
            (guest) => command('restore', '--qmp', guest.monitor, join(folder, 'zst')),
          ),
        ],
        1,
        rounds,
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;

// How soon does a guest run whose memory is in object storage, near and far?
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  directoryStorage,
  type ObjectStorage,
  openFrom,
  openTo,
  s3Storage,
} from '../adapters/index.ts';
import { SnapshotStore } from '../lib/snapshot/index.ts';
import { QmpClient, restoreLazily, saveVm } from '../lib/vm/index.ts';
import { type S3Server, startS3Server, withoutS3 } from '../test/helpers/s3.ts';
import { startTcpProxy, type TcpProxy } from '../test/helpers/tcp-proxy.ts';
import { Guest, writeMemory } from './harness/guest.ts';
import { alternate, type Bench, type Contender, median, type Row, rowOf } from './harness/row.ts';

const MIB = 2 ** 20;
/** Times that a request and its answer are under way, in milliseconds. */
const ROUND_TRIPS_MS = [0, 1, 10, 50];
const QUICK_ROUND_TRIPS_MS = [10];
const RANGE_BYTES = 131_072;
const RANGES = 40;
const ours = 'S3';
const near = 'directory on tmpfs';

/** Milliseconds of one lazy restore. */
interface LazyTimes {
  /** From the opening of the store until the guest runs. */
  runs: number;
  /** From the opening of the store until all memory is there. */
  complete: number;
}

interface Places {
  readonly folder: string;
  readonly proxy: TcpProxy;
  readonly roundTripsMs: readonly number[];
  readonly openS3: () => Promise<ObjectStorage>;
  readonly openDirectory: () => Promise<ObjectStorage>;
}

async function restoreOnce(
  open: () => Promise<ObjectStorage>,
  monitor: string,
  mib: number,
): Promise<LazyTimes | null> {
  await using guest = await Guest.start(monitor, mib, null);
  if (guest === null) return null;
  await using qmp = await QmpClient.connect(monitor);
  const began = performance.now();
  const store = new SnapshotStore(await open());
  const reader = await store.reader('guest');
  const called = performance.now() - began;
  const { startMs, resumeMs, completeMs } = await restoreLazily(qmp, reader, { resume: true });
  await store.close();
  rmSync(monitor, { force: true });
  return {
    runs: called + startMs + (resumeMs ?? Number.NaN),
    complete: called + startMs + completeMs,
  };
}

async function rangeMs(storage: ObjectStorage, key: string, bytes: number): Promise<number> {
  const times: number[] = [];
  for (let index = 0; index < RANGES; index++) {
    const at = (index * 7_654_321) % (bytes - RANGE_BYTES);
    const began = performance.now();
    await storage.getRange(key, at, RANGE_BYTES);
    times.push(performance.now() - began);
  }
  return median(times);
}

async function* rowsOfRanges(places: Places, rounds: number): AsyncGenerator<Row> {
  for (const roundTripMs of places.roundTripsMs) {
    places.proxy.delayMs = roundTripMs / 2;
    const contender = (name: string, open: () => Promise<ObjectStorage>): Contender => ({
      name,
      run: async () => {
        const storage = await open();
        // The first request also makes the connection.
        await storage.stat('object');
        const ms = await rangeMs(storage, 'object', 16 * MIB);
        await storage.close();
        return ms;
      },
    });
    const results = await alternate(
      [contender(ours, places.openS3), contender(near, places.openDirectory)],
      rounds,
    );
    yield rowOf(results, {
      name: `128 KiB of an object, round trip ${roundTripMs} ms`,
      unit: 'ms',
      ours,
      against: [near],
    });
  }
}

async function* rowsOfLazyRestores(
  places: Places,
  mib: number,
  rounds: number,
): AsyncGenerator<Row> {
  const monitor = join(places.folder, 'qmp');
  for (const roundTripMs of places.roundTripsMs) {
    places.proxy.delayMs = roundTripMs / 2;
    const complete = new Map<string, number[]>();
    const contender = (name: string, open: () => Promise<ObjectStorage>): Contender => ({
      name,
      run: async () => {
        const times = await restoreOnce(open, monitor, mib);
        if (times === null) return null;
        complete.set(name, [...(complete.get(name) ?? []), times.complete]);
        return times.runs;
      },
    });
    const runs = await alternate(
      [contender(ours, places.openS3), contender(near, places.openDirectory)],
      rounds,
    );
    const title = `lazy restore of ${mib} MiB, round trip ${roundTripMs} ms`;
    const shape = { unit: 'ms', ours, against: [near] };
    yield rowOf(runs, { ...shape, name: `${title}: the guest runs` });
    yield rowOf(complete, { ...shape, name: `${title}: all memory is there` });
  }
}

/** Save a guest into both stores. */
async function fill(places: Places, mib: number): Promise<boolean> {
  const memory = join(places.folder, 'memory');
  const file = join(places.folder, 'guest.mig');
  const monitor = join(places.folder, 'source');
  writeMemory(memory, mib);
  {
    await using guest = await Guest.start(monitor, mib, memory);
    if (guest === null) return false;
    await using qmp = await QmpClient.connect(monitor);
    await saveVm(qmp, await openTo(file), {});
  }
  for (const open of [places.openS3, places.openDirectory]) {
    const store = new SnapshotStore(await open());
    const stream = await openFrom(file);
    await store.writer('guest').writeStream(stream);
    await stream.close();
    await store.storage.put('object', [Buffer.alloc(16 * MIB, 'object')]);
    await store.close();
  }
  rmSync(memory);
  rmSync(file);
  return true;
}

const bench: Bench = {
  question: 'How soon does a guest run whose memory is in object storage, near and far?',
  async *run({ quick }): AsyncGenerator<Row> {
    if (withoutS3 !== false) return;
    const mib = quick ? 32 : 64;
    const rounds = quick ? 1 : 2;
    const folder = mkdtempSync('/dev/shm/qemu-file-bench-');
    try {
      const server: S3Server = await startS3Server();
      await using _server = server;
      await using proxy = await startTcpProxy(server.port);
      const bucket = await server.makeBucket();
      const { region, credentials } = server;
      const endpoint = `http://127.0.0.1:${proxy.port}`;
      const places: Places = {
        folder,
        proxy,
        roundTripsMs: quick ? QUICK_ROUND_TRIPS_MS : ROUND_TRIPS_MS,
        openS3: () => s3Storage({ bucket, endpoint, region, credentials }),
        openDirectory: () => Promise.resolve(directoryStorage(join(folder, 'store'))),
      };
      if (!(await fill(places, mib))) return;
      yield* rowsOfRanges(places, rounds);
      yield* rowsOfLazyRestores(places, mib, rounds);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};

export default bench;

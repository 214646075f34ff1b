// How soon does a guest run whose memory is in object storage, near and far?
import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  directoryStorage,
  type ObjectStorage,
  openFrom,
  openTo,
  s3Storage,
} from '../adapters/index.ts';
import { SnapshotStore } from '../lib/snapshot/index.ts';
import { QmpClient, saveVm } from '../lib/vm/index.ts';
import { type S3Server, startS3Server, withoutS3 } from '../test/helpers/storage/s3.ts';
import { startTcpProxy, type TcpProxy } from '../test/helpers/transports/tcp-proxy.ts';
import { makeFolder } from './harness/folder.ts';
import { Guest, writeMemory } from './harness/guest.ts';
import { MAIN } from './harness/paths.ts';
import { alternate, type Bench, type Contender, median, type Row, rowOf } from './harness/row.ts';

const MIB = 2 ** 20;
/** Times that a request and its answer are under way, in milliseconds. */
const ROUND_TRIPS_MS = [0, 1, 10, 50];
const QUICK_ROUND_TRIPS_MS = [10];
const RANGE_BYTES = 131_072;
const RANGES = 40;
const RECORD_SECONDS = 2;
const ours = 'S3';
const near = 'directory on tmpfs';
/** Snapshots in S3: without a working set, with a recorded one, and with its pages in packs of their own. */
const NO_SET = 'no set';
const RECORDED = 'recorded set';
const PACKED = 'packed set';

/** What the command prints about a lazy restore: milliseconds. */
interface LazyResult {
  /** From the start of the command to its connection to QEMU. */
  startMs: number;
  /** From that connection until the guest runs, and until all memory is there. */
  resumeMs: number;
  completeMs: number;
  /** For how long all CPUs of the guest waited for memory. */
  blockedMs: number | null;
}

interface Places {
  readonly folder: string;
  readonly proxy: TcpProxy;
  readonly roundTripsMs: readonly number[];
  readonly openS3: () => Promise<ObjectStorage>;
  readonly openDirectory: () => Promise<ObjectStorage>;
  /** URL of a store in S3, with the name of a snapshot. */
  readonly inS3: (prefix: string, name: string) => string;
  /** URL of the snapshot in the directory. */
  readonly inDirectory: string;
}

/** Run the command; return what it prints. */
async function command(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [MAIN, ...args, '--quiet']);
  return stdout;
}

async function restoreOnce(
  { folder }: Places,
  mib: number,
  from: string,
  ...options: string[]
): Promise<LazyResult | null> {
  const monitor = join(folder, 'qmp');
  await using guest = await Guest.start(monitor, mib, null);
  if (guest === null) return null;
  const args = ['restore', '--lazy', '--resume', '--json', '--qmp', monitor, from, ...options];
  const result = JSON.parse(await command(...args)) as LazyResult;
  rmSync(monitor, { force: true });
  return result;
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

/** Write, read and copy whole snapshots of dense memory, without a delay. */
async function* rowsOfWholeSnapshots(
  places: Places,
  mib: number,
  rounds: number,
): AsyncGenerator<Row> {
  places.proxy.delayMs = 0;
  const memory = join(places.folder, 'dense');
  const file = join(places.folder, 'dense.mig');
  const monitor = join(places.folder, 'dense-qmp');
  writeMemory(memory, mib);
  {
    await using guest = await Guest.start(monitor, mib, memory);
    if (guest === null) return;
    await using qmp = await QmpClient.connect(monitor);
    await saveVm(qmp, await openTo(file), {});
  }
  rmSync(memory);
  const inDirectory = `${places.inDirectory.replace(/#.*/, '')}#dense`;
  const inS3 = places.inS3('dense', 'dense');
  const rate = async (...args: string[]): Promise<number> => {
    const began = performance.now();
    await command(...args);
    return (mib * MIB) / 1000 / (performance.now() - began);
  };
  const pairs: [verb: string, s3: string[], directory: string[]][] = [
    ['written', ['relay', file, inS3, '--replace'], ['relay', file, inDirectory, '--replace']],
    ['verified', ['verify', inS3], ['verify', inDirectory]],
  ];
  for (const [verb, s3, directory] of pairs) {
    const results = await alternate(
      [
        { name: ours, run: () => rate(...s3) },
        { name: near, run: () => rate(...directory) },
      ],
      rounds,
    );
    yield rowOf(results, {
      name: `${mib} MiB ${verb} by the command`,
      unit: 'MB/s',
      ours,
      against: [near],
    });
  }
  const copied = (from: string, to: string): Contender['run'] => {
    let copies = 0;
    return async () => {
      copies += 1;
      return rate('store', 'copy', from, to.replace('COPY', `copy-${copies}`));
    };
  };
  const results = await alternate(
    [
      { name: ours, run: copied(inDirectory, places.inS3('COPY', 'dense')) },
      {
        name: 'S3 to a directory',
        run: copied(inS3, `store:${join(places.folder, 'COPY')}#dense`),
      },
    ],
    rounds,
  );
  yield rowOf(results, {
    name: `${mib} MiB copied from the directory`,
    unit: 'MB/s',
    ours,
    against: ['S3 to a directory'],
  });
  rmSync(file);
}

async function* rowsOfLazyRestores(
  places: Places,
  mib: number,
  rounds: number,
): AsyncGenerator<Row> {
  const { inS3, inDirectory } = places;
  for (const roundTripMs of places.roundTripsMs) {
    places.proxy.delayMs = roundTripMs / 2;
    const complete = new Map<string, number[]>();
    const blocked = new Map<string, number[]>();
    const contender = (name: string, from: string): Contender => ({
      name,
      run: async () => {
        const result = await restoreOnce(places, mib, from);
        if (result === null) return null;
        const { startMs, resumeMs, completeMs, blockedMs } = result;
        complete.set(name, [...(complete.get(name) ?? []), startMs + completeMs]);
        blocked.set(name, [...(blocked.get(name) ?? []), blockedMs ?? Number.NaN]);
        return startMs + resumeMs;
      },
    });
    const runs = await alternate(
      [
        contender(PACKED, inS3('plain', 'packed')),
        contender(NO_SET, inS3('plain', 'guest')),
        contender(RECORDED, inS3('recorded', 'guest')),
        contender(near, inDirectory),
      ],
      rounds,
    );
    const title = `restore --lazy of ${mib} MiB, round trip ${roundTripMs} ms`;
    const shape = { unit: 'ms', ours: PACKED, against: [NO_SET, RECORDED, near] };
    yield rowOf(runs, { ...shape, name: `${title}: the guest runs` });
    yield rowOf(blocked, { ...shape, name: `${title}: all its CPUs waited` });
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
  const { inS3, inDirectory } = places;
  const record = ['--record-in-store', '--record-seconds', String(RECORD_SECONDS)];
  await restoreOnce(places, mib, inDirectory, ...record);
  await command('store', 'copy', inDirectory, inS3('recorded', 'guest'));
  await command('compact', inDirectory, inS3('plain', 'packed'));
  return true;
}

const bench: Bench = {
  question: 'How soon does a guest run whose memory is in object storage, near and far?',
  async *run({ quick }): AsyncGenerator<Row> {
    if (withoutS3 !== false) return;
    const mib = quick ? 32 : 64;
    const rounds = quick ? 1 : 2;
    const folder = makeFolder('/dev/shm/qemu-file-bench-');
    try {
      const server: S3Server = await startS3Server();
      await using _server = server;
      await using proxy = await startTcpProxy(server.port);
      const bucket = await server.makeBucket();
      const { region, credentials } = server;
      process.env.AWS_ACCESS_KEY_ID = credentials.accessKeyId;
      process.env.AWS_SECRET_ACCESS_KEY = credentials.secretAccessKey;
      const endpoint = `http://127.0.0.1:${proxy.port}`;
      const places: Places = {
        folder,
        proxy,
        roundTripsMs: quick ? QUICK_ROUND_TRIPS_MS : ROUND_TRIPS_MS,
        openS3: () => s3Storage({ bucket, prefix: 'plain', endpoint, region, credentials }),
        inS3: (prefix, name) =>
          `s3://${bucket}/${prefix}?endpoint=${endpoint}&region=${region}#${name}`,
        inDirectory: `store:${join(folder, 'store')}#guest`,
        openDirectory: () => Promise.resolve(directoryStorage(join(folder, 'store'))),
      };
      if (!(await fill(places, mib))) return;
      yield* rowsOfRanges(places, rounds);
      yield* rowsOfWholeSnapshots(places, quick ? 32 : 256, rounds);
      yield* rowsOfLazyRestores(places, mib, rounds);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};

export default bench;

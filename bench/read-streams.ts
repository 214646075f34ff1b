// How fast are migration streams read, and with how much memory?
import { existsSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import xxhash from 'fast-xxhash';
import { openFrom } from 'qemu-file/adapters';
import { MigrationReader, type PageVisitor, verifyStream } from 'qemu-file/migration';
import { writeStream } from './harness/data/migration-streams.ts';
import { makeFolder } from './harness/folder.ts';
import { MAIN } from './harness/paths.ts';
import { start } from './harness/process.ts';
import {
  allOf,
  alternate,
  atLeast,
  atMost,
  type Bench,
  type Contender,
  type Row,
  ratio,
  rowOf,
} from './harness/row.ts';

const ours = 'qemu-file';
const HASHED = 'parse and hash';
const GB = 1e9;
/** Path of QEMU's own analyser, which no package contains. */
const ANALYSER = process.env.ANALYZE_MIGRATION ?? '';
const PEAK_MIB = 150;
const PIECE = 65_536;

/** Read a stream, with or without a visitor that looks at each page. */
async function read(path: string, pages: PageVisitor): Promise<void> {
  const file = await openFrom({ scheme: 'file', path, offset: 0 });
  for await (const event of new MigrationReader(file, { pages })) void event;
  await file.close();
}

async function verify(path: string): Promise<void> {
  const file = await openFrom({ scheme: 'file', path, offset: 0 });
  const { faults } = await verifyStream(file);
  if (faults[0] !== undefined) throw faults[0];
  await file.close();
}

/** Parse and hash all bytes in one pass, in chunks that stay in the cache. */
async function parseAndHash(path: string): Promise<void> {
  const hash = (await xxhash()).create64();
  const file = await openFrom({ scheme: 'file', path, offset: 0 });
  async function* hashed(): AsyncGenerator<Uint8Array> {
    for await (const chunk of file as AsyncIterable<Uint8Array>) {
      for (let at = 0; at < chunk.length; at += PIECE) hash.update(chunk.subarray(at, at + PIECE));
      yield chunk;
    }
  }
  for await (const event of new MigrationReader(hashed())) void event;
  hash.digest();
  await file.close();
}

/** Measure the MB/s of a command; null if it is missing. */
function command(name: string, args: string[], amount: number): Contender {
  return {
    name,
    run: async () => {
      const began = performance.now();
      const code = await start(args[0] as string, args.slice(1)).ended;
      if (code === null) return null;
      if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}`);
      return amount / ((performance.now() - began) / 1000);
    },
  };
}

function timed(name: string, amount: number, work: () => Promise<void>): Contender {
  return {
    name,
    run: async () => {
      const began = performance.now();
      await work();
      return amount / ((performance.now() - began) / 1000);
    },
  };
}

async function* dense(path: string, bytes: number, count: number): AsyncGenerator<Row> {
  let seen = 0;
  const looking: PageVisitor = {
    page: (_block, offset, page) => {
      seen += (page[0] as number) + offset;
    },
    zero: () => {},
  };
  const gigabytes = bytes / GB;
  const contenders = [
    timed(ours, gigabytes, () => read(path, looking)),
    command('cat', ['cat', path], gigabytes),
  ];
  const rounds = await alternate(contenders, count);
  if (seen === 0) throw new Error('no page was looked at');
  const toCat = ratio(rounds, ours, 'cat');
  yield rowOf(rounds, {
    name: 'dense pages from a file on tmpfs',
    unit: 'GB/s',
    ours,
    against: ['cat'],
    mustReach: '≥ 1.5 GB/s, ≥ 0.5 × cat',
    reached: (value) => allOf(value >= 1.5, atLeast(toCat, 0.5)),
  });

  const checks = [
    timed(ours, gigabytes, () => verify(path)),
    timed(HASHED, gigabytes, () => parseAndHash(path)),
  ];
  const checked = await alternate(checks, count);
  const toHash = ratio(checked, ours, HASHED);
  yield rowOf(checked, {
    name: 'verify',
    unit: 'GB/s',
    ours,
    against: [HASHED],
    mustReach: '≥ 0.7 × parsing and hashing',
    reached: () => atLeast(toHash, 0.7),
  });
}

async function* zeros(path: string, pages: number, count: number): AsyncGenerator<Row> {
  let seen = 0;
  const counting: PageVisitor = {
    zero: (_block, _offset, run) => {
      seen += run;
    },
  };
  const rounds = await alternate([timed(ours, pages / 1e6, () => read(path, counting))], count);
  if (seen < pages) throw new Error(`${seen} of ${pages} pages were seen`);
  yield rowOf(rounds, {
    name: 'records of zero pages',
    unit: 'M/s',
    ours,
    against: [],
    mustReach: '≥ 15 M/s',
    reached: (value) => value >= 15,
  });
}

async function* analyser(path: string, bytes: number): AsyncGenerator<Row> {
  const megabytes = bytes / 1e6;
  const theirs: Contender = existsSync(ANALYSER)
    ? command('analyze-migration.py', ['python3', ANALYSER, '-f', path], megabytes)
    : { name: 'analyze-migration.py', run: () => Promise.resolve(null) };
  const contenders = [
    command(ours, [process.execPath, MAIN, 'inspect', path, '--json', '--quiet'], megabytes),
    theirs,
  ];
  const rounds = await alternate(contenders, 3);
  const toTheirs = ratio(rounds, ours, 'analyze-migration.py');
  yield rowOf(rounds, {
    name: 'inspect --json, start-up included',
    unit: 'MB/s',
    ours,
    against: ['analyze-migration.py'],
    mustReach: '≥ 100 × the script',
    reached: () => atLeast(toTheirs, 100),
  });
}

async function* memory(path: string): AsyncGenerator<Row> {
  for (const name of ['inspect', 'verify']) {
    const contender: Contender = {
      name: ours,
      run: async () => {
        const running = start(process.execPath, [MAIN, name, path, '--json', '--quiet']);
        const code = await running.ended;
        if (code !== 0) throw new Error(`${name} ended with ${code}`);
        return running.used.peakMiB;
      },
    };
    yield rowOf(await alternate([contender], 3), {
      name: `peak of ${name}`,
      unit: 'MiB',
      ours,
      against: [],
      mustReach: `≤ ${PEAK_MIB} MiB`,
      reached: (value) => atMost(value, PEAK_MIB),
    });
  }
}

const bench: Bench = {
  question: 'How fast are migration streams read, and with how much memory?',
  async *run({ quick }) {
    const folder = makeFolder(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'qemu-file-'));
    try {
      const densePath = join(folder, 'dense.mig');
      const bytes = await writeStream(densePath, 'dense', quick ? 16_384 : 524_288);
      yield* dense(densePath, bytes, quick ? 1 : 5);
      const zeroPages = quick ? 2_000_000 : 30_000_000;
      const zeroPath = join(folder, 'zero.mig');
      await writeStream(zeroPath, 'zero', zeroPages);
      yield* zeros(zeroPath, zeroPages, quick ? 1 : 5);
      yield* analyser(densePath, bytes);
      yield* memory(densePath);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};
export default bench;

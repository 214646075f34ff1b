// How much faster is compression on several threads, and what do level and block size change?
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import zlib from 'node:zlib';
import { type CompressFormat, compressTo } from 'qemu-file/adapters';
import { pathOf } from './harness/paths.ts';
import { start } from './harness/process.ts';
import {
  alternate,
  atLeast,
  atMost,
  type Bench,
  type Contender,
  type Rounds,
  type Row,
  ratio,
  rowOf,
} from './harness/row.ts';

const ours = 'qemu-file';
const RECORDING = pathOf('test/fixtures/microvm.mig.gz');
const CHUNK = 262_144;
const MB = 1e6;
const GB = 1e9;
const MIB = 2 ** 20;
const CORES = availableParallelism();
const LEVELS = [1, 2, 3, 6, 9];
const LEVEL_BYTES = 16 * MIB;

/** Input of the compressors. */
interface Input {
  name: string;
  bytes: Buffer;
  isZero: boolean;
  /** Least speed as a multiple of one stream, on machines with more than one processor. */
  gain?: number;
  /** Greatest processor time of gzip as a multiple of one stream. */
  cost?: number;
}

/** Return the inputs: a recording of a small guest, the pages of a program, and zeros. */
function inputs(quick: boolean): Input[] {
  const size = (quick ? 4 : 48) * MIB;
  const recorded = zlib.gunzipSync(readFileSync(RECORDING));
  const program = readFileSync(process.execPath).subarray(0, size);
  return [
    // This input compresses as fast as it is copied, so the cost of starting each block shows.
    { name: 'a recorded stream', bytes: repeated(recorded, size), isZero: false },
    { name: 'pages of a program', bytes: program, isZero: false, gain: 1.4, cost: 1.2 },
    { name: 'zeros', bytes: Buffer.alloc(4 * size, 1).fill(0), isZero: true, gain: 2, cost: 0.5 },
    { name: 'half zeros', bytes: halfZero(program), isZero: true, gain: 1.4, cost: 1.2 },
  ];
}

function repeated(bytes: Buffer, size: number): Buffer {
  return Buffer.concat(Array.from({ length: Math.ceil(size / bytes.length) }, () => bytes));
}

/** Return data like a guest's memory: long runs of zeros with data in between. */
function halfZero(bytes: Buffer): Buffer {
  const run = 700_000;
  const whole = Buffer.alloc(2 * bytes.length, 0);
  for (let at = 0; at < bytes.length; at += run) bytes.copy(whole, 2 * at, at, at + run);
  return whole;
}

function* chunks(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += CHUNK) yield bytes.subarray(at, at + CHUNK);
}

/** Send the input through a stream, and return the number of bytes that come out. */
async function through(stream: NodeJS.ReadWriteStream, bytes: Buffer): Promise<number> {
  let size = 0;
  const count = new Writable({
    write(chunk: Buffer, _encoding, callback) {
      size += chunk.length;
      callback();
    },
  });
  await pipeline(Readable.from(chunks(bytes), { objectMode: false }), stream, count);
  return size;
}

/** Measure MB/s and, where asked for, processor time in seconds per GB. */
function timed(
  name: string,
  bytes: Buffer,
  work: () => Promise<unknown>,
  times: Rounds = new Map(),
): Contender {
  const spent: number[] = [];
  times.set(name, spent);
  return {
    name,
    run: async () => {
      const began = performance.now();
      const before = process.cpuUsage();
      if ((await work()) === null) {
        times.set(name, null);
        return null;
      }
      const { user, system } = process.cpuUsage(before);
      spent.push((user + system) / MB / (bytes.length / GB));
      return bytes.length / MB / ((performance.now() - began) / 1000);
    },
  };
}

/** Return a contender that pipes the input through a tool; its value is null if the tool is missing. */
function tool(command: string, args: string[], bytes: Buffer): Contender {
  return timed([command, ...args].join(' '), bytes, async () => {
    const { child, ended } = start(command, [...args, '-c'], {
      stdio: ['pipe', 'ignore', 'inherit'],
    });
    if (child.stdin) {
      const fed = pipeline(Readable.from(chunks(bytes), { objectMode: false }), child.stdin);
      await fed.catch((error: unknown) => {
        if (child.pid !== undefined) throw error;
      });
    }
    const code = await ended;
    if (code !== null && code !== 0) throw new Error(`${command} ended with ${code}`);
    return code;
  });
}

/** Return a contender that uses one stream of Node; its value is null where Node has no such stream. */
function oneStream(format: CompressFormat, bytes: Buffer, times: Rounds): Contender {
  const { createZstdCompress } = zlib as { createZstdCompress?: typeof zlib.createGzip };
  const create = format === 'gzip' ? zlib.createGzip : createZstdCompress;
  // zstd takes its level as a parameter and ignores gzip's options.
  const key = (zlib.constants as Record<string, number>).ZSTD_c_compressionLevel;
  const options = format === 'gzip' ? { level: 1 } : { params: { [key as number]: 1 } };
  return timed(
    `one stream of Node's`,
    bytes,
    async () => (create === undefined ? null : through(create(options), bytes)),
    times,
  );
}

async function* speed(format: CompressFormat, input: Input, count: number): AsyncGenerator<Row> {
  const { name, bytes, gain, cost } = input;
  const tools =
    format === 'gzip'
      ? [tool('gzip', ['-1'], bytes), tool('pigz', ['-1'], bytes)]
      : [tool('zstd', ['-1', `-T${CORES}`], bytes)];
  const times: Rounds = new Map();
  const one = oneStream(format, bytes, times);
  const parallel = timed(ours, bytes, () => through(compressTo(format), bytes), times);
  const rounds = await alternate([parallel, one, ...tools], count);
  const toOne = ratio(rounds, ours, one.name);
  yield rowOf(rounds, {
    name: `${format}, level 1: ${name}`,
    unit: 'MB/s',
    ours,
    against: [one.name, ...tools.map((contender) => contender.name)],
    ...(gain !== undefined && {
      mustReach: `≥ ${gain} × one stream`,
      reached: () => (CORES > 1 ? atLeast(toOne, gain) : null),
    }),
  });
  // The processor time of child processes is not included.
  if (format === 'zstd' && times.get(one.name) === null) return;
  const toOnesTime = ratio(times, ours, one.name);
  yield rowOf(times, {
    name: `${format}, level 1: ${name}: processor time`,
    unit: 's/GB',
    ours,
    against: [one.name],
    ...(cost !== undefined &&
      format === 'gzip' && {
        mustReach: `≤ ${cost} × one stream`,
        reached: () => atMost(toOnesTime, cost),
      }),
  });
}

/** Measure speed and output size of each level; the fastest is the default. */
async function* levels(format: CompressFormat, input: Input, count: number): AsyncGenerator<Row> {
  const { name, bytes } = input;
  const sizes = new Map<number, number>();
  const contenders = LEVELS.map((level) =>
    timed(`level ${level}`, bytes, async () => {
      sizes.set(level, await through(compressTo(format, { level }), bytes));
    }),
  );
  const rounds = await alternate(contenders, count);
  for (const [level, size] of sizes) {
    const left = ((100 * size) / bytes.length).toFixed(1);
    yield rowOf(rounds, {
      name: `${format}, level ${level}: ${name}, ${left} % left`,
      unit: 'MB/s',
      ours: `level ${level}`,
      against: ['level 1'],
    });
  }
}

/** Measure block sizes: each thread compresses one block at a time, on as many threads as processors. */
async function* blockSizes({ name, bytes }: Input, count: number): AsyncGenerator<Row> {
  const left = new Map<number, number>();
  const labelOf = (size: number): string => `${size / 1024} KiB`;
  const sizes = [65_536, 262_144, MIB, 4 * MIB];
  const contenders = sizes.map((size) =>
    timed(labelOf(size), bytes, async () => {
      left.set(size, await inBlocks(bytes, size));
    }),
  );
  const rounds = await alternate(contenders, count);
  for (const size of sizes) {
    const share = ((100 * (left.get(size) ?? 0)) / bytes.length).toFixed(1);
    yield rowOf(rounds, {
      name: `gzip, level 1, blocks of ${labelOf(size)}: ${name}, ${share} % left`,
      unit: 'MB/s',
      ours: labelOf(size),
      against: [labelOf(MIB)],
    });
  }
}

async function inBlocks(bytes: Buffer, size: number): Promise<number> {
  let at = 0;
  let left = 0;
  const work = async (): Promise<void> => {
    while (at < bytes.length) {
      const block = bytes.subarray(at, at + size);
      at += size;
      const packed = await new Promise<Buffer>((resolve, reject) => {
        const options = { level: 1, chunkSize: block.length + 65_536 };
        zlib.gzip(block, options, (error, result) => (error ? reject(error) : resolve(result)));
      });
      left += packed.length;
    }
  };
  await Promise.all(Array.from({ length: CORES }, work));
  return left;
}

const bench: Bench = {
  question:
    'How much faster is compression on several threads, and what do level and block size change?',
  async *run({ quick }) {
    const all = inputs(quick);
    const count = quick ? 1 : 5;
    const formats: CompressFormat[] = ['gzip', 'zstd'];
    for (const format of formats) {
      for (const input of all) yield* speed(format, input, count);
    }
    // Zeros compress to nothing at any level.
    const dense = all
      .filter(({ isZero }) => !isZero)
      .slice(quick ? -1 : 0)
      // The highest levels are slow, and a part measures them as well as the whole.
      .map((input) => ({ ...input, bytes: input.bytes.subarray(0, LEVEL_BYTES) }));
    for (const format of formats) {
      for (const input of dense) yield* levels(format, input, quick ? 1 : 3);
    }
    for (const input of dense) yield* blockSizes(input, quick ? 1 : 3);
  },
};
export default bench;

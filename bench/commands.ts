// What do reading, checking and extracting cost beside the shell's own tools?
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeStream } from './harness/data/migration-streams.ts';
import { FarEnd } from './harness/ends.ts';
import { makeFolder } from './harness/folder.ts';
import { MAIN, pathOf } from './harness/paths.ts';
import { start } from './harness/process.ts';
import type { Push } from './harness/programs/pusher.ts';
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

const PUSHER = pathOf('dist/bench/harness/programs/pusher.js');
const HASHER = pathOf('bench/harness/programs/plain-hash.mjs');
const READER = pathOf('bench/harness/programs/plain-read.mjs');
const FLOOR = 'plain Node';
const PAGE = 4096;

/** A job of the command beside the same job of another program; both are measured in seconds. */
interface Job {
  name: string;
  ours: string[];
  peer: string;
  theirs: [command: string, ...args: string[]];
  /** The least that Node can do: read the file, and write it. */
  floor?: string[];
  maxRatio: number;
}

function jobsOf(file: string, out: string): Job[] {
  const hashing: Pick<Job, 'peer' | 'theirs'> = {
    peer: 'reading and XXH64',
    theirs: [process.execPath, HASHER, file],
  };
  return [
    {
      name: 'verify',
      ours: ['verify', file],
      peer: 'cat',
      theirs: ['cat', file],
      floor: [READER, file],
      maxRatio: 2,
    },
    {
      name: 'verify --manifest',
      ours: ['verify', file, '--manifest', `${out}.json`],
      ...hashing,
      maxRatio: 1.3,
    },
    { name: 'inspect --digest', ours: ['inspect', file, '--digest'], ...hashing, maxRatio: 1.3 },
    {
      name: 'extract --raw',
      ours: ['extract', file, '--block', 'pc.ram', '--raw', out],
      peer: 'cat | cat',
      theirs: ['sh', '-c', `cat ${file} | cat >${out}`],
      floor: [READER, file, out],
      maxRatio: 1.3,
    },
  ];
}

/** Measure the seconds of a command; null if it is missing. */
function timed(name: string, command: string, args: string[], out: string): Contender {
  return {
    name,
    run: async () => {
      rmSync(out, { force: true });
      const began = performance.now();
      const code = await start(command, args).ended;
      if (code === null) return null;
      if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${code}`);
      return (performance.now() - began) / 1000;
    },
  };
}

async function rowOfJob(job: Job, out: string, rounds: number): Promise<Row> {
  const ours = 'qemu-file';
  const contenders = [
    timed(ours, process.execPath, [MAIN, ...job.ours, '--quiet'], out),
    timed(job.peer, job.theirs[0], job.theirs.slice(1), out),
  ];
  if (job.floor !== undefined) {
    contenders.push(timed(FLOOR, process.execPath, job.floor, out));
  }
  const results = await alternate(contenders, rounds);
  const toPeer = ratio(results, ours, job.peer);
  return rowOf(results, {
    name: job.name,
    unit: 's',
    ours,
    against: job.floor === undefined ? [job.peer] : [job.peer, FLOOR],
    mustReach: `≤ ${job.maxRatio} × ${job.peer}`,
    reached: () => atMost(toPeer, job.maxRatio),
  });
}

/** Measure what reading along costs a relay from a unix socket to a unix socket. */
async function* relays(
  folder: string,
  file: string,
  bytes: number,
  rounds: number,
): AsyncGenerator<Row> {
  const plain = '--no-check';
  using sink = await FarEnd.start('sink');
  const pusher = fork(PUSHER);
  await once(pusher, 'message');
  try {
    const socket = join(folder, 'from');
    const relay = (name: string, ...options: string[]): Contender => ({
      name,
      run: async () => {
        const arrival = sink.arrival();
        const args = [
          MAIN,
          'relay',
          `unix:${socket}`,
          `unix:${sink.addresses.unix}`,
          '--quiet',
          ...options,
        ];
        const { ended } = start(process.execPath, args);
        pusher.send({ to: { path: socket }, bytes, file } satisfies Push);
        if ((await ended) !== 0) throw new Error(`relay ${options.join(' ')} failed`);
        return bytes / ((await arrival).seconds * 1e9);
      },
    });
    const contenders = [
      relay(plain, '--no-check'),
      relay('--check', '--check'),
      relay('--digest', '--no-check', '--digest'),
    ];
    const results = await alternate(contenders, rounds);
    for (const [name, least] of [
      ['--check', 0.85],
      ['--digest', 0.8],
    ] as const) {
      const toPlain = ratio(results, name, plain);
      yield rowOf(results, {
        name: `relay ${name}, unix → unix`,
        unit: 'GB/s',
        ours: name,
        against: [plain],
        mustReach: `≥ ${least} × ${plain}`,
        reached: () => atLeast(toPlain, least),
      });
    }
  } finally {
    pusher.disconnect();
  }
}

const bench: Bench = {
  question: "What do reading, checking and extracting cost beside the shell's own tools?",
  async *run({ quick }) {
    const folder = makeFolder('/dev/shm/qemu-file-commands-');
    const file = join(folder, 'vm.mig');
    const out = join(folder, 'out');
    const rounds = quick ? 3 : 5;
    try {
      const bytes = await writeStream(file, 'dense', ((quick ? 256 : 2048) * 2 ** 20) / PAGE);
      const manifest = ['extract', file, '--manifest', `${out}.json`, '--quiet'];
      await start(process.execPath, [MAIN, ...manifest]).ended;
      for (const job of jobsOf(file, out)) yield await rowOfJob(job, out, rounds);
      yield* relays(folder, file, bytes, rounds);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;

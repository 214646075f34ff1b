// How fast are migration streams written again, and with how much memory?
import { existsSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeStream } from './harness/data/migration-streams.ts';
import { makeFolder } from './harness/folder.ts';
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

const ours = 'qemu-file';
const CP = 'cp';
const PEAK_MIB = 200;
const GB = 1e9;

/** A command that writes a stream again. */
interface Rewriting {
  readonly name: string;
  /** Arguments, `FROM` and `TO` apart. */
  readonly args: readonly string[];
  readonly from: string;
  /** Least ratio to `cp` of the sequential stream. */
  readonly least: number;
}

/** Run a command that writes a file; return its GB/s of guest memory and its peak of memory in MiB. */
async function timed(
  to: string,
  bytes: number,
  program: string,
  args: readonly string[],
): Promise<{ speed: number; peakMiB: number }> {
  // Remove the old file first, or its memory is freed only after the new one is written.
  rmSync(to, { force: true });
  const began = performance.now();
  const running = start(program, [...args]);
  const code = await running.ended;
  const seconds = (performance.now() - began) / 1000;
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}`);
  return { speed: bytes / GB / seconds, peakMiB: running.used.peakMiB };
}

async function* rows(
  { name, args, from, least }: Rewriting,
  folder: string,
  sequential: string,
  bytes: number,
  count: number,
): AsyncGenerator<Row> {
  const to = join(folder, 'to');
  const [command = '', ...options] = args;
  let peak = 0;
  const contenders: Contender[] = [
    {
      name: ours,
      run: async () => {
        const full = [MAIN, command, from, to, '--quiet', ...options];
        const { speed, peakMiB } = await timed(to, bytes, process.execPath, full);
        peak = Math.max(peak, peakMiB);
        return speed;
      },
    },
    { name: CP, run: async () => (await timed(to, bytes, 'cp', [sequential, to])).speed },
  ];
  const rounds = await alternate(contenders, count);
  const toCp = ratio(rounds, ours, CP);
  yield rowOf(rounds, {
    name: `${name}, start-up included`,
    unit: 'GB/s',
    ours,
    against: [CP],
    mustReach: `≥ ${least} × cp`,
    reached: () => atLeast(toCp, least),
  });
  yield rowOf(new Map([[ours, [peak]]]), {
    name: `${name}: peak`,
    unit: 'MiB',
    ours,
    against: [],
    mustReach: `≤ ${PEAK_MIB} MiB`,
    reached: (value) => atMost(value, PEAK_MIB),
  });
  rmSync(to, { force: true });
}

const bench: Bench = {
  question: 'How fast are migration streams written again, and with how much memory?',
  async *run({ quick }) {
    const folder = makeFolder(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'qemu-file-'));
    try {
      const sequential = join(folder, 'sequential.mig');
      const mapped = join(folder, 'mapped.mig');
      const bytes = await writeStream(sequential, 'dense', quick ? 65_536 : 524_288);
      const layout = (to: string): string[] => ['convert', '--layout', to];
      await timed(mapped, bytes, process.execPath, [
        MAIN,
        'convert',
        sequential,
        mapped,
        '--quiet',
        '--layout',
        'mapped-ram',
      ]);
      for (const rewriting of [
        { name: 'convert', args: ['convert'], from: sequential, least: 0.8 },
        { name: 'convert to mapped-ram', args: layout('mapped-ram'), from: sequential, least: 0.6 },
        { name: 'convert from mapped-ram', args: layout('sequential'), from: mapped, least: 0.6 },
        { name: 'compact', args: ['compact'], from: sequential, least: 0.6 },
      ]) {
        yield* rows(rewriting, folder, sequential, bytes, quick ? 1 : 5);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};
export default bench;

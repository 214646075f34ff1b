// Does a limit hold, on average and in every second, and what does waiting cost?
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathOf } from './harness/paths.ts';
import { cpuSeconds } from './harness/process.ts';
import { allOf, alternate, atMost, type Bench, type Row, rowOf } from './harness/row.ts';

const ours = 'qemu-file';
const pv = 'pv -L';
const throttle = 'stream-throttle';

const MIB = 2 ** 20;
const LIMITED = pathOf('dist/bench/harness/programs/limited-writer.js');
/** The first window is not counted. */
const WINDOW = 0.1;
const BUCKETS = 100;
const MEAN_PERCENT = 1;
const OVER_PERCENT = 2;
/** Plain Node takes 2 % on a small virtual machine to wake up a hundred times a second, as the limiter does. */
const CPU_PERCENT = 4;

/** How well a rate was kept; each figure in percent of the rate. */
interface Kept {
  /** Deviation of the mean. */
  off: number;
  /** Excess of the fullest second; negative if it stays below the rate. */
  over: number;
  /** Processor time, as a share of one core. */
  cpu: number;
}

/** Return the bytes that a command writes, in buckets of 10 ms that start at its first byte. */
async function watch(command: string, args: string[], seconds: number) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  const missing = new Promise<null>((resolve) => child.once('error', () => resolve(null)));
  const buckets = new Float64Array(Math.ceil((seconds + 2 * WINDOW) * BUCKETS));
  let start = 0;
  let begun: () => void = () => {};
  const first = new Promise<void>((resolve) => {
    begun = resolve;
  });
  child.stdout.on('data', (chunk: Buffer) => {
    const now = performance.now();
    if (start === 0) {
      start = now;
      begun();
    }
    const bucket = Math.floor(((now - start) / 1000) * BUCKETS);
    if (bucket < buckets.length) buckets[bucket] = (buckets[bucket] as number) + chunk.length;
  });
  if ((await Promise.race([missing, first])) === null) return null;
  await sleep(WINDOW * 1000);
  const pid = child.pid as number;
  const cpuBefore = cpuSeconds(pid) ?? 0;
  await sleep((seconds + WINDOW) * 1000);
  const cpu = (cpuSeconds(pid) ?? 0) - cpuBefore;
  child.kill('SIGKILL');
  child.stdout.destroy();
  return { buckets, cpuPercent: (cpu * 100) / (seconds + WINDOW) };
}

function sumOf(buckets: Float64Array, from: number, to: number): number {
  return buckets
    .subarray(Math.round(from * BUCKETS), Math.round(to * BUCKETS))
    .reduce((a, b) => a + b, 0);
}

/** Measure how well a command keeps a constant rate. */
async function keep(
  command: string,
  args: string[],
  rate: number,
  seconds: number,
): Promise<Kept | null> {
  const seen = await watch(command, args, seconds);
  if (seen === null) return null;
  const { buckets, cpuPercent } = seen;
  const mean = sumOf(buckets, WINDOW, WINDOW + seconds) / seconds;
  let most = 0;
  for (let at = 0; at + 1 <= seconds; at += 1 / BUCKETS)
    most = Math.max(most, sumOf(buckets, at, at + 1));
  return { off: Math.abs(mean / rate - 1) * 100, over: (most / rate - 1) * 100, cpu: cpuPercent };
}

function limited(who: string, chunk: number, plan: string[]): [string, string[]] {
  return [process.execPath, [LIMITED, who, String(chunk), ...plan]];
}

/** Return a row with one value per contender. */
async function row(
  name: string,
  unit: string,
  values: [string, number | null][],
  mustReach: string,
  reached: (value: number) => boolean | null,
): Promise<Row> {
  const contenders = values.map(([label, value]) => ({
    name: label,
    run: () => Promise.resolve(value),
  }));
  const rounds = await alternate(contenders, 1);
  return rowOf(rounds, {
    name,
    unit,
    ours,
    against: values.slice(1).map(([label]) => label),
    mustReach,
    reached,
  });
}

/** Return the sizes of the chunks; `write()` of small chunks cannot reach 1 GiB/s, limited or not. */
const CHUNKS = [100, 4096, 65_536, MIB];
const LARGE_CHUNKS = [65_536, MIB];
const sizeOf = (bytes: number): string =>
  bytes < 1024 ? `${bytes} B` : bytes < MIB ? `${bytes / 1024} KiB` : `${bytes / MIB} MiB`;

const bench: Bench = {
  question: 'Does a limit hold, on average and in every second, and what does waiting cost?',
  async *run({ quick }) {
    const seconds = quick ? 1 : 5;
    for (const mib of [1, 10, 100, 1024]) {
      const rate = mib * MIB;
      const plan = [`${rate}x${seconds}`];
      const chunks = mib === 1024 ? LARGE_CHUNKS : CHUNKS;
      const runs: [string, () => Promise<Kept | null>][] = [
        ...chunks.map((chunk): [string, () => Promise<Kept | null>] => [
          sizeOf(chunk),
          () => keep(...limited('ours', chunk, plan), rate, seconds),
        ]),
        [pv, () => keep('sh', ['-c', `exec pv -q -L ${rate} < /dev/zero`], rate, seconds)],
        [throttle, () => keep(...limited('throttle', 65_536, plan), rate, seconds)],
      ];
      // Slow rates run at the same time; fast ones need the machine for themselves.
      const kept = new Map<string, Kept | null>();
      if (mib <= 10 || quick) {
        const all = await Promise.all(runs.map(([, run]) => run()));
        runs.forEach(([label], i) => void kept.set(label, all[i] ?? null));
      } else {
        for (const [label, run] of runs) kept.set(label, await run());
      }
      const worst = (of: (one: Kept) => number): number =>
        Math.max(...chunks.map((chunk) => of(kept.get(sizeOf(chunk)) as Kept)));
      const value = (label: string, of: (one: Kept) => number): [string, number | null] => {
        const one = kept.get(label);
        return [label, one ? of(one) : null];
      };
      const compared = (of: (one: Kept) => number): [string, number | null][] => [
        [ours, worst(of)],
        value(pv, of),
        value(throttle, of),
      ];
      const name = `limit of ${mib} MiB/s, ${chunks.map(sizeOf).join(', ')}`;
      yield await row(
        `${name}: mean off by`,
        '%',
        compared((one) => one.off),
        `≤ ${MEAN_PERCENT} %`,
        (v) => atMost(v, MEAN_PERCENT),
      );
      yield await row(
        `${name}: fullest second over by`,
        '%',
        compared((one) => one.over),
        `≤ ${OVER_PERCENT} %`,
        (v) => atMost(v, OVER_PERCENT),
      );
      if (mib === 1) {
        const cpu = (one: Kept): number => one.cpu;
        const [, mine] = value(sizeOf(MIB), cpu);
        const others = [value(pv, cpu), value(throttle, cpu)];
        yield await row(
          'limit of 1 MiB/s, 1 MiB: processor time',
          '%',
          [[ours, mine], ...others],
          `≤ ${CPU_PERCENT} %`,
          (v) => atMost(v, CPU_PERCENT),
        );
      }
    }
    const step = quick ? 0.6 : 2;
    const rates = [10, 50, 10];
    const plan = rates.map((mib) => `${mib * MIB}x${step}`);
    const seen = await watch(...limited('ours', 65_536, plan), step * rates.length);
    const off = rates.map((mib, i) => {
      const from = i * step + WINDOW;
      const mean =
        sumOf(seen?.buckets ?? new Float64Array(), from, (i + 1) * step) / (step - WINDOW);
      return Math.abs(mean / (mib * MIB) - 1) * 100;
    });
    const worst = Math.max(...off);
    yield await row(
      'limit changed while running (10, 50, 10 MiB/s): mean off by',
      '%',
      [[ours, worst]],
      `≤ ${MEAN_PERCENT} %`,
      (v) => allOf(atMost(v, MEAN_PERCENT)),
    );
  },
};
export default bench;

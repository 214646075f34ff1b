// Does the JIT stay on the fast path, and do puts and gets allocate nothing?
import { fork } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { pathOf } from './harness/paths.ts';
import type { HeapGrowth } from './harness/programs/steady-state.ts';
import { alternate, atMost, type Bench, rowOf } from './harness/row.ts';

const ours = 'qemu-file';
const STEADY = pathOf('dist/bench/harness/programs/steady-state.js');
const SETTLED = '-- settled --';

/** Result of one run. */
interface Steady extends HeapGrowth {
  /** Functions that were deoptimised more than once. */
  deopts: number;
}

/** Run the puts and gets; return what they left on the heap and what V8 deoptimised. */
async function steady(): Promise<Steady> {
  const child = fork(STEADY, {
    // Without scavenges the heap shows every young object.
    execArgv: ['--expose-gc', '--max-semi-space-size=256', '--trace-deopt'],
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  });
  const growth = new Promise<HeapGrowth>((resolve) => {
    child.once('message', (message) => resolve(message as HeapGrowth));
  });
  const output = await text(child.stdout as NonNullable<typeof child.stdout>);
  const times = new Map<string, number>();
  for (const [, name = ''] of output
    .slice(output.indexOf(SETTLED))
    .matchAll(/bailout \(kind.*?<JSFunction (\S*)/g)) {
    times.set(name, (times.get(name) ?? 0) + 1);
  }
  return { ...(await growth), deopts: [...times.values()].filter((count) => count > 1).length };
}

const bench: Bench = {
  question: 'Does the JIT stay on the fast path, and do puts and gets allocate nothing?',
  async *run(mode) {
    const runs: Steady[] = [];
    for (let round = 0; round < (mode.quick ? 1 : 5); round++) runs.push(await steady());
    const row = async (name: string, unit: string, most: number, values: number[]) => {
      const left = [...values];
      const run = (): Promise<number> => Promise.resolve(left.shift() as number);
      return rowOf(await alternate([{ name: ours, run }], values.length), {
        name,
        unit,
        ours,
        against: [],
        mustReach: `≤ ${most} ${unit}`,
        reached: (value) => atMost(value, most),
      });
    };
    const perOp = (bytes: number): number => bytes / 1e6;
    const puts = runs.map((run) => perOp(run.puts));
    const gets = runs.map((run) => perOp(run.gets));
    const deopts = runs.map((run) => run.deopts);
    yield await row('heap growth per put', 'bytes', 1, puts);
    yield await row('heap growth per get', 'bytes', 1, gets);
    yield await row('functions deoptimised more than once', 'functions', 0, deopts);
  },
};
export default bench;

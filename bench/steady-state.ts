// Does the JIT stay on the fast path, and do puts and gets allocate nothing?
import { fork } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { alternate, atMost, type Bench, rowOf } from './harness/row.ts';
import type { HeapGrowth } from './harness/steady.ts';

const ours = 'qemu-file';
const STEADY = fileURLToPath(new URL('harness/steady.ts', import.meta.url));
const SETTLED = '-- settled --';

/** Runs the puts and gets: what they left on the heap, and what V8 said of its optimised code. */
async function steady(): Promise<HeapGrowth & { deopts: number }> {
  const child = fork(STEADY, {
    // Young objects stay where they are, so that the heap shows every one.
    execArgv: ['--expose-gc', '--max-semi-space-size=256', '--trace-deopt', '--import', 'tsx'],
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  });
  const growth = new Promise<HeapGrowth>((resolve) => {
    child.once('message', (message) => resolve(message as HeapGrowth));
  });
  const output = await text(child.stdout as NonNullable<typeof child.stdout>);
  const after = output.slice(output.indexOf(SETTLED));
  const deopts = after.split('\n').filter((line) => line.includes('bailout (kind')).length;
  return { ...(await growth), deopts };
}

const bench: Bench = {
  question: 'Does the JIT stay on the fast path, and do puts and gets allocate nothing?',
  async *run(mode) {
    const runs: (HeapGrowth & { deopts: number })[] = [];
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
    const kib = (bytes: number): number => bytes / 1024;
    yield await row(
      'heap growth per million puts',
      'KiB',
      512,
      runs.map((r) => kib(r.puts)),
    );
    yield await row(
      'heap growth per million gets',
      'KiB',
      512,
      runs.map((r) => kib(r.gets)),
    );
    yield await row(
      'deoptimisations in the steady state',
      'times',
      0,
      runs.map((r) => r.deopts),
    );
  },
};
export default bench;

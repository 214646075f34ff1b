// How long does the command take to start?
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { alternate, atMost, type Bench, type Contender, ratio, rowOf } from './harness/row.ts';

const ours = 'qemu-file --version';
const floor = 'node -e 0';
const MAX_RATIO = 1.5;
const MAIN = fileURLToPath(new URL('../dist/lib/cli/main.js', import.meta.url));

function milliseconds(name: string, args: string[]): Contender {
  return {
    name,
    run: () => {
      const start = performance.now();
      execFileSync(process.execPath, args, { stdio: 'ignore' });
      return Promise.resolve(performance.now() - start);
    },
  };
}

const bench: Bench = {
  question: 'How long does the command take to start?',
  async *run({ quick }) {
    const contenders = [milliseconds(ours, [MAIN, '--version']), milliseconds(floor, ['-e', '0'])];
    const rounds = await alternate(contenders, quick ? 3 : 25);
    const toFloor = ratio(rounds, ours, floor);
    yield rowOf(rounds, {
      name: 'start-up',
      unit: 'ms',
      ours,
      against: [floor],
      mustReach: `≤ ${MAX_RATIO} × floor`,
      reached: () => atMost(toFloor, MAX_RATIO),
    });
  },
};
export default bench;

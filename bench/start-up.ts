// How long does the command take to start?
import { execFileSync } from 'node:child_process';
import { MAIN, pathOf } from './harness/paths.ts';
import { alternate, atMost, type Bench, type Contender, ratio, rowOf } from './harness/row.ts';

const floor = 'node -e 0';
/** A stream of 0.8 MB, 20 kB as gzip, with 47 devices. */
const SMALL_STREAM = pathOf('test/fixtures/pc.mig.gz');

/** Commands that do little or nothing after they have started, and the limit of each, in start-ups of Node. */
const COMMANDS = [
  { name: 'start-up', ours: 'qemu-file --version', args: ['--version'], maxRatio: 1.5 },
  {
    name: 'start-up and a small stream',
    ours: 'qemu-file verify',
    args: ['verify', SMALL_STREAM],
    maxRatio: 1.6,
  },
];

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
    for (const { name, ours, args, maxRatio } of COMMANDS) {
      const contenders = [milliseconds(ours, [MAIN, ...args]), milliseconds(floor, ['-e', '0'])];
      const rounds = await alternate(contenders, quick ? 3 : 25);
      const toFloor = ratio(rounds, ours, floor);
      yield rowOf(rounds, {
        name,
        unit: 'ms',
        ours,
        against: [floor],
        mustReach: `≤ ${maxRatio} × floor`,
        reached: () => atMost(toFloor, maxRatio),
      });
    }
  },
};
export default bench;

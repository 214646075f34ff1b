// How fast are two guests compared, and in how much memory?
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeStream } from './harness/data/migration-streams.ts';
import { makeFolder } from './harness/folder.ts';
import { MAIN } from './harness/paths.ts';
import { start } from './harness/process.ts';
import { alternate, atLeast, atMost, type Bench, type Contender, rowOf } from './harness/row.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
/** One in so many pages differs where not all are the same. */
const CHANGED_EVERY = 50;
const MIN_GB_PER_S = 1;
const MAX_PEAK_MIB = 200;

const ours = 'qemu-file diff';
const peer = 'cat of both';

const bench: Bench = {
  question: 'How fast are two guests compared, and in how much memory?',
  async *run({ quick }) {
    const folder = makeFolder('/dev/shm/qemu-file-diff-');
    const sizes = quick ? [0.25] : [2, 4];
    const rounds = quick ? 1 : 3;
    try {
      for (const gib of sizes) {
        const path = (name: string): string => join(folder, `${name}-${gib}`);
        const pages = (gib * GIB) / PAGE;
        let bytes = await writeStream(path('a'), 'dense', pages);
        bytes += await writeStream(path('changed'), 'dense', pages, CHANGED_EVERY);
        await writeStream(path('same'), 'dense', pages);
        for (const [b, what, code] of [
          ['same', 'the same', 0],
          ['changed', `1 page of ${CHANGED_EVERY} changed`, 1],
        ] as const) {
          let peakMiB = 0;
          const timed = (
            name: string,
            command: string,
            args: string[],
            end: number,
          ): Contender => ({
            name,
            run: async () => {
              const began = performance.now();
              const { used, ended } = start(command, args);
              if ((await ended) !== end) throw new Error(`${name} failed`);
              if (name === ours) peakMiB = Math.max(peakMiB, used.peakMiB);
              return bytes / (performance.now() - began) / 1e6;
            },
          });
          const both = [path('a'), path(b)];
          const results = await alternate(
            [
              timed(ours, process.execPath, [MAIN, 'diff', ...both, '--quiet'], code),
              timed(peer, 'cat', both, 0),
            ],
            rounds,
          );
          const name = `2 × ${gib} GiB, ${what}`;
          yield rowOf(results, {
            name,
            unit: 'GB/s',
            ours,
            against: [peer],
            mustReach: `≥ ${MIN_GB_PER_S} GB/s of both together`,
            reached: (value) => atLeast(value, MIN_GB_PER_S),
          });
          const peak = { name: ours, run: () => Promise.resolve(peakMiB) };
          yield rowOf(await alternate([peak], 1), {
            name: `memory, ${name}`,
            unit: 'MiB',
            ours,
            against: [],
            mustReach: `≤ ${MAX_PEAK_MIB} MiB`,
            reached: (value) => atMost(value, MAX_PEAK_MIB),
          });
        }
        for (const name of ['a', 'same', 'changed']) rmSync(path(name));
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;

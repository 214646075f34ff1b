// What does it cost a new file to make holes of zeros, and what does it gain?
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openFd } from 'qemu-file/adapters';
import { makeFolder } from './harness/folder.ts';
import {
  alternate,
  atLeast,
  type Bench,
  type Contender,
  type Rounds,
  type Row,
  ratio,
  rowOf,
} from './harness/row.ts';

const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
const holes = 'with holes';
const written = 'all written';

/** Input of the writers: one batch of 1 MiB, which is written again and again. */
interface Input {
  name: string;
  bytes: Buffer;
  /** Least speed as a multiple of writing all. */
  minRatio?: number;
}

function inputs(): Input[] {
  const dense = Buffer.alloc(MIB);
  for (let at = 0; at < MIB; at += 4) dense.writeUInt32LE(Math.imul(at + 1, 2654435761) >>> 0, at);
  return [
    { name: 'dense data', bytes: dense, minRatio: 0.95 },
    { name: 'pages that begin with zeros', bytes: zeroed(dense, PAGE_BYTES, 64), minRatio: 0.85 },
    // The worst case: one call for every page.
    { name: 'every second page zero', bytes: zeroed(dense, 2 * PAGE_BYTES, PAGE_BYTES) },
    { name: 'zeros', bytes: Buffer.alloc(MIB, 1).fill(0), minRatio: 2 },
  ];
}

/** Return a copy with zeros at the start of each stretch of `stride` bytes. */
function zeroed(bytes: Buffer, stride: number, zeros: number): Buffer {
  const copy = Buffer.from(bytes);
  for (let at = 0; at < copy.length; at += stride) copy.fill(0, at, at + zeros);
  return copy;
}

function writer(name: string, path: string, input: Input, batches: number): Contender {
  return {
    name,
    run: async () => {
      const ops = await openFd(path, { direction: 'write', sparse: name === holes });
      const start = performance.now();
      for (let batch = 0; batch < batches; batch++) {
        await ops.writevBuffer([input.bytes], batch * MIB);
      }
      const ms = performance.now() - start;
      await ops.close(new Error('not kept'));
      return (batches * MIB) / (ms * 1e6);
    },
  };
}

function row(rounds: Rounds, { name, minRatio }: Input): Row {
  const toWritten = ratio(rounds, holes, written);
  return rowOf(rounds, {
    name: `${name} to a new file`,
    unit: 'GB/s',
    ours: holes,
    against: [written],
    mustReach: minRatio === undefined ? '' : `≥ ${minRatio} × all written`,
    reached: () => minRatio === undefined || atLeast(toWritten, minRatio),
  });
}

const bench: Bench = {
  question: 'What does it cost a new file to make holes of zeros, and what does it gain?',
  async *run({ quick }) {
    const directory = makeFolder(join(tmpdir(), 'qemu-file-bench-'));
    try {
      const batches = quick ? 32 : 256;
      for (const input of inputs()) {
        const path = join(directory, 'file');
        const contenders = [holes, written].map((name) => writer(name, path, input, batches));
        await alternate(contenders, 1);
        yield row(await alternate(contenders, quick ? 3 : 15), input);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
};
export default bench;

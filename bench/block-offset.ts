// Does the offset of an I/O block within its memory page matter? Decides lib/util/aligned-block.ts.
import { closeSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { allocateBlock } from '../lib/util/aligned-block.ts';
import { makeFolder } from './harness/folder.ts';
import { alternate, type Bench, type Contender, rowOf } from './harness/row.ts';

const ours = 'our block';
const floor = 'Buffer.allocUnsafeSlow';
const SIZE = 256 * 1024;
const FILE = 64 * 2 ** 20;

type Call = (fd: number, block: Buffer, at: number) => unknown;

const CALLS: Record<string, Call> = {
  'reading a file': (fd, block, at) => readSync(fd, block, 0, SIZE, at),
  'writing a file': (fd, block, at) => writeSync(fd, block, 0, SIZE, at),
};

/** Return bytes per nanosecond of repeated I/O on one block. */
function speed(fd: number, block: Buffer, call: Call, bytes: number): number {
  const start = performance.now();
  for (let at = 0; at < bytes; at += SIZE) call(fd, block, at % FILE);
  return bytes / ((performance.now() - start) * 1e6);
}

const bench: Bench = {
  question: 'Does the offset of an I/O block within its memory page matter?',
  async *run({ quick }) {
    const folder = makeFolder('/dev/shm/qemu-file-bench-');
    try {
      const path = join(folder, 'file');
      writeFileSync(path, Buffer.alloc(FILE, 0xa5));
      const fd = openSync(path, 'r+');
      const bytes = quick ? FILE : 8 * FILE;
      for (const [name, call] of Object.entries(CALLS)) {
        const timed = (label: string, make: (size: number) => Buffer): Contender => ({
          name: label,
          run: () => Promise.resolve(speed(fd, make(SIZE).fill(0xa5), call, bytes)),
        });
        const contenders = [
          timed(ours, allocateBlock),
          timed(floor, (size) => Buffer.allocUnsafeSlow(size)),
        ];
        const rounds = await alternate(contenders, quick ? 1 : 9);
        yield rowOf(rounds, { name: `${name}, one block`, unit: 'GB/s', ours, against: [floor] });
      }
      closeSync(fd);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;

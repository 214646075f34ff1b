// Which buffer size is best for reading a file?
import { rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { openFrom } from 'qemu-file/adapters';
import { makeFolder } from './harness/folder.ts';
import { alternate, type Bench, type Contender, rowOf } from './harness/row.ts';

const KIB = 1024;
const SIZES = [32, 64, 128, 256, 512, 1024];

async function ours(path: string, lookAheadSize: number): Promise<number> {
  const file = await openFrom(path, { file: { lookAheadSize } });
  let bytes = 0;
  file.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
  });
  await new Promise((resolve) => file.once('end', resolve));
  await file.close();
  return bytes;
}

async function floor(path: string, size: number): Promise<number> {
  const handle = await open(path);
  const buffer = Buffer.allocUnsafeSlow(size);
  let bytes = 0;
  for (;;) {
    const { bytesRead } = await handle.read(buffer, 0, size, null);
    if (bytesRead === 0) break;
    bytes += bytesRead;
  }
  await handle.close();
  return bytes;
}

const bench: Bench = {
  question: 'Which buffer size is best for reading a file?',
  async *run({ quick }) {
    const folder = makeFolder('/dev/shm/qemu-file-bench-');
    const path = join(folder, 'file');
    try {
      writeFileSync(path, Buffer.alloc((quick ? 16 : 512) * KIB * KIB, 0xa5));
      const timed = (name: string, work: () => Promise<number>): Contender => ({
        name,
        run: async () => {
          const start = performance.now();
          const bytes = await work();
          return bytes / ((performance.now() - start) * 1e6);
        },
      });
      // All sizes are measured in one run, so that they can be compared.
      const contenders = SIZES.flatMap((kib) => [
        timed(`${kib} KiB`, () => ours(path, kib * KIB)),
        timed(`fs.read, ${kib} KiB`, () => floor(path, kib * KIB)),
      ]);
      const rounds = await alternate(contenders, quick ? 1 : 5);
      for (const kib of SIZES) {
        yield rowOf(rounds, {
          name: `reading a file, ${kib} KiB at a time`,
          unit: 'GB/s',
          ours: `${kib} KiB`,
          against: [`fs.read, ${kib} KiB`],
        });
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;

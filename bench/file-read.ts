// How large should the buffer be that a file is read into? Whole files through `read()`, by size.
//
//   npm run bench
//
// The floor is what plain Node can do: `fs.read` into one reused buffer of the same size.
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { openFrom } from '../adapters/index.ts';

const BYTES = 512 * 2 ** 20;
const ROUNDS = 5;
const SIZES = [32, 64, 128, 256, 512, 1024].map((kib) => kib * 1024);

const path = join(tmpdir(), `qemu-file-bench-${process.pid}`);

function makeFile(): void {
  const fd = openSync(path, 'wx', 0o600);
  const block = Buffer.alloc(2 ** 20, 0xa5);
  for (let at = 0; at < BYTES; at += block.length) writeSync(fd, block);
  closeSync(fd);
}

async function ours(lookAheadSize: number): Promise<number> {
  const file = await openFrom(path, { file: { lookAheadSize } });
  const start = performance.now();
  let bytes = 0;
  file.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
  });
  await new Promise((resolve) => file.once('end', resolve));
  const seconds = (performance.now() - start) / 1000;
  await file.close();
  return bytes / seconds;
}

async function floor(size: number): Promise<number> {
  const handle = await open(path);
  const buffer = Buffer.allocUnsafeSlow(size);
  const start = performance.now();
  let bytes = 0;
  for (;;) {
    const { bytesRead } = await handle.read(buffer, 0, size, null);
    if (bytesRead === 0) break;
    bytes += bytesRead;
  }
  const seconds = (performance.now() - start) / 1000;
  await handle.close();
  return bytes / seconds;
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1] as number;
}

makeFile();
try {
  const figures = SIZES.map((size) => ({ size, ours: [] as number[], floor: [] as number[] }));
  // Alternated, so that a noisy moment hits all sizes alike.
  for (let round = 0; round < ROUNDS; round++) {
    for (const row of figures) {
      row.ours.push(await ours(row.size));
      row.floor.push(await floor(row.size));
    }
  }
  console.log(
    `Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model}, file in ${tmpdir()}`,
  );
  console.log('lookAheadSize     GB/s    fs.read    ratio');
  for (const { size, ours, floor } of figures) {
    const [a, b] = [median(ours) / 1e9, median(floor) / 1e9];
    const cells = [`${size / 1024} KiB`.padEnd(13), a.toFixed(2), b.toFixed(2), (a / b).toFixed(2)];
    console.log(cells.map((cell) => cell.padStart(8)).join('  '));
  }
} finally {
  rmSync(path);
}

// How fast are RAM records read one by one from a socket, a pipe and a file?
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { QemuFile, type QemuFileOps } from 'qemu-file';
import { execOps, openFd, socketOps } from 'qemu-file/adapters';
import { PAGE, RECORD, recordsIn } from './harness/data/ram-records.ts';
import { FarEnd, type Way } from './harness/ends.ts';
import { makeFolder } from './harness/folder.ts';
import { alternate, atLeast, type Bench, type Contender, ratio, rowOf } from './harness/row.ts';

const ours = 'qemu-file';
const floor = "'data' thrown away";
const MIN_RATIO = 0.85;

/** A source of records, and the ways to read it. */
interface Place {
  name: string;
  ops: () => Promise<QemuFileOps>;
  /** Read everything without looking at it. */
  floor: () => Promise<number>;
}

/** Read record by record: wait once for many, then read them without waiting. */
async function readRecords(ops: QemuFileOps, records: number): Promise<number> {
  const file = new QemuFile(ops);
  let left = records;
  let sum = 0;
  while (left > 0) {
    const there = Math.floor((await file.fill(RECORD)) / RECORD);
    for (let i = 0; i < there; i++) {
      sum += file.getBe64() % PAGE;
      sum += file.getBufferInPlace(PAGE).length;
    }
    left -= there;
  }
  await file.close();
  return sum;
}

async function dropAll(stream: Readable): Promise<number> {
  let bytes = 0;
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
  });
  await once(stream, 'end');
  stream.destroy();
  return bytes;
}

function socketPlace(name: string, way: Way, far: FarEnd): Place {
  return {
    name,
    ops: async () => socketOps(await far.connect(way)),
    floor: async () => dropAll(await far.connect(way)),
  };
}

function pipePlace(path: string): Place {
  const command = `cat ${path}`;
  return {
    name: "a child's pipe",
    ops: () => Promise.resolve(execOps(command, 'read')),
    floor: async () => {
      const child: ChildProcess = spawn('sh', ['-c', command], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      return dropAll(child.stdout as Readable);
    },
  };
}

function filePlace(path: string): Place {
  return {
    name: 'file on tmpfs',
    ops: () => openFd(path, { direction: 'read' }),
    floor: async () => {
      const handle = await open(path);
      const buffer = Buffer.allocUnsafeSlow(256 * 1024);
      let bytes = 0;
      for (;;) {
        const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
        if (bytesRead === 0) break;
        bytes += bytesRead;
      }
      await handle.close();
      return bytes;
    },
  };
}

/** Write a file of `records` records. */
function makeFile(path: string, records: number): void {
  const block = recordsIn(1024 * 1024);
  const inBlock = block.length / RECORD;
  writeFileSync(path, '');
  for (let left = records; left > 0; left -= inBlock) {
    const part = left < inBlock ? block.subarray(0, left * RECORD) : block;
    writeFileSync(path, part, { flag: 'a' });
  }
}

const bench: Bench = {
  question: 'How fast are RAM records read one by one?',
  async *run({ quick }) {
    const records = quick ? 16_384 : 262_144;
    using far = await FarEnd.start('source', records);
    const shm = makeFolder('/dev/shm/qemu-file-bench-');
    try {
      const path = join(shm, 'records');
      makeFile(path, records);
      const places = [
        socketPlace('unix socket', 'unix', far),
        socketPlace('TCP loopback', 'tcp', far),
        socketPlace('TLS 1.3 loopback', 'tls', far),
        pipePlace(path),
        filePlace(path),
      ];
      const timed = (name: string, work: () => Promise<number>): Contender => ({
        name,
        run: async () => {
          const start = performance.now();
          if ((await work()) === 0) throw new Error(`${name} read nothing`);
          return (records * RECORD) / ((performance.now() - start) * 1e6);
        },
      });
      for (const place of places) {
        const contenders = [
          timed(ours, async () => readRecords(await place.ops(), records)),
          timed(floor, place.floor),
        ];
        // Warm up the JIT for both.
        if (!quick) await alternate(contenders, 1);
        const rounds = await alternate(contenders, quick ? 1 : 5);
        const toFloor = ratio(rounds, ours, floor);
        yield rowOf(rounds, {
          name: `records from ${place.name}`,
          unit: 'GB/s',
          ours,
          against: [floor],
          mustReach: `≥ ${MIN_RATIO} × floor`,
          reached: () => atLeast(toFloor, MIN_RATIO),
        });
      }
    } finally {
      rmSync(shm, { recursive: true, force: true });
    }
  },
};
export default bench;

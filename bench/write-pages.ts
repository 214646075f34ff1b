// How fast are RAM pages written to a socket, a pipe and a file?
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, rmSync, writevSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { QemuFile, type QemuFileOps } from 'qemu-file';
import { execOps, openFd, socketOps } from 'qemu-file/adapters';
import { pageOf, RECORD, recordsIn, wordOf } from './harness/data/ram-records.ts';
import { ended, FarEnd, type Way } from './harness/ends.ts';
import { makeFolder } from './harness/folder.ts';
import { ofC } from './harness/micro.ts';
import {
  allOf,
  alternate,
  atLeast,
  type Bench,
  type Contender,
  ratio,
  rowOf,
} from './harness/row.ts';

const ours = 'qemu-file';
const floor = '256 KiB buffers';
const direct = '256 KiB buffers, writevSync';
const naive = 'write() per field';
const calls = 'writev calls';

/** The same bytes in as many different blocks: a single one would stay in the processor's cache. */
const BLOCKS = Array.from({ length: 64 }, () => recordsIn(256 * 1024));
const BLOCK_RECORDS = blockOf(0).length / RECORD;
/** Buffers that the floor keeps in flight: with only one, the peer waits for the next. */
const IN_FLIGHT = 2;
/** GB/s to a unix socket: QEMU 7.2's qemu-file.c gathers pages by reference, and writes to a draining process. */
const C_UNIX = 3.6;
/** Least part of that. */
const MIN_OF_C = 0.9;
/** The naive contender writes a part of the records, because it is slow. */
const NAIVE_PART = 4;

function blockOf(i: number): Buffer {
  return BLOCKS[i % BLOCKS.length] as Buffer;
}

/** A destination for pages, and the ways to write to it. Each way ends when everything has arrived. */
interface Place {
  name: string;
  records: number;
  /** Least ratio to the floor. */
  least: number;
  /** A backend whose `close()` waits until everything has arrived. */
  ops: () => Promise<QemuFileOps>;
  /** The fastest way in plain Node. */
  floor: (blocks: number) => Promise<void>;
  /** The fastest way in Node past its streams, where it is measured. */
  direct?: (blocks: number) => Promise<void>;
  /** GB/s in C. */
  inC?: number;
  /** A stream, and the function that ends it. */
  stream: () => Promise<{ stream: Writable; arrived: () => Promise<unknown> }>;
}

async function putPages(ops: QemuFileOps, records: number): Promise<number> {
  let count = 0;
  const file = new QemuFile({
    ...ops,
    writevBuffer: (buffers, position) => {
      count += 1;
      return ops.writevBuffer?.(buffers, position) ?? 0;
    },
  });
  for (let i = 0; i < records; i++) {
    file.putBe64(wordOf(i));
    file.putBufferAsync(pageOf(i));
    if (file.rateLimitExceeded()) await file.drain();
  }
  await file.close();
  return count;
}

async function writeFields(stream: Writable, records: number): Promise<void> {
  for (let i = 0; i < records; i++) {
    const word = Buffer.allocUnsafe(8);
    word.writeBigUInt64BE(BigInt(wordOf(i)));
    stream.write(word);
    if (!stream.write(pageOf(i))) await once(stream, 'drain');
  }
}

/** Write blocks, up to a number of them at a time. */
function writeBlocks(stream: Writable, blocks: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let left = blocks;
    let inFlight = 0;
    const next = (error?: Error | null): void => {
      if (error) reject(error);
      inFlight -= 1;
      if (left === 0 && inFlight === 0) resolve();
      while (left > 0 && inFlight < IN_FLIGHT) {
        left -= 1;
        inFlight += 1;
        stream.write(blockOf(left), next);
      }
    };
    inFlight = 1;
    next();
  });
}

/** Write blocks to a socket's own descriptor, and only what the kernel does not take at once with the socket. */
async function writeBlocksDirectly(socket: Socket, blocks: number): Promise<void> {
  // Node has no public name of a socket's descriptor.
  const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
  for (let i = blocks; i > 0; i--) {
    const block = blockOf(i);
    let done = 0;
    try {
      done = writevSync(fd, [block]);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    }
    if (done === block.length) continue;
    await new Promise((resolve) => void socket.write(block.subarray(done), resolve));
  }
}

function socketPlace(name: string, way: Way, far: FarEnd, records: number): Place {
  const stream = async () => {
    const socket = await far.connect(way);
    const end = ended(socket);
    const arrived = async (): Promise<void> => {
      socket.end();
      await end;
      socket.destroy();
    };
    return { stream: socket, arrived };
  };
  return {
    name,
    records,
    least: way === 'tls' ? 0.95 : 0.9,
    ops: async () => socketOps(await far.connect(way), { lingerMs: 60_000 }),
    floor: async (blocks) => {
      const { stream: socket, arrived } = await stream();
      await writeBlocks(socket, blocks);
      await arrived();
    },
    ...(way === 'unix' && {
      inC: C_UNIX,
      direct: async (blocks: number) => {
        const { stream: socket, arrived } = await stream();
        await writeBlocksDirectly(socket, blocks);
        await arrived();
      },
    }),
    stream,
  };
}

const SINK = 'cat > /dev/null';

function pipePlace(records: number): Place {
  const stream: Place['stream'] = () => {
    const child: ChildProcess = spawn('sh', ['-c', SINK], { stdio: ['pipe', 'ignore', 'inherit'] });
    const closed = once(child, 'close');
    const stdin = child.stdin as Writable;
    const arrived = (): Promise<unknown> => {
      stdin.end();
      return closed;
    };
    return Promise.resolve({ stream: stdin, arrived });
  };
  return {
    name: "a child's pipe",
    records,
    least: 0.9,
    ops: () => Promise.resolve(execOps(SINK, 'write')),
    floor: async (blocks) => {
      const { stream: stdin, arrived } = await stream();
      await writeBlocks(stdin, blocks);
      await arrived();
    },
    stream,
  };
}

/** Every contender syncs its file, because a saved guest must be on disk. */
function filePlace(name: string, folder: string, records: number): Place {
  const path = (): string => {
    const file = join(folder, 'file');
    // Remove the old file first, or its memory is freed only after the new one is written.
    rmSync(file, { force: true });
    return file;
  };
  return {
    name,
    records,
    least: 0.9,
    ops: () => openFd(path(), { direction: 'write' }),
    floor: async (blocks) => {
      const handle = await open(path(), 'w');
      for (let i = 0; i < blocks; i++) await handle.write(blockOf(i));
      await handle.sync();
      await handle.close();
    },
    stream: () => {
      const stream = createWriteStream(path(), { flush: true });
      const closed = once(stream, 'close');
      const arrived = (): Promise<unknown> => {
        stream.end();
        return closed;
      };
      return Promise.resolve({ stream, arrived });
    },
  };
}

/** Return bytes per nanosecond of some work. */
async function speed(records: number, work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (records * RECORD) / ((performance.now() - start) * 1e6);
}

function directOf(write: (blocks: number) => Promise<void>, records: number): Contender {
  const blocks = Math.ceil(records / BLOCK_RECORDS);
  return { name: direct, run: () => speed(blocks * BLOCK_RECORDS, () => write(blocks)) };
}

function contendersOf(place: Place, records: number, noteCalls: (count: number) => void) {
  const contenders: Contender[] = [
    {
      name: ours,
      run: async () => {
        const ops = await place.ops();
        return speed(records, async () => noteCalls(await putPages(ops, records)));
      },
    },
    {
      name: floor,
      run: () => {
        const blocks = Math.ceil(records / BLOCK_RECORDS);
        return speed(blocks * BLOCK_RECORDS, () => place.floor(blocks));
      },
    },
    ...(place.direct === undefined ? [] : [directOf(place.direct, records)]),
    {
      name: naive,
      run: async () => {
        const few = Math.ceil(records / NAIVE_PART);
        const { stream, arrived } = await place.stream();
        return speed(few, async () => {
          await writeFields(stream, few);
          await arrived();
        });
      },
    },
  ];
  return contenders;
}

const bench: Bench = {
  question: 'How fast are RAM pages written to a socket, a pipe and a file?',
  async *run({ quick }) {
    using far = await FarEnd.start('sink');
    const shm = makeFolder('/dev/shm/qemu-file-bench-');
    const disk = makeFolder(join(tmpdir(), 'qemu-file-bench-'));
    const GiB = 262_144;
    const part = quick ? 32 : 1;
    const places = [
      socketPlace('unix socket', 'unix', far, GiB / part),
      socketPlace('TCP loopback', 'tcp', far, GiB / part),
      socketPlace('TLS 1.3 loopback', 'tls', far, GiB / part / 2),
      pipePlace(GiB / part),
      filePlace('file on tmpfs', shm, GiB / part),
      filePlace('file on disk', disk, GiB / part / 2),
    ];
    try {
      for (const place of places) {
        let count = 0;
        const noteCalls = (made: number): void => {
          count = made;
        };
        // Warm up the JIT for each contender.
        await alternate(contendersOf(place, GiB / 32, noteCalls), 1);
        const rounds = await alternate(
          contendersOf(place, place.records, noteCalls),
          quick ? 1 : 5,
        );
        const { least, inC } = place;
        const toFloor = ratio(rounds, ours, floor);
        const toNaive = ratio(rounds, ours, naive);
        yield rowOf(rounds, {
          name: `pages to ${place.name}`,
          unit: 'GB/s',
          ours,
          against: place.direct === undefined ? [floor, naive] : [floor, direct, naive],
          recorded: inC === undefined ? [] : ofC(inC),
          mustReach: `≥ ${least} × floor, ≥ 4 × naive${inC === undefined ? '' : `, ≥ ${MIN_OF_C} × C`}`,
          reached: (value) =>
            allOf(
              atLeast(toFloor, least),
              atLeast(toNaive, 4),
              inC === undefined || value >= MIN_OF_C * inC,
            ),
        });
        yield rowOf(new Map([[calls, [(count * GiB) / place.records]]]), {
          name: `pages to ${place.name}: writev calls`,
          unit: 'per GiB',
          ours: calls,
          against: [],
        });
      }
    } finally {
      for (const folder of [shm, disk]) rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;

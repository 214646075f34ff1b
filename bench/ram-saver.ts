// Does RamSaver send guest memory as fast as QEMU, and how fast are pages of zeros recognised?
import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { QemuFile } from 'qemu-file';
import { socketOps } from 'qemu-file/adapters';
import { MemoryPageSource, MigrationWriter, RamSaver } from 'qemu-file/migration';
import { PageBuffer } from '../lib/migration/ram-saver/page-buffer.ts';
import { RECORD } from './harness/data/ram-records.ts';
import { ended, FarEnd } from './harness/ends.ts';
import { makeFolder } from './harness/folder.ts';
import { Guest, writeMemory } from './harness/guest.ts';
import {
  alternate,
  atLeast,
  type Bench,
  type Contender,
  type Row,
  ratio,
  rowOf,
} from './harness/row.ts';

const MIB = 2 ** 20;
const PAGE = 4096;
const ours = 'qemu-file';
const peer = 'migrate unix:';
/** The fastest way in plain Node that sends the same bytes: pages copied into one buffer while another is sent. */
const floor = 'plain Node';
/** Pages that the saver reads at a time. */
const RUN_PAGES = 64;
const LEAST_ZERO_GBPS = 5;
/** Bytes of each buffer of plain Node. */
const BUFFER = 262_144;

/** Return a contender that recognises the pages of a buffer, as often as takes long enough to be measured. */
function zeroContender(name: string, pages: number, countZeros: () => number): Contender {
  const repeats = 4000;
  return {
    name,
    run: () => {
      let zeros = 0;
      const began = performance.now();
      for (let i = 0; i < repeats; i++) zeros += countZeros();
      const seconds = (performance.now() - began) / 1000;
      if (zeros !== repeats * pages) throw new Error(`${name} found ${zeros} pages`);
      return Promise.resolve((repeats * pages * PAGE) / seconds / 1e9);
    },
  };
}

async function zeroRow(rounds: number): Promise<Row> {
  const buffer = new PageBuffer(PAGE, RUN_PAGES);
  const all = buffer.runs[RUN_PAGES] as Buffer;
  const zero = Buffer.alloc(PAGE);
  const words = new BigUint64Array(all.buffer, all.byteOffset, all.length / 8);
  const compare = 'Buffer.compare';
  const loop = 'BigUint64Array';
  const results = await alternate(
    [
      zeroContender(ours, RUN_PAGES, () => {
        let zeros = 0;
        for (let page = 0; page < RUN_PAGES; page++) if (buffer.isZero(page)) zeros++;
        return zeros;
      }),
      zeroContender(compare, RUN_PAGES, () => {
        let zeros = 0;
        for (let at = 0; at < all.length; at += PAGE) {
          if (all.compare(zero, 0, PAGE, at, at + PAGE) === 0) zeros++;
        }
        return zeros;
      }),
      zeroContender(loop, RUN_PAGES, () => {
        let zeros = 0;
        for (let first = 0; first < words.length; first += PAGE / 8) {
          let at = first;
          while (at < first + PAGE / 8 && words[at] === 0n) at++;
          if (at === first + PAGE / 8) zeros++;
        }
        return zeros;
      }),
    ],
    rounds,
  );
  return rowOf(results, {
    name: 'zero detection of 4 KiB pages, 256 KiB at a time',
    unit: 'GB/s',
    ours,
    against: [compare, loop],
    mustReach: `≥ ${LEAST_ZERO_GBPS} GB/s`,
    reached: (value) => atLeast(value, LEAST_ZERO_GBPS),
  });
}

/** Read a file of a guest's memory. */
function readMemory(path: string, mib: number): Buffer {
  const memory = Buffer.allocUnsafeSlow(mib * MIB);
  const fd = openSync(path, 'r');
  for (let at = 0; at < mib; at += 64) readSync(fd, memory, at * MIB, 64 * MIB, at * MIB);
  closeSync(fd);
  return memory;
}

function writeZeros(path: string, mib: number): void {
  const fd = openSync(path, 'w', 0o600);
  const block = Buffer.alloc(MIB);
  for (let at = 0; at < mib; at++) writeSync(fd, block);
  closeSync(fd);
}

/** Send memory as a whole stream; return GB/s of the memory until the peer has received all of it. */
async function send(memory: Buffer, far: FarEnd): Promise<number> {
  const socket = await far.connect('unix');
  const began = performance.now();
  const file = new QemuFile(socketOps(socket, { lingerMs: 60_000 }));
  const writer = new MigrationWriter(file);
  const saver = new RamSaver(writer, new MemoryPageSource([{ name: 'ram', memory }]));
  writer.header();
  await saver.setup();
  while (!(await saver.iterate()));
  await saver.complete();
  writer.end();
  await file.close();
  return memory.length / (performance.now() - began) / 1e6;
}

/** Send memory as records without looking at the pages; return GB/s. */
async function sendPlainly(memory: Buffer, far: FarEnd): Promise<number> {
  const socket = await far.connect('unix');
  const end = ended(socket);
  const began = performance.now();
  const buffers = [Buffer.alloc(BUFFER), Buffer.alloc(BUFFER)] as const;
  let sent = Promise.resolve();
  for (let at = 0, turn = 0; at < memory.length; turn ^= 1) {
    const buffer = buffers[turn] as Buffer;
    let used = 0;
    for (; used + RECORD <= buffer.length && at < memory.length; at += PAGE, used += RECORD) {
      buffer.writeUInt32BE(at, used + 4);
      memory.copy(buffer, used + RECORD - PAGE, at, at + PAGE);
    }
    await sent;
    sent = write(socket, buffer.subarray(0, used));
  }
  await sent;
  socket.end();
  await end;
  return memory.length / (performance.now() - began) / 1e6;
}

function write(socket: Socket, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
}

async function sendRow(
  name: string,
  mib: number,
  path: string,
  monitor: string,
  rounds: number,
  hasFloor: boolean,
): Promise<Row> {
  using far = await FarEnd.start('sink');
  const memory = readMemory(path, mib);
  const migrate = async (): Promise<number | null> => {
    rmSync(monitor, { force: true });
    await using guest = await Guest.start(monitor, mib, path, true);
    if (guest === null) return null;
    const began = performance.now();
    await guest.migrate('migrate', `unix:${far.addresses.unix}`);
    return (mib * MIB) / (performance.now() - began) / 1e6;
  };
  const results = await alternate(
    [
      { name: ours, run: () => send(memory, far) },
      { name: peer, run: migrate },
      ...(hasFloor ? [{ name: floor, run: () => sendPlainly(memory, far) }] : []),
    ],
    rounds,
  );
  return rowOf(results, {
    name,
    unit: 'GB/s',
    ours,
    against: hasFloor ? [peer, floor] : [peer],
    mustReach: '≥ 1.0 × QEMU',
    reached: () => atLeast(ratio(results, ours, peer), 1),
  });
}

const bench: Bench = {
  question: 'Does RamSaver send memory as fast as QEMU, and how fast are zeros recognised?',
  async *run({ quick }) {
    const folder = makeFolder('/dev/shm/qemu-file-ram-saver-');
    const path = join(folder, 'memory');
    const monitor = join(folder, 'qmp');
    const mib = quick ? 128 : 2048;
    const rounds = quick ? 3 : 5;
    try {
      yield await zeroRow(rounds);
      writeMemory(path, mib);
      yield await sendRow(`RamSaver, ${mib} MiB dense`, mib, path, monitor, rounds, true);
      writeZeros(path, mib);
      yield await sendRow(`RamSaver, ${mib} MiB of zeros`, mib, path, monitor, rounds, false);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;

// How fast do RAM records leave when the backend costs nothing?
import { QemuFile, type QemuFileOps } from 'qemu-file';
import { microRounds, nanosecondsPerOp, OPS } from './harness/micro.ts';
import { alternate, atLeast, type Bench, type Contender, rowOf } from './harness/row.ts';

const ours = 'qemu-file';
const floor = 'gather list only';

const PAGE = 4096;
/** A record of a page by reference in QEMU 7.2's migration/qemu-file.c: 27 to 36 ns (see `ofC`). */
const C_NANOSECONDS = 32;
const ENTRIES = 64;
const RAM = Buffer.alloc(4096 * PAGE, 0xa5);
const PAGES = Array.from({ length: 4096 }, (_, i) => RAM.subarray(i * PAGE, (i + 1) * PAGE));
const FLAG_ZERO = 0x02;
const FLAG_PAGE = 0x08;

let handed = 0;
const takesAll: QemuFileOps = {
  writevBuffer: (buffers) => {
    let bytes = 0;
    for (const buffer of buffers) bytes += buffer.length;
    handed += bytes;
    return bytes;
  },
};

function putPages(file: QemuFile): () => void {
  return () => {
    for (let i = 0; i < OPS; i++) {
      const page = i & 4095;
      file.putBe64(page * PAGE + FLAG_PAGE);
      file.putBufferAsync(PAGES[page] as Uint8Array);
    }
  };
}

function listPages(): () => void {
  const staging = new Uint8Array(32768);
  const view = new DataView(staging.buffer);
  return () => {
    let entries: Uint8Array[] = [];
    let at = 0;
    for (let i = 0; i < OPS; i++) {
      const page = i & 4095;
      view.setUint32(at, 0);
      view.setUint32(at + 4, page * PAGE + FLAG_PAGE);
      entries.push(staging.subarray(at, at + 8), PAGES[page] as Uint8Array);
      at += 8;
      if (entries.length < ENTRIES) continue;
      takesAll.writevBuffer?.(entries, 0);
      entries = [];
      at = 0;
    }
  };
}

function putZeros(file: QemuFile): () => void {
  return () => {
    for (let i = 0; i < OPS; i++) {
      file.putBe64((i & 4095) * PAGE + FLAG_ZERO);
      file.putByte(0);
    }
  };
}

function listZeros(): () => void {
  const staging = new Uint8Array(32768);
  const view = new DataView(staging.buffer);
  return () => {
    let at = 0;
    for (let i = 0; i < OPS; i++) {
      view.setUint32(at, 0);
      view.setUint32(at + 4, (i & 4095) * PAGE + FLAG_ZERO);
      view.setUint8(at + 8, 0);
      at += 9;
      if (at + 9 <= staging.length) continue;
      takesAll.writevBuffer?.([staging.subarray(0, at)], 0);
      at = 0;
    }
  };
}

/** Convert nanoseconds per record into `factor` records, or bytes, per nanosecond. */
function perSecond(contender: Contender, factor: number): Contender {
  return {
    name: contender.name,
    run: async () => factor / ((await contender.run()) as number),
  };
}

const bench: Bench = {
  question: 'How fast do RAM records leave when the backend costs nothing?',
  async *run(mode) {
    const rounds = microRounds(mode);
    const pages = await alternate(
      [
        perSecond(nanosecondsPerOp(ours, putPages(new QemuFile(takesAll)), mode), PAGE),
        perSecond(nanosecondsPerOp(floor, listPages(), mode), PAGE),
      ],
      rounds,
    );
    yield rowOf(pages, {
      name: 'be64 header + 4 KiB page by reference',
      unit: 'GB/s',
      ours,
      against: [floor],
      recorded: [{ name: 'C, recorded', value: PAGE / C_NANOSECONDS }],
      mustReach: '≥ 12 GB/s',
      reached: (value) => atLeast(value, 12),
    });
    const zeros = await alternate(
      [
        perSecond(nanosecondsPerOp(ours, putZeros(new QemuFile(takesAll)), mode), 1000),
        perSecond(nanosecondsPerOp(floor, listZeros(), mode), 1000),
      ],
      rounds,
    );
    yield rowOf(zeros, {
      name: '9-byte zero-page record',
      unit: 'M/s',
      ours,
      against: [floor],
      mustReach: '≥ 30 M/s',
      reached: (value) => atLeast(value, 30),
    });
    if (handed === 0) throw new Error('nothing left');
  },
};
export default bench;

// How fast do RAM records leave when the backend costs nothing?
import { QemuFile, type QemuFileOps } from 'qemu-file';
import { microRounds, nanosecondsPerOp, OPS_PER_CALL, ofC } from './harness/micro.ts';
import { alternate, atLeast, atMost, type Bench, type Contender, rowOf } from './harness/row.ts';

const OPS = OPS_PER_CALL;
const ours = 'qemu-file';
const floor = 'gather list only';

const PAGE = 4096;
/** A record of a page by reference in QEMU 7.2's migration/qemu-file.c: 27 to 36 ns (see `ofC`). */
const C_NANOSECONDS = 32;
const MAX_NANOSECONDS = 50;
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

/** Convert nanoseconds per record into millions of records per second. */
function perSecond(contender: Contender): Contender {
  return {
    name: contender.name,
    run: async () => 1000 / ((await contender.run()) as number),
  };
}

const bench: Bench = {
  question: 'How fast do RAM records leave when the backend costs nothing?',
  async *run(mode) {
    const rounds = microRounds(mode);
    const pages = await alternate(
      [
        nanosecondsPerOp(ours, putPages(new QemuFile(takesAll)), mode),
        nanosecondsPerOp(floor, listPages(), mode),
      ],
      rounds,
    );
    yield rowOf(pages, {
      name: 'page by reference with its header',
      unit: 'ns',
      ours,
      against: [floor],
      recorded: ofC(C_NANOSECONDS),
      mustReach: `≤ ${MAX_NANOSECONDS} ns`,
      reached: (value) => atMost(value, MAX_NANOSECONDS),
    });
    const zeros = await alternate(
      [
        perSecond(nanosecondsPerOp(ours, putZeros(new QemuFile(takesAll)), mode)),
        perSecond(nanosecondsPerOp(floor, listZeros(), mode)),
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

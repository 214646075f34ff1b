// What does one typed put cost with a backend that takes everything at once?
import { Writable } from 'node:stream';
import { QemuFile } from 'qemu-file';
import { SmartBuffer } from 'smart-buffer';
import { microRounds, nanosecondsPerOp, OPS, ofC } from './harness/micro.ts';
import { allOf, alternate, atLeast, atMost, type Bench, ratio, rowOf } from './harness/row.ts';

const ours = 'qemu-file';
const floor = 'DataView';
const smart = 'smart-buffer';
const perField = 'write() per field';

const SIZE = 32768;
const TEXT = 'pc.ram/0000:00:02.0';
const BYTES = Buffer.alloc(16, 0x5a);

/** A backend that takes everything at once. */
function nullFile(): QemuFile {
  return new QemuFile({
    writevBuffer: (buffers) => {
      let bytes = 0;
      for (const buffer of buffers) bytes += buffer.length;
      return bytes;
    },
  });
}

/** One kind of put: how each contender does it, and how fast it must be. */
interface Put {
  name: string;
  ours(file: QemuFile): () => void;
  /** Store into a buffer of `SIZE` bytes, which is reused from its start when it is full. */
  floor(view: DataView, bytes: Uint8Array): () => void;
  smart(buffer: SmartBuffer): () => void;
  /** Return the buffer for `write()`. */
  field: (i: number) => Uint8Array;
  /** Greatest allowed multiple of the floor; absent means no limit. */
  atMost?: number;
  /** Nanoseconds in C. */
  inC?: number;
}

const PUTS: Put[] = [
  {
    name: 'put byte',
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putByte(i & 0xff);
    },
    floor: (view) => () => {
      let at = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 1 > SIZE) at = 0;
        view.setUint8(at, i & 0xff);
        at += 1;
      }
    },
    smart: (buffer) => () => {
      for (let i = 0; i < OPS; i++) buffer.writeUInt8(i & 0xff);
    },
    field: (i) => Buffer.of(i),
    atMost: 2,
  },
  {
    name: 'put be16',
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putBe16(i & 0xffff);
    },
    floor: (view) => () => {
      let at = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 2 > SIZE) at = 0;
        view.setUint16(at, i & 0xffff);
        at += 2;
      }
    },
    smart: (buffer) => () => {
      for (let i = 0; i < OPS; i++) buffer.writeUInt16BE(i & 0xffff);
    },
    field: (i) => {
      const bytes = Buffer.allocUnsafe(2);
      bytes.writeUInt16BE(i & 0xffff);
      return bytes;
    },
    atMost: 2,
  },
  {
    name: 'put be32',
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putBe32(i);
    },
    floor: (view) => () => {
      let at = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 4 > SIZE) at = 0;
        view.setUint32(at, i);
        at += 4;
      }
    },
    smart: (buffer) => () => {
      for (let i = 0; i < OPS; i++) buffer.writeUInt32BE(i);
    },
    field: (i) => {
      const bytes = Buffer.allocUnsafe(4);
      bytes.writeUInt32BE(i);
      return bytes;
    },
    atMost: 2,
  },
  {
    name: 'put be64, number',
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putBe64(i * 0x1_0000_1000);
    },
    floor: (view) => () => {
      let at = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 8 > SIZE) at = 0;
        const value = i * 0x1_0000_1000;
        view.setUint32(at, value / 0x1_0000_0000);
        view.setUint32(at + 4, value >>> 0);
        at += 8;
      }
    },
    smart: (buffer) => () => {
      for (let i = 0; i < OPS; i++) buffer.writeBigUInt64BE(BigInt(i * 0x1_0000_1000));
    },
    field: (i) => {
      const bytes = Buffer.allocUnsafe(8);
      bytes.writeBigUInt64BE(BigInt(i * 0x1_0000_1000));
      return bytes;
    },
    atMost: 2,
  },
  {
    name: 'put be64, bigint',
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putBe64(0x1234_5678_9abc_def0n);
    },
    floor: (view) => () => {
      let at = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 8 > SIZE) at = 0;
        view.setBigUint64(at, 0x1234_5678_9abc_def0n);
        at += 8;
      }
    },
    smart: (buffer) => () => {
      for (let i = 0; i < OPS; i++) buffer.writeBigUInt64BE(0x1234_5678_9abc_def0n);
    },
    field: () => {
      const bytes = Buffer.allocUnsafe(8);
      bytes.writeBigUInt64BE(0x1234_5678_9abc_def0n);
      return bytes;
    },
  },
  {
    name: 'put counted string',
    inC: 15,
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putCountedString(TEXT);
    },
    floor: (_, bytes) => {
      const buffer = Buffer.from(bytes.buffer);
      return () => {
        let at = 0;
        for (let i = 0; i < OPS; i++) {
          if (at + 256 > SIZE) at = 0;
          const length = buffer.write(TEXT, at + 1);
          buffer[at] = length;
          at += 1 + length;
        }
      };
    },
    smart: (buffer) => () => {
      for (let i = 0; i < OPS; i++) {
        buffer.writeUInt8(Buffer.byteLength(TEXT));
        buffer.writeString(TEXT);
      }
    },
    field: () => Buffer.from(`\x13${TEXT}`),
  },
  {
    name: 'put 16-byte buffer',
    inC: 8,
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putBuffer(BYTES);
    },
    floor: (_, bytes) => () => {
      let at = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 16 > SIZE) at = 0;
        bytes.set(BYTES, at);
        at += 16;
      }
    },
    smart: (buffer) => () => {
      for (let i = 0; i < OPS; i++) buffer.writeBuffer(BYTES);
    },
    field: () => Buffer.from(BYTES),
  },
];

/** Write without a package: one buffer and one `write()` per field. */
function writes(field: (i: number) => Uint8Array): () => Promise<void> {
  const sink = new Writable({ write: (_chunk, _encoding, callback) => callback() });
  return async () => {
    for (let i = 1; i < OPS; i++) sink.write(field(i));
    await new Promise<void>((resolve) => sink.write(field(OPS), () => resolve()));
  };
}

const bench: Bench = {
  question: 'What does one typed put cost?',
  async *run(mode) {
    for (const put of PUTS) {
      const block = new Uint8Array(SIZE);
      const buffer = SmartBuffer.fromSize(SIZE);
      const fill = put.smart(buffer);
      const contenders = [
        nanosecondsPerOp(ours, put.ours(nullFile()), mode),
        nanosecondsPerOp(floor, put.floor(new DataView(block.buffer), block), mode),
        nanosecondsPerOp(
          smart,
          () => {
            buffer.clear();
            fill();
          },
          mode,
        ),
        nanosecondsPerOp(perField, writes(put.field), mode),
      ];
      const rounds = await alternate(contenders, microRounds(mode));
      const toFloor = ratio(rounds, ours, floor);
      const toWrites = ratio(rounds, perField, ours);
      const most = put.atMost;
      const isBe64 = put.name === 'put be64, number';
      yield rowOf(rounds, {
        name: put.name,
        unit: 'ns',
        ours,
        against: [floor, smart, perField],
        recorded: put.inC === undefined ? [] : ofC(put.inC),
        mustReach:
          most === undefined ? '' : `≤ ${most} × floor, write() ≥ 20 ×${isBe64 ? ', ≤ 15 ns' : ''}`,
        reached: (value) =>
          most === undefined
            ? null
            : allOf(atMost(toFloor, most), atLeast(toWrites, 20), !isBe64 || value <= 15),
      });
    }
  },
};
export default bench;

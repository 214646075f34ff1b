// What does one typed put cost with a backend that takes everything at once?
import { Writable } from 'node:stream';
import { QemuFile } from 'qemu-file';
import { SmartBuffer } from 'smart-buffer';
import { microRounds, nanosecondsPerOp, OPS_PER_CALL, ofC } from './harness/micro.ts';
import { allOf, alternate, atLeast, atMost, type Bench, ratio, rowOf } from './harness/row.ts';

const OPS = OPS_PER_CALL;
const ours = 'qemu-file';
const floor = 'DataView';
const loop = 'in a loop';
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

/** Stores into one buffer, without a check of the value, and without an end. */
class PlainWriter {
  readonly bytes: Uint8Array = new Uint8Array(SIZE);
  readonly #view: DataView = new DataView(this.bytes.buffer);
  #at = 0;

  byte(value: number): void {
    this.#view.setUint8(this.#next(1), value);
  }

  be16(value: number): void {
    this.#view.setUint16(this.#next(2), value);
  }

  be32(value: number): void {
    this.#view.setUint32(this.#next(4), value);
  }

  be64(value: number): void {
    const at = this.#next(8);
    this.#view.setUint32(at, value / 0x1_0000_0000);
    this.#view.setUint32(at + 4, value >>> 0);
  }

  be64Big(value: bigint): void {
    this.#view.setBigUint64(this.#next(8), value);
  }

  set(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.#next(bytes.length));
  }

  /** Return the place of the next bytes. */
  #next(size: number): number {
    const at = this.#at + size > SIZE ? 0 : this.#at;
    this.#at = at + size;
    return at;
  }
}

/** One kind of put: how each contender does it, and how fast it must be. */
interface Put {
  name: string;
  ours(file: QemuFile): () => void;
  /** Store into a buffer of `SIZE` bytes, which is reused from its start when it is full, by a method for each put. */
  floor(writer: PlainWriter): () => void;
  /** The same in a loop, which keeps its place in a register: faster than any put can be. */
  loop?(view: DataView): () => void;
  smart(buffer: SmartBuffer): () => void;
  /** Return the buffer for `write()`. */
  field: (i: number) => Uint8Array;
  /** Greatest allowed multiple of the floor; absent means no limit. */
  atMost?: number;
  /** Greatest allowed nanoseconds. */
  atMostNs?: number;
  /** Nanoseconds in C. */
  inC?: number;
}

const PUTS: Put[] = [
  {
    name: 'put byte',
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putByte(i & 0xff);
    },
    floor: (writer) => () => {
      for (let i = 0; i < OPS; i++) writer.byte(i & 0xff);
    },
    loop: (view) => () => {
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
    floor: (writer) => () => {
      for (let i = 0; i < OPS; i++) writer.be16(i & 0xffff);
    },
    loop: (view) => () => {
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
    floor: (writer) => () => {
      for (let i = 0; i < OPS; i++) writer.be32(i);
    },
    loop: (view) => () => {
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
    floor: (writer) => () => {
      for (let i = 0; i < OPS; i++) writer.be64(i * 0x1_0000_1000);
    },
    loop: (view) => () => {
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
    atMostNs: 15,
  },
  {
    name: 'put be64, bigint',
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putBe64(0x1234_5678_9abc_def0n);
    },
    floor: (writer) => () => {
      for (let i = 0; i < OPS; i++) writer.be64Big(0x1234_5678_9abc_def0n);
    },
    loop: (view) => () => {
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
    atMostNs: 25,
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putCountedString(TEXT);
    },
    floor: ({ bytes }) => {
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
    atMostNs: 12,
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) file.putBuffer(BYTES);
    },
    floor: (writer) => () => {
      for (let i = 0; i < OPS; i++) writer.set(BYTES);
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
      const writer = new PlainWriter();
      const inLoop = put.loop?.(new DataView(writer.bytes.buffer));
      const buffer = SmartBuffer.fromSize(SIZE);
      const fill = put.smart(buffer);
      const contenders = [
        nanosecondsPerOp(ours, put.ours(nullFile()), mode),
        nanosecondsPerOp(floor, put.floor(writer), mode),
        ...(inLoop === undefined ? [] : [nanosecondsPerOp(loop, inLoop, mode)]),
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
      const { atMost: most, atMostNs } = put;
      const demands = [
        ...(most === undefined ? [] : [`≤ ${most} × floor, write() ≥ 20 ×`]),
        ...(atMostNs === undefined ? [] : [`≤ ${atMostNs} ns`]),
      ];
      yield rowOf(rounds, {
        name: put.name,
        unit: 'ns',
        ours,
        against: [floor, ...(inLoop === undefined ? [] : [loop]), smart, perField],
        recorded: put.inC === undefined ? [] : ofC(put.inC),
        mustReach: demands.join(', '),
        reached: (value) =>
          demands.length === 0
            ? null
            : allOf(
                most === undefined || allOf(atMost(toFloor, most), atLeast(toWrites, 20)),
                atMostNs === undefined || value <= atMostNs,
              ),
      });
    }
  },
};
export default bench;

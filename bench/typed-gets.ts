// What does one typed get cost over bytes in the look-ahead?
import bl from 'bl';
import { QemuFile } from 'qemu-file';
import { SmartBuffer } from 'smart-buffer';
import { microRounds, nanosecondsPerOp, OPS_PER_CALL, ofC } from './harness/micro.ts';
import { allOf, alternate, atMost, type Bench, ratio, rowOf } from './harness/row.ts';

const OPS = OPS_PER_CALL;
const ours = 'qemu-file';
const floor = 'DataView';
const loop = 'in a loop';
const smart = 'smart-buffer';
const bufferList = 'bl';

/** A chunk as large as those of a socket. Its values are small, so that a be64 is a safe integer. */
const CHUNK = Buffer.alloc(65536, Buffer.of(0, 0, 0, 7, 1, 2, 3, 4));

/** Return a chunk of counted strings of 19 characters: so many different names, again and again. */
function textsOf(names: number): Buffer {
  const texts = Array.from({ length: 3276 }, (_, i) => {
    return `\x13pc.ram/0000:${(i % names).toString(16).padStart(5, '0')}.0`;
  });
  return Buffer.from(texts.join(''));
}

/*
 * Uses of the values, so that V8 does not remove the reads. A loop adds to a variable of its own: an addition to one of
 * the module takes longer than reading a byte, and a conversion of a bigint to a number half as long as the bigint itself.
 */
let total = 0;
let last = 0n;

/** Reads from one chunk again and again, by a method for each get, without an end. */
class PlainReader {
  readonly #view: DataView = new DataView(CHUNK.buffer, CHUNK.byteOffset, CHUNK.length);
  #at = 0;

  byte(): number {
    return this.#view.getUint8(this.#next(1));
  }

  be16(): number {
    return this.#view.getUint16(this.#next(2));
  }

  be32(): number {
    return this.#view.getUint32(this.#next(4));
  }

  be64(): number {
    const at = this.#next(8);
    return this.#view.getUint32(at) * 0x1_0000_0000 + this.#view.getUint32(at + 4);
  }

  be64Big(): bigint {
    return this.#view.getBigUint64(this.#next(8));
  }

  /** Return the place of the next bytes. */
  #next(size: number): number {
    const at = this.#at + size > CHUNK.length ? 0 : this.#at;
    this.#at = at + size;
    return at;
  }
}

/** One kind of get: its size in bytes, and how each contender does it. */
interface Get {
  name: string;
  size: number;
  /** What is read. Default: `CHUNK`. */
  chunk?: Buffer;
  /** Nanoseconds in C. */
  inC?: number;
  /** Greatest allowed nanoseconds, besides 2 times the floor. */
  atMostNs?: number;
  ours(file: QemuFile): () => void;
  floor(reader: PlainReader): () => void;
  /** The same in a loop, which keeps its place in a register: faster than any get can be. */
  loop?(view: DataView): () => void;
  smart(buffer: SmartBuffer): () => void;
  list(list: InstanceType<typeof bl.BufferList>): () => void;
}

/** A counted string, from a chunk of them. */
function getText(name: string, texts: Buffer, atMostNs?: number): Get {
  return {
    name,
    size: 20,
    chunk: texts,
    inC: 11,
    ...(atMostNs !== undefined && { atMostNs }),
    ours: (file) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum += file.getCountedString().length;
      total += sum;
    },
    floor: () => () => {
      let at = 0;
      let sum = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 20 > texts.length) at = 0;
        const end = at + 1 + (texts[at] as number);
        sum += texts.toString('latin1', at + 1, end).length;
        at = end;
      }
      total += sum;
    },
    smart: (buffer) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum += buffer.readString(buffer.readUInt8()).length;
      total += sum;
    },
    list: (list) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) {
        const at = i * 20;
        sum += list.toString('utf8', at + 1, at + 1 + list.readUInt8(at)).length;
      }
      total += sum;
    },
  };
}

const GETS: Get[] = [
  {
    name: 'get byte',
    size: 1,
    inC: 1.4,
    atMostNs: 1.7,
    ours: (file) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + file.getByte()) | 0;
      total += sum;
    },
    floor: (reader) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + reader.byte()) | 0;
      total += sum;
    },
    loop: (view) => () => {
      let at = 0;
      let sum = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 1 > CHUNK.length) at = 0;
        sum = (sum + view.getUint8(at)) | 0;
        at += 1;
      }
      total += sum;
    },
    smart: (buffer) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + buffer.readUInt8()) | 0;
      total += sum;
    },
    list: (list) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + list.readUInt8(i)) | 0;
      total += sum;
    },
  },
  {
    name: 'get be16',
    size: 2,
    ours: (file) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + file.getBe16()) | 0;
      total += sum;
    },
    floor: (reader) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + reader.be16()) | 0;
      total += sum;
    },
    loop: (view) => () => {
      let at = 0;
      let sum = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 2 > CHUNK.length) at = 0;
        sum = (sum + view.getUint16(at)) | 0;
        at += 2;
      }
      total += sum;
    },
    smart: (buffer) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + buffer.readUInt16BE()) | 0;
      total += sum;
    },
    list: (list) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + list.readUInt16BE(i * 2)) | 0;
      total += sum;
    },
  },
  {
    name: 'get be32',
    size: 4,
    ours: (file) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + file.getBe32()) | 0;
      total += sum;
    },
    floor: (reader) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + reader.be32()) | 0;
      total += sum;
    },
    loop: (view) => () => {
      let at = 0;
      let sum = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 4 > CHUNK.length) at = 0;
        sum = (sum + view.getUint32(at)) | 0;
        at += 4;
      }
      total += sum;
    },
    smart: (buffer) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + buffer.readUInt32BE()) | 0;
      total += sum;
    },
    list: (list) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + list.readUInt32BE(i * 4)) | 0;
      total += sum;
    },
  },
  {
    name: 'get be64, number',
    size: 8,
    ours: (file) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + file.getBe64()) | 0;
      total += sum;
    },
    floor: (reader) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + reader.be64()) | 0;
      total += sum;
    },
    loop: (view) => () => {
      let at = 0;
      let sum = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 8 > CHUNK.length) at = 0;
        sum = (sum + view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4)) | 0;
        at += 8;
      }
      total += sum;
    },
    smart: (buffer) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + Number(buffer.readBigUInt64BE())) | 0;
      total += sum;
    },
    list: (list) => () => {
      let sum = 0;
      for (let i = 0; i < OPS; i++) sum = (sum + Number(list.readBigUInt64BE(i * 8))) | 0;
      total += sum;
    },
  },
  {
    name: 'get be64, bigint',
    size: 8,
    inC: 14,
    atMostNs: 16.8,
    ours: (file) => () => {
      for (let i = 0; i < OPS; i++) last = file.getBe64Big();
    },
    floor: (reader) => () => {
      for (let i = 0; i < OPS; i++) last = reader.be64Big();
    },
    loop: (view) => () => {
      let at = 0;
      for (let i = 0; i < OPS; i++) {
        if (at + 8 > CHUNK.length) at = 0;
        last = view.getBigUint64(at);
        at += 8;
      }
    },
    smart: (buffer) => () => {
      for (let i = 0; i < OPS; i++) last = buffer.readBigUInt64BE();
    },
    list: (list) => () => {
      for (let i = 0; i < OPS; i++) last = list.readBigUInt64BE(i * 8);
    },
  },
  getText('get counted string', textsOf(16), 60),
  getText('get counted string, always another', textsOf(3276)),
];

const bench: Bench = {
  question: 'What does one typed get cost over bytes in the look-ahead?',
  async *run(mode) {
    for (const get of GETS) {
      const { chunk = CHUNK, atMostNs } = get;
      const bytes = OPS * get.size;
      const file = new QemuFile({ getBuffer: () => chunk });
      const read = get.ours(file);
      const inLoop = get.loop?.(new DataView(chunk.buffer, chunk.byteOffset, chunk.length));
      const list = new bl.BufferList();
      while (list.length < bytes) list.append(chunk);
      const buffer = SmartBuffer.fromBuffer(list.slice(0, bytes));
      const readSmart = get.smart(buffer);
      const contenders = [
        nanosecondsPerOp(
          ours,
          async () => {
            await file.fill(bytes);
            read();
          },
          mode,
        ),
        nanosecondsPerOp(floor, get.floor(new PlainReader()), mode),
        ...(inLoop === undefined ? [] : [nanosecondsPerOp(loop, inLoop, mode)]),
        nanosecondsPerOp(
          smart,
          () => {
            buffer.readOffset = 0;
            readSmart();
          },
          mode,
        ),
        nanosecondsPerOp(bufferList, get.list(list), mode),
      ];
      const rounds = await alternate(contenders, microRounds(mode));
      const toFloor = ratio(rounds, ours, floor);
      yield rowOf(rounds, {
        name: get.name,
        unit: 'ns',
        ours,
        against: [floor, ...(inLoop === undefined ? [] : [loop]), smart, bufferList],
        recorded: get.inC === undefined ? [] : ofC(get.inC),
        mustReach: `≤ 2 × floor${atMostNs === undefined ? '' : `, ≤ ${atMostNs} ns`}`,
        reached: (value) => allOf(atMost(toFloor, 2), atMostNs === undefined || value <= atMostNs),
      });
      file.destroy();
    }
    if (total === 0.5 || last === -1n) throw new Error('the values are used');
  },
};
export default bench;

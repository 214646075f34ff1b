import type { DeviceDescription } from '../../../lib/migration/format/device-types.ts';

/*
 * Migration streams, built by hand and independently of lib/.
 *
 *   stream(header, configuration('pc-i440fx-7.2'), section('start', 2, ['ram', 0, 4], …), end)
 */

export type Bytes = Uint8Array | string;

/** Join bytes; text is hexadecimal digits, blanks allowed. */
export function stream(...parts: readonly Bytes[]): Buffer {
  return Buffer.concat(parts.map(bytesOf));
}

function bytesOf(part: Bytes): Uint8Array {
  return typeof part === 'string' ? Buffer.from(part.replace(/\s+/g, ''), 'hex') : part;
}

export function be16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function be64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt.asUintN(64, BigInt(value)));
  return bytes;
}

/** A length byte and text. */
export function counted(text: string): Buffer {
  return stream(Uint8Array.of(Buffer.byteLength(text)), Buffer.from(text));
}

export const header: Buffer = stream('51 45 56 4d 00 00 00 03');
export const end: Buffer = stream('00');

export function configuration(machine: string, ...subsections: readonly Bytes[]): Buffer {
  return stream('07', be32(Buffer.byteLength(machine)), Buffer.from(machine), ...subsections);
}

export function subsection(name: string, version: number, ...fields: readonly Bytes[]): Buffer {
  return stream('05', counted(name), be32(version), ...fields);
}

export function footer(sectionId: number): Buffer {
  return stream('7e', be32(sectionId));
}

/** A START or FULL section with its footer. */
export function section(
  kind: 'start' | 'full',
  sectionId: number,
  [name, instanceId, versionId]: readonly [string, number, number],
  ...body: readonly Bytes[]
): Buffer {
  const type = kind === 'start' ? '01' : '04';
  const names = stream(counted(name), be32(instanceId), be32(versionId));
  return stream(type, be32(sectionId), names, ...body, footer(sectionId));
}

/** A PART or END section with its footer. */
export function piece(kind: 'part' | 'end', sectionId: number, ...body: readonly Bytes[]): Buffer {
  return stream(kind === 'part' ? '02' : '03', be32(sectionId), ...body, footer(sectionId));
}

export function command(number: number, ...payload: readonly Bytes[]): Buffer {
  const bytes = stream(...payload);
  return stream('08', be16(number), be16(bytes.length), bytes);
}

/** Flags of a RAM word, as on the wire. */
export const FLAG = {
  zero: 0x002,
  memSize: 0x004,
  page: 0x008,
  eos: 0x010,
  continue: 0x020,
  xbzrle: 0x040,
  hook: 0x080,
  compressed: 0x100,
  flush: 0x200,
} as const;

/** The end mark of a RAM section's body. */
export const eos: Buffer = be64(FLAG.eos);

/** Return the list of RAM blocks: `[name, usedLength]`, with optional further bytes after each. */
export function blockList(
  ...blocks: readonly (readonly [name: string, usedLength: number, ...more: Bytes[]])[]
): Buffer {
  const total = blocks.reduce((sum, [, length]) => sum + length, 0);
  const entries = blocks.map(([name, length, ...more]) =>
    stream(counted(name), be64(length), ...more),
  );
  return stream(be64(total + FLAG.memSize), ...entries);
}

/** Return a plain page; without a name it continues the previous block. */
export function page(name: string | null, offset: number, bytes: Uint8Array): Buffer {
  return stream(word(name, offset, FLAG.page), bytes);
}

export function zeroPage(name: string | null, offset: number, fill = 0): Buffer {
  return stream(word(name, offset, FLAG.zero), Uint8Array.of(fill));
}

/** A RAM word, and the block's name unless it continues. */
export function word(name: string | null, offset: number, flags: number): Buffer {
  if (name === null) return be64(offset + flags + FLAG.continue);
  return stream(be64(offset + flags), counted(name));
}

/** The VM description with its type and length. */
export function vmDescription(json: object | string): Buffer {
  const text = Buffer.from(typeof json === 'string' ? json : JSON.stringify(json));
  return stream('06', be32(text.length), text);
}

/** A configuration that every QEMU knows. */
export const PC: Buffer = configuration('pc-i440fx-7.2');

/** Name, instance and version of the section of RAM. */
export const RAM: readonly [string, number, number] = ['ram', 0, 4];

/** A VM description without devices. */
export const NO_DEVICES: Buffer = vmDescription('{"page_size": 4096, "devices": []}');

/** The worked example of 4664 bytes: two RAM blocks, one device with an array and a subsection. */
export function workedExample(): Buffer {
  const description =
    '{"page_size": 4096, "devices": [{"name": "demo", "instance_id": 0, "vmsd_name": "demo", "version": 1, "fields": [{"name": "a", "type": "uint32", "size": 4}, {"name": "arr", "array_len": 3, "type": "uint16", "size": 2}], "subsections": [{"vmsd_name": "demo/extra", "version": 1, "fields": [{"name": "flag", "type": "bool", "size": 1}]}]}]}';
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x2000], ['vga.vram', 0x1000]), eos),
    piece('part', 2, page('pc.ram', 0, Buffer.alloc(4096, 0xaa)), zeroPage(null, 0x1000), eos),
    piece('end', 2, zeroPage('vga.vram', 0), eos),
    section(
      'full',
      5,
      ['demo', 0, 1],
      '12345678 0001 0002 0003',
      subsection('demo/extra', 1, '01'),
    ),
    end,
    vmDescription(description),
  );
}

/** The description of the device of the worked example. */
export const workedExampleDevice: DeviceDescription = {
  name: 'demo',
  instance_id: 0,
  vmsd_name: 'demo',
  version: 1,
  fields: [
    { name: 'a', type: 'uint32', size: 4 },
    { name: 'arr', array_len: 3, type: 'uint16', size: 2 },
  ],
  subsections: [
    {
      vmsd_name: 'demo/extra',
      version: 1,
      fields: [{ name: 'flag', type: 'bool', size: 1 }],
    },
  ],
};

/** The initial packet of a multifd channel. */
export function multifdInitial(id: number, uuid: Bytes = Buffer.alloc(16)): Buffer {
  return stream('11223344 00000001', uuid, Uint8Array.of(id), Buffer.alloc(39));
}

/** Fields of a packet of a multifd channel; an absent field is 0, or fits the others. */
export interface MultifdFields {
  flags?: number;
  /** Default: the capacity of a packet. */
  room?: number;
  normal?: readonly number[];
  /** Default: the number of offsets. */
  normalPages?: number;
  zero?: readonly number[];
  zeroPages?: number;
  /** Default: the length of the payload. */
  payloadSize?: number | undefined;
  number?: number;
  block?: string | Uint8Array;
  pageSize?: number;
  payload?: Uint8Array | undefined;
}

/** A packet of pages. */
export function multifdPacket(fields: MultifdFields): Buffer {
  const { normal = [], zero = [], payload = Buffer.alloc(0), pageSize = 4096 } = fields;
  const { normalPages = normal.length, zeroPages = zero.length, block = '' } = fields;
  const room = 524288 / pageSize;
  const name = Buffer.alloc(256);
  name.set(typeof block === 'string' ? Buffer.from(block) : block);
  const offsets = Buffer.alloc(8 * room);
  offsets.set(stream(...[...normal, ...zero].map(be64)));
  return stream(
    '11223344 00000001',
    be32(fields.flags ?? 0),
    be32(fields.room ?? room),
    be32(normalPages),
    be32(fields.payloadSize ?? payload.length),
    be64(fields.number ?? 0),
    be32(zeroPages),
    Buffer.alloc(28),
    name,
    offsets,
    payload,
  );
}

/** A packet of a device's state. */
export function multifdDeviceState(name: string, instanceId: number, payload: Uint8Array): Buffer {
  const padded = Buffer.alloc(256);
  padded.set(Buffer.from(name));
  const sizes = stream(be32(instanceId), be32(payload.length));
  return stream('11223344 00000001 00000040', padded, sizes, payload);
}

/*
 * Migration streams, put together by hand. Knows nothing of lib/.
 *
 *   stream(header, configuration('pc-i440fx-7.2'), section('start', 2, ['ram', 0, 4], …), end)
 */

export type Bytes = Uint8Array | string;

/** All given bytes in a row; text is hexadecimal digits, blanks allowed. */
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

/** The list of RAM blocks: `[name, usedLength]`, or with more bytes behind each. */
export function blockList(
  ...blocks: readonly (readonly [name: string, usedLength: number, ...more: Bytes[]])[]
): Buffer {
  const total = blocks.reduce((sum, [, length]) => sum + length, 0);
  const entries = blocks.map(([name, length, ...more]) =>
    stream(counted(name), be64(length), ...more),
  );
  return stream(be64(total + FLAG.memSize), ...entries);
}

/** A page sent as it is; without a name it continues the block before. */
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

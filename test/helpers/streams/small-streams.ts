import { constants, deflateSync } from 'node:zlib';
import {
  type Bytes,
  be16,
  be32,
  be64,
  blockList,
  command,
  configuration,
  counted,
  end,
  eos,
  FLAG,
  footer,
  header,
  multifdInitial,
  multifdPacket,
  stream,
  subsection,
  vmDescription,
} from './stream-bytes.ts';

/*
 * Small streams, each with something of its own, and of each byte what of it may change without anybody
 * being able to tell: contents of pages and devices, and names that mean nothing to a reader.
 */

/** A part of a stream. */
export interface Part {
  readonly bytes: Buffer;
  /** The bits that may be others. */
  readonly free: Buffer;
}

/** Bytes of which none may be another. */
export function fixed(...bytes: readonly Bytes[]): Part {
  const all = stream(...bytes);
  return { bytes: all, free: Buffer.alloc(all.length) };
}

/** Bytes that may be any others. */
export function free(...bytes: readonly Bytes[]): Part {
  const all = stream(...bytes);
  return { bytes: all, free: Buffer.alloc(all.length, 0xff) };
}

/** Bytes of which the bits of a mask may be others. */
export function loose(bytes: Bytes, mask: Bytes): Part {
  return { bytes: stream(bytes), free: stream(mask) };
}

/** Parts in a row. */
export function join(...parts: readonly Part[]): Part {
  return {
    bytes: Buffer.concat(parts.map(({ bytes }) => bytes)),
    free: Buffer.concat(parts.map(({ free: bits }) => bits)),
  };
}

/** A whole stream. */
export interface SmallStream {
  readonly name: string;
  readonly main: Part;
  readonly channels: readonly Part[];
}

/** Pages of the streams here are small, but for those of multifd. */
const SMALL = 1024;

const pageBits = (bits: number): Buffer =>
  subsection('configuration/target-page-bits', 1, be32(bits));

/** A configuration, of which the machine's name may be another. */
function machine(name: string, ...subsections: readonly Part[]): Part {
  const whole = configuration(name);
  return join(fixed(header, whole.subarray(0, 5)), free(whole.subarray(5)), ...subsections);
}

const small: Part = machine('none', fixed(pageBits(10)));

function begun(kind: 'start' | 'full', id: number, name: string, version: number): Part {
  const type = kind === 'start' ? '01' : '04';
  return fixed(type, be32(id), counted(name), be32(0), be32(version));
}

/** Instance ids of devices that the description lacks are not checked. */
function otherSection(
  kind: 'start' | 'full',
  id: number,
  [name, version]: readonly [string, number],
  ...body: readonly Part[]
): Part {
  const { bytes } = begun(kind, id, name, version);
  const [head, tail] = [bytes.subarray(0, -8), bytes.subarray(-4)];
  return join(fixed(head), free(be32(0)), fixed(tail), ...body, fixed(footer(id)));
}

function piece(kind: 'part' | 'end', id: number, ...body: readonly Part[]): Part {
  // A stream whose END is a PART may be a background snapshot, which is a warning.
  const type = kind === 'part' ? fixed('02') : loose('03', '01');
  return join(type, fixed(be32(id)), ...body, fixed(footer(id)));
}

function whole(
  kind: 'start' | 'full',
  id: number,
  [name, version]: readonly [string, number],
  ...body: readonly Part[]
): Part {
  return join(begun(kind, id, name, version), ...body, fixed(footer(id)));
}

const RAM = ['ram', 4] as const;

/** A page's word, whose offset may be another inside of a block of 4 pages. */
function pageWord(name: string | null, offset: number, flags: number): Part {
  const word = be64(offset + flags + (name === null ? FLAG.continue : 0));
  const inside = loose(word, be64(0xc00));
  return name === null ? inside : join(inside, fixed(counted(name)));
}

const contents = (byte: number, size = SMALL): Part => free(Buffer.alloc(size, byte));

/** A description; its text may be other than it is where it stays JSON that fits. */
function described(...devices: readonly object[]): Part {
  const text = vmDescription({ page_size: SMALL, devices });
  return join(fixed(text.subarray(0, 5)), free(text.subarray(5)));
}

const device = (name: string, ...fields: readonly object[]): object => ({
  name,
  instance_id: 0,
  vmsd_name: name,
  version: 1,
  fields,
});
const x32 = { name: 'x', type: 'uint32', size: 4 };

const list = fixed(blockList(['a', 4 * SMALL], ['b', 4 * SMALL]), eos);
const start = whole('start', 2, RAM, list);
/** A fill byte other than zero is a warning. */
const filling = free('00');
const finish = piece('end', 2, pageWord('b', 0, FLAG.zero), filling, fixed(eos));

function precopy(): SmallStream {
  const main = join(
    small,
    start,
    piece(
      'part',
      2,
      pageWord('a', 0, FLAG.page),
      contents(0xaa),
      pageWord(null, SMALL, FLAG.zero),
      filling,
      fixed(eos),
    ),
    finish,
    whole('full', 5, ['dev', 1], free('12345678'), fixed(subsection('dev/sub', 1)), free('01')),
    fixed(end),
    described({
      ...device('dev', x32),
      subsections: [
        { vmsd_name: 'dev/sub', version: 1, fields: [{ name: 'f', type: 'uint8', size: 1 }] },
      ],
    }),
  );
  return { name: 'precopy', main, channels: [] };
}

function postcopy(): SmallStream {
  const packed = join(
    fixed(command(4)),
    // Without a description, it may be any device, and its name as well be part of the rest.
    fixed('04', be32(7)),
    loose('03', '03'),
    free(Buffer.from('dev'), be32(0), be32(1), '0000002a'),
    fixed(footer(7), '08', be16(2), be16(4)),
    free(be32(3)),
    fixed(command(5)),
  );
  const range = loose(be64(SMALL), be64(0xc00));
  const main = join(
    small,
    fixed('08 00'),
    // Another command that has no payload.
    loose('01', '09'),
    fixed('00 00', '08', be16(2), be16(4)),
    free(be32(1)),
    fixed('08', be16(3), be16(16)),
    // The sizes of pages on the host: bits of it may be set and unset.
    free(be64(SMALL)),
    fixed(be64(SMALL)),
    start,
    piece('part', 2, pageWord('a', 0, FLAG.zero), filling, fixed(eos)),
    fixed('08 00'),
    loose('0b', '02'),
    fixed('00 00', '08', be16(6), be16(20), '00', counted('a'), '00'),
    range,
    loose(be64(SMALL), be64(0xc00)),
    fixed('08', be16(7), be16(4), be32(packed.bytes.length)),
    packed,
    fixed(command(10, counted('a'))),
    fixed('08 00'),
    loose('09', '0b'),
    fixed('00 00'),
    finish,
    fixed(end),
  );
  return { name: 'postcopy', main, channels: [] };
}

function encoded(): SmallStream {
  const packed = deflateSync(Buffer.alloc(SMALL, 7), { level: constants.Z_BEST_COMPRESSION });
  const main = join(
    small,
    start,
    piece(
      'part',
      2,
      pageWord('a', 0, FLAG.page),
      contents(1),
      pageWord(null, 0, FLAG.xbzrle),
      // Lengths of runs may be others as long as they fit.
      fixed('01', be16(6)),
      free('6404'),
      free('aabbccdd'),
      pageWord(null, SMALL, FLAG.compressed),
      fixed(be32(packed.length), packed.subarray(0, 2)),
      free(packed.subarray(2, -4)),
      fixed(packed.subarray(-4)),
      fixed(eos),
    ),
    finish,
    fixed(end),
    described(),
  );
  return { name: 'encoded', main, channels: [] };
}

/** No configuration, no footers: only the description shows where a device ends. */
function old(): SmallStream {
  const part = { kind: '04', id: be32(5) };
  const ids = [join(fixed('01', be32(2)), fixed(counted('ram'), be32(0), be32(4)))];
  const text = vmDescription({ page_size: 4096, devices: [device('dev', x32)] });
  const main = join(
    fixed(header),
    ...ids,
    fixed(blockList(['a', 4 * 4096]), eos),
    fixed('03', be32(2)),
    loose(be64(FLAG.zero), be64(0x3000)),
    fixed(counted('a')),
    free('00'),
    fixed(eos),
    // Nothing else has the id.
    // After an end mark the rest only follows the stream, because an old machine needs no description.
    loose(part.kind, '04'),
    free(part.id),
    fixed(counted('dev'), be32(0), be32(1)),
    free('0000002a'),
    fixed(end, text.subarray(0, 5)),
    free(text.subarray(5)),
  );
  return { name: 'old', main, channels: [] };
}

function mapped(): SmallStream {
  const capabilities = subsection('configuration/capabilities', 1, be32(1), counted('mapped-ram'));
  const begin = join(
    machine('none', fixed(pageBits(10)), fixed(capabilities)),
    begun('start', 2, 'ram', 4),
    fixed(be64(4 * SMALL + FLAG.memSize), '01'),
    free(Buffer.from('a')),
    fixed(be64(4 * SMALL)),
  );
  const at = begin.bytes.length + 28;
  const main = join(
    begin,
    fixed(be32(1), be64(SMALL), be64(at), be64(SMALL)),
    // Which pages are there, and bits beyond, which are a warning.
    free('0500000000000000'),
    free(Buffer.alloc(SMALL - at - 8)),
    contents(1),
    contents(0),
    contents(2),
    contents(0),
    fixed(eos, footer(2)),
    piece('end', 2, fixed(eos)),
    fixed(end),
    described(),
  );
  return { name: 'mapped-ram', main, channels: [] };
}

function configured(): SmallStream {
  const capabilities = subsection(
    'configuration/capabilities',
    1,
    be32(1),
    counted('x-ignore-shared'),
  );
  const uuid = join(
    fixed('05', counted('configuration/uuid'), be32(1)),
    free('000102030405060708090a0b0c0d0e0f'),
  );
  const main = join(
    machine('none', fixed(pageBits(10)), fixed(capabilities), uuid),
    begun('start', 2, 'ram', 4),
    fixed(be64(4 * SMALL + FLAG.memSize), counted('a'), be64(4 * SMALL)),
    free(be64(0x100000)),
    fixed(eos, footer(2)),
    piece('end', 2, pageWord('a', 0, FLAG.zero), free('00'), fixed(eos)),
    fixed(end),
    described(),
  );
  return { name: 'configured', main, channels: [] };
}

function foreign(): SmallStream {
  const tag = (last: number): string => `ffffffffef10000${last}`;
  const main = join(
    small,
    whole('start', 2, RAM, fixed(blockList(['b', 4 * SMALL]), eos)),
    otherSection('start', 3, ['block', 1], fixed(be64(2))),
    otherSection(
      'start',
      4,
      ['dirty-bitmap', 1],
      fixed('1c', '01'),
      free(Buffer.from('n')),
      fixed('01'),
      free(Buffer.from('m')),
      fixed(be32(0x10000)),
      loose('00', '07'),
      // It may be complete at once.
      loose('01', '20'),
    ),
    otherSection('start', 5, ['spapr/htab', 1], loose(be32(24), be32(0x07))),
    otherSection('start', 6, ['s390-storage_attributes', 0], fixed(be64(1))),
    fixed('01', be32(8), '08'),
    free(Buffer.from('pci')),
    fixed(Buffer.from('/vfio')),
    free(be32(0)),
    // Of PCI state, whatever it is, the end is looked for.
    fixed(be32(1)),
    loose(tag(3), be64(1)),
    fixed(tag(1), footer(8)),
    piece('end', 3, loose(be64(0x204), 'ff ff ff ff ff ff fe 00'), fixed(be64(2))),
    piece('end', 4, fixed('20'), loose('01', '20')),
    piece(
      'end',
      5,
      fixed(be32(0)),
      free(be32(5)),
      fixed(be16(1)),
      free(be16(0), '00'.repeat(16)),
      fixed(be64(0)),
    ),
    piece('end', 6, fixed(be64(8), be64(1))),
    piece(
      'end',
      8,
      fixed(tag(4), be64(3)),
      free('aabbcc'),
      // Another tag ends a body as well.
      loose(tag(1), be64(4)),
    ),
    finish,
    otherSection(
      'full',
      9,
      ['s390-skeys', 1],
      loose(be64(0x1002), 'ff ff ff ff ff ff f0 00'),
      fixed(be64(2)),
      free('0102'),
      fixed(be64(1)),
    ),
    // Another mark than 1 is a warning.
    otherSection('full', 10, ['todclock', 1], loose('01', 'ff'), free('00d81d2c3b4a596877')),
    fixed(end),
    described(),
  );
  return { name: 'foreign', main, channels: [] };
}

const WIDE = 65_536;

/** The pages of a payload that is one stream of zlib, in slices. */
function channel(id: number, method: 'zlib' | 'none'): Part {
  const sync = multifdPacket({ flags: 1, pageSize: WIDE });
  const initial = multifdInitial(id);
  const bytes = Buffer.alloc(WIDE, 1 + id);
  const payload = method === 'none' ? bytes : flushed(bytes);
  const packet = multifdPacket({
    flags: method === 'none' ? 0 : 2,
    block: 'a',
    normal: [id * WIDE],
    payload,
    pageSize: WIDE,
  });
  const head = packet.subarray(0, packet.length - payload.length);
  return join(
    // Reserved.
    fixed(initial.subarray(0, 25)),
    free(initial.subarray(25)),
    packetHead(sync),
    packetHead(head, 1),
    // Compressed data has no checksum before its stream ends.
    free(payload),
    packetHead(sync),
  );
}

/** One page's worth of a zlib stream that goes on. */
function flushed(bytes: Buffer): Buffer {
  return deflateSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH });
}

/** Ignored fields of a header: the number, reserved bytes, and padding after names and offsets. */
function packetHead(bytes: Buffer, pages = 0): Part {
  const bits = Buffer.alloc(bytes.length);
  // Room for pages, as long as there is enough.
  bits.fill(0xff, 12, 16);
  bits.fill(0xff, 24, 32);
  bits.fill(0xff, 36, 64);
  if (pages === 0) {
    // With no pages, their size, name and places are left over from others.
    bits.fill(0xff, 20, 24);
    bits.fill(0xff, 64);
    // A method of compression says nothing, either.
    bits[11] = 0x3e;
  } else {
    bits.fill(0xff, 66, 320);
    // Pages of zeros as well, because they have places.
    bits[35] = 0x07;
    // Another page of the block.
    bits[320 + 5] = 0x01;
    bits.fill(0xff, 320 + 8 * pages);
  }
  return { bytes, free: bits };
}

function multifd(method: 'zlib' | 'none'): SmallStream {
  const text = vmDescription({ page_size: WIDE, devices: [] });
  const main = join(
    machine('none', fixed(pageBits(16))),
    whole('start', 2, RAM, fixed(blockList(['a', 2 * WIDE]), be64(FLAG.flush), eos)),
    piece('end', 2, fixed(be64(FLAG.flush), eos)),
    fixed(end, text.subarray(0, 5)),
    free(text.subarray(5)),
  );
  return {
    name: `multifd ${method}`,
    main,
    channels: [channel(0, method), channel(1, method)],
  };
}

/** All small streams. */
export function smallStreams(): SmallStream[] {
  return [
    precopy(),
    postcopy(),
    encoded(),
    old(),
    mapped(),
    configured(),
    foreign(),
    multifd('zlib'),
    multifd('none'),
  ];
}

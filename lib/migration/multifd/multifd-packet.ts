import { printable } from '../../util/format.ts';
import type { RamBlock } from '../format/events.ts';
import type { StreamFault } from '../format/stream-error.ts';
import { MULTIFD_MAGIC, STREAM_MAGIC } from '../format/wire.ts';

/*
 * What a multifd channel consists of: an initial packet, and then packets of pages, or of a device's state.
 *
 *   initial   magic version uuid[16] id …                                                    64 bytes
 *   pages     magic version flags room normal payload number[8] zero …[28] name[256] offset[8] × P
 *             and the payload, if there are normal pages
 *   device    magic version flags name[256] instance payload, and the payload
 *
 * P is the number of pages in 512 KiB; the offsets of normal pages come first, then those of zero pages.
 * Before QEMU 9.0 there are no zero pages, and what a packet without pages has as payload, name and
 * offsets is left over from one before it.
 *
 * @see QEMU `MultiFDInit_t`, `MultiFDPacket_t`, `MultiFDPacketDeviceState_t` in migration/multifd.h
 */

const VERSION = 1;

/** Bytes of an initial packet. */
export const INITIAL_SIZE = 64;
/** Bytes of a packet that tell what it is. */
export const HEAD_SIZE = 12;
/** Bytes of a packet of device state, without its payload. */
export const DEVICE_HEADER_SIZE = 276;

/** Most bytes of pages in a packet. */
const PACKET_PAGES = 524_288;
/** Most bytes of a compressed payload: as much room as QEMU has for it. */
const MAX_COMPRESSED = 2 * PACKET_PAGES;
/** Most bytes of device state in a packet; VFIO sends 1 MiB at a time. */
const MAX_DEVICE_STATE = 67_108_864;

const FLAG_SYNC = 0x01;
const FLAG_COMPRESSION = 0x3e;
const FLAG_DEVICE_STATE = 0x40;

/** Offsets of the fields of a packet of pages. */
const AT = {
  MAGIC: 0,
  VERSION: 4,
  FLAGS: 8,
  ROOM: 12,
  NORMAL: 16,
  PAYLOAD: 20,
  ZERO: 32,
  NAME: 64,
  OFFSETS: 320,
} as const;

/** Offsets of the fields of a packet of device state. */
const DEVICE_AT = { NAME: 12, INSTANCE: 268, PAYLOAD: 272 } as const;

/** Room for a name, a NUL behind it included. */
const NAME_SIZE = 256;

/** How payloads can be read. */
export type PayloadMethod = 'none' | 'zlib' | 'zstd';

const METHODS: ReadonlyMap<number, PayloadMethod> = new Map([
  [0x00, 'none'],
  [0x02, 'zlib'],
  [0x04, 'zstd'],
]);

/** Methods of compression that take hardware, or libraries, of their own. */
const FOREIGN_METHODS: ReadonlyMap<number, string> = new Map([
  [0x08, 'QPL'],
  [0x10, 'UADK'],
  [0x20, 'QATzip'],
]);

const UTF8 = new TextDecoder('utf-8');
const TWO_32 = 0x1_0000_0000;

/** What is wrong with a packet; whoever knows where the packet is makes an error of it. */
export class PacketFault extends Error {
  override readonly name = 'PacketFault';
  readonly fault: StreamFault;
  /** Offset in the packet of the field. */
  readonly at: number;

  /** @param reason - A clause; text from the stream made `printable`. */
  constructor(fault: StreamFault, reason: string, at: number) {
    super(reason);
    this.fault = fault;
    this.at = at;
  }
}

/** What channels need to know of the guest's RAM, and where its pages go. */
export interface MultifdTable {
  /** Bytes of a target page. */
  readonly pageSize: number;
  /** Gets the contents of one page or more; `PageVisitor.page`. */
  readonly onPage: ((block: RamBlock, offset: number, bytes: Uint8Array) => void) | null;
  /** Gets pages of zeros; `PageVisitor.zero`. */
  readonly onZero: ((block: RamBlock, offset: number, count: number) => void) | null;
  /** Gives the block of a name. */
  find(name: string): RamBlock | undefined;
}

/** What an initial packet says. */
export interface InitialPacket {
  readonly id: number;
  /** The guest's UUID in its usual form; all zeros if it has none. */
  readonly uuid: string;
}

/** @throws {PacketFault} */
export function parseInitialPacket(bytes: Uint8Array): InitialPacket {
  const fields = viewOf(bytes);
  const magic = fields.getUint32(AT.MAGIC);
  if (magic !== MULTIFD_MAGIC) {
    const what = magic === STREAM_MAGIC ? 'a main channel' : `no multifd channel (${hex(magic)})`;
    throw new PacketFault('not-a-stream', `this is ${what}`, AT.MAGIC);
  }
  checkVersion(fields);
  const digits = Buffer.from(bytes.subarray(8, 24)).toString('hex');
  const uuid = digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  return { id: fields.getUint8(24), uuid };
}

/** Tells by the first bytes of a packet what it is. @throws {PacketFault} */
export function packetKind(head: Uint8Array): 'pages' | 'device' {
  const fields = viewOf(head);
  const magic = fields.getUint32(AT.MAGIC);
  if (magic !== MULTIFD_MAGIC) {
    const reason = `it begins with ${hex(magic)}, not ${hex(MULTIFD_MAGIC)}; the one before may have another size`;
    throw new PacketFault('corrupt', reason, AT.MAGIC);
  }
  checkVersion(fields);
  const flags = fields.getUint32(AT.FLAGS);
  if ((flags & ~(FLAG_SYNC | FLAG_COMPRESSION | FLAG_DEVICE_STATE)) !== 0) {
    throw new PacketFault('unsupported', `some of its flags ${hex(flags)} are not known`, AT.FLAGS);
  }
  if ((flags & FLAG_DEVICE_STATE) === 0) return 'pages';
  if (flags === FLAG_DEVICE_STATE) return 'device';
  const reason = `flags ${hex(flags)} of a packet of device state, which has no others than 0x40`;
  throw new PacketFault('corrupt', reason, AT.FLAGS);
}

/** Bytes of a packet of pages, without its payload. */
export function pagesHeaderSize(pageSize: number): number {
  return AT.OFFSETS + 8 * (PACKET_PAGES / pageSize);
}

/** What the header of a packet of pages says; one object for all packets of a channel. */
export class PagesPacket {
  /** Whether it ends a round. */
  isSync = false;
  /** Pages whose contents are the payload. */
  normal = 0;
  /** Pages of zeros. */
  zero = 0;
  /** Bytes of the payload; 0 without normal pages. */
  payloadSize = 0;
  /** How the payload is compressed, if there is one. */
  method: PayloadMethod = 'none';
  /** The block of all pages, if there are any. */
  block: RamBlock | null = null;
  /** Where in the block the pages are: the normal ones, and then those of zeros. */
  offsets: Float64Array = new Float64Array(0);

  /**
   * Takes the header apart.
   *
   * @param bytes - All of it: `pagesHeaderSize`. Its kind is known to be right.
   * @throws {PacketFault}
   */
  parse(bytes: Uint8Array, table: MultifdTable): void {
    const fields = viewOf(bytes);
    const { pageSize } = table;
    const flags = fields.getUint32(AT.FLAGS);
    const room = fields.getUint32(AT.ROOM);
    const most = PACKET_PAGES / pageSize;
    if (room > most) fail(`it has room for ${room} pages, more than ${most}`, AT.ROOM);
    this.normal = fields.getUint32(AT.NORMAL);
    if (this.normal > room) {
      fail(`it has ${this.normal} pages, and room for ${room}`, AT.NORMAL);
    }
    this.zero = fields.getUint32(AT.ZERO);
    if (this.zero > room - this.normal) {
      fail(`it has ${this.normal} pages and ${this.zero} of zeros, and room for ${room}`, AT.ZERO);
    }
    this.isSync = (flags & FLAG_SYNC) !== 0;
    this.payloadSize = 0;
    this.block = null;
    if (this.normal > 0) {
      this.method = methodOf(flags & FLAG_COMPRESSION);
      this.payloadSize = fields.getUint32(AT.PAYLOAD);
      this.#checkPayload(this.normal * pageSize);
    }
    if (this.normal + this.zero > 0) {
      const name = nameAt(bytes, AT.NAME);
      const block = table.find(name);
      if (block === undefined) {
        throw new PacketFault('corrupt', `no RAM block is called ${quote(name)}`, AT.NAME);
      }
      this.block = block;
      this.#takeOffsets(fields, block, pageSize);
    }
  }

  #checkPayload(bytes: number): void {
    const { payloadSize } = this;
    if (this.method === 'none' && payloadSize !== bytes) {
      fail(`its payload is ${payloadSize} bytes, its pages ${bytes}`, AT.PAYLOAD);
    }
    if (payloadSize === 0 || payloadSize > MAX_COMPRESSED) {
      fail(`its payload is ${payloadSize} bytes, not 1…${MAX_COMPRESSED}`, AT.PAYLOAD);
    }
  }

  #takeOffsets(fields: DataView, block: RamBlock, pageSize: number): void {
    const most = PACKET_PAGES / pageSize;
    if (this.offsets.length < most) this.offsets = new Float64Array(most);
    const last = block.usedLength - pageSize;
    const pages = this.normal + this.zero;
    for (let page = 0; page < pages; page++) {
      const at = AT.OFFSETS + 8 * page;
      const low = fields.getUint32(at + 4);
      const offset = fields.getUint32(at) * TWO_32 + low;
      if (offset > last || (low & (pageSize - 1)) !== 0) {
        const where = `${hex(fields.getBigUint64(at))} in block ${quote(block.name)}`;
        const whole = `of ${hex(block.usedLength)} bytes in pages of ${pageSize}`;
        fail(`no page is at ${where} ${whole}`, at);
      }
      this.offsets[page] = offset;
    }
  }
}

/** What the header of a packet of device state says. */
export interface DevicePacket {
  readonly name: string;
  readonly instanceId: number;
  readonly payloadSize: number;
}

/**
 * Takes the header of a packet of device state apart.
 *
 * @param bytes - All of it: `DEVICE_HEADER_SIZE`. Its kind is known to be right.
 * @throws {PacketFault}
 */
export function parseDevicePacket(bytes: Uint8Array): DevicePacket {
  const fields = viewOf(bytes);
  const name = nameAt(bytes, DEVICE_AT.NAME);
  const instanceId = fields.getUint32(DEVICE_AT.INSTANCE);
  const payloadSize = fields.getUint32(DEVICE_AT.PAYLOAD);
  if (payloadSize === 0 || payloadSize > MAX_DEVICE_STATE) {
    const reason = `${payloadSize} bytes of state of device ${quote(name)}, not 1…${MAX_DEVICE_STATE}`;
    fail(reason, DEVICE_AT.PAYLOAD);
  }
  return { name, instanceId, payloadSize };
}

function checkVersion(fields: DataView): void {
  const version = fields.getUint32(AT.VERSION);
  if (version === VERSION) return;
  throw new PacketFault('unsupported', `it has version ${version}, not ${VERSION}`, AT.VERSION);
}

function methodOf(bits: number): PayloadMethod {
  const method = METHODS.get(bits);
  if (method !== undefined) return method;
  const foreign = FOREIGN_METHODS.get(bits);
  const what = foreign === undefined ? `by an unknown method (${hex(bits)})` : `by ${foreign}`;
  throw new PacketFault('unsupported', `its pages are compressed ${what}`, AT.FLAGS);
}

function nameAt(bytes: Uint8Array, at: number): string {
  const end = bytes.indexOf(0, at);
  if (end < 0 || end >= at + NAME_SIZE) fail('a name has no end', at);
  return UTF8.decode(bytes.subarray(at, end));
}

function fail(reason: string, at: number): never {
  throw new PacketFault('corrupt', reason, at);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function quote(name: string): string {
  return `"${printable(name)}"`;
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

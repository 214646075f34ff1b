import { hex, quote } from '../../util/format.ts';
import type { RamBlock } from '../format/events.ts';
import type { StreamFault } from '../format/stream-error.ts';
import { MULTIFD_MAGIC, STREAM_MAGIC } from '../format/wire.ts';
import type { BlockTable } from '../ram/block-table.ts';
import type { PageDispatch } from '../ram/page-dispatch.ts';

/*
 * A multifd channel consists of an initial packet and then packets with pages or with the state of a device.
 *
 *   initial   magic version uuid[16] id …                                                    64 bytes
 *   pages     magic version flags capacity normal payload number[8] zero …[28]
 *             name[256] offset[8] × P
 *             and the payload, if there are normal pages
 *   device    magic version flags name[256] instance payload, and the payload
 *
 * P is the number of pages in 512 KiB. The offsets of normal pages come first, then those of zero pages.
 * Before QEMU 9.0 there are no zero pages, and the fields payload, name and offset of a packet without pages
 * hold values of an earlier packet.
 *
 * @see QEMU `MultiFDInit_t`, `MultiFDPacket_t`, `MultiFDPacketDeviceState_t` in migration/multifd.h
 */

const VERSION = 1;

/** Bytes of the initial packet. */
export const INITIAL_PACKET_BYTES = 64;
/** Bytes of a packet up to and including its flags, which show its kind. */
export const PACKET_KIND_BYTES = 12;
/** Bytes of a packet with device state, without its payload. */
export const DEVICE_HEADER_BYTES = 276;

/** Most bytes of pages in a packet: `MULTIFD_PACKET_SIZE`. */
const MAX_PAGES_BYTES = 524_288;
/** Most bytes of a compressed payload: the size of QEMU's buffer for it. */
const MAX_COMPRESSED_BYTES = 2 * MAX_PAGES_BYTES;
/** Most bytes of device state in a packet. VFIO sends 1 MiB at a time. */
const MAX_DEVICE_STATE_BYTES = 67_108_864;

const FLAG_SYNC = 0x01;
const FLAG_COMPRESSION = 0x3e;
const FLAG_DEVICE_STATE = 0x40;

/** Offsets of the fields of a packet with pages. */
const AT = {
  MAGIC: 0,
  VERSION: 4,
  FLAGS: 8,
  CAPACITY: 12,
  NORMAL: 16,
  PAYLOAD: 20,
  ZERO: 32,
  NAME: 64,
  OFFSETS: 320,
} as const;

/** Offsets of the fields of a packet with device state. */
const DEVICE_AT = { NAME: 12, INSTANCE: 268, PAYLOAD: 272 } as const;

/** Bytes of a name field, its NUL included. */
const NAME_BYTES = 256;

/** The kinds of payload that can be decoded. */
export type PayloadMethod = 'none' | 'zlib' | 'zstd';

const METHODS: ReadonlyMap<number, PayloadMethod> = new Map([
  [0x00, 'none'],
  [0x02, 'zlib'],
  [0x04, 'zstd'],
]);

/** Compression methods that need hardware or a library that Node does not have. */
const UNSUPPORTED_METHODS: ReadonlyMap<number, string> = new Map([
  [0x08, 'QPL'],
  [0x10, 'UADK'],
  [0x20, 'QATzip'],
]);

const UTF8 = new TextDecoder('utf-8');
const TWO_32 = 0x1_0000_0000;

/** A fault of a packet, without the place of the packet, which the caller adds. */
export class PacketFault extends Error {
  override readonly name = 'PacketFault';
  readonly fault: StreamFault;
  /** Offset of the field in the packet. */
  readonly at: number;

  /** @param reason - A clause; text from the stream must be made `printable`. */
  constructor(fault: StreamFault, reason: string, at: number) {
    super(reason);
    this.fault = fault;
    this.at = at;
  }
}

/** The guest's RAM as the channels see it, and the receiver of their pages. */
export interface MultifdTable {
  readonly blockTable: Pick<BlockTable, 'pageSize' | 'find'>;
  readonly dispatch: Pick<PageDispatch, 'page' | 'zero'>;
}

/** The contents of an initial packet. */
export interface InitialPacket {
  readonly id: number;
  /** The guest's UUID in its usual form; all zeros if it has none. */
  readonly uuid: string;
}

/**
 * Parse an initial packet.
 *
 * @param bytes - The whole packet: `INITIAL_PACKET_BYTES`.
 * @throws {PacketFault} `not-a-stream`, `unsupported`.
 */
export function parseInitialPacket(bytes: Uint8Array): InitialPacket {
  const fields = viewOf(bytes);
  const magic = fields.getUint32(AT.MAGIC);
  if (magic !== MULTIFD_MAGIC) {
    const reason =
      magic === STREAM_MAGIC
        ? 'this is a main channel, not a multifd channel'
        : `not a multifd channel: it begins with ${hex(magic)}`;
    throw new PacketFault('not-a-stream', reason, AT.MAGIC);
  }
  checkVersion(fields);
  const digits = Buffer.from(bytes.subarray(8, 24)).toString('hex');
  const uuid = digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  return { id: fields.getUint8(24), uuid };
}

/**
 * Return the kind of a packet.
 *
 * @param head - Its first `PACKET_KIND_BYTES`.
 * @throws {PacketFault} `corrupt`, `unsupported`.
 */
export function packetKind(head: Uint8Array): 'pages' | 'device' {
  const fields = viewOf(head);
  const magic = fields.getUint32(AT.MAGIC);
  if (magic !== MULTIFD_MAGIC) {
    const reason = `it begins with ${hex(magic)}, not ${hex(MULTIFD_MAGIC)}`;
    fail(`${reason}; the length of the previous packet may be wrong`, AT.MAGIC);
  }
  checkVersion(fields);
  const flags = fields.getUint32(AT.FLAGS);
  if ((flags & ~(FLAG_SYNC | FLAG_COMPRESSION | FLAG_DEVICE_STATE)) !== 0) {
    throw new PacketFault('unsupported', `unknown flags in ${hex(flags)}`, AT.FLAGS);
  }
  if ((flags & FLAG_DEVICE_STATE) === 0) return 'pages';
  if (flags === FLAG_DEVICE_STATE) return 'device';
  const reason = `flags ${hex(flags)} of a packet with device state, which has only the flag 0x40`;
  throw new PacketFault('corrupt', reason, AT.FLAGS);
}

/** Return the bytes of a packet with pages, without its payload. */
export function pagesHeaderSize(pageSize: number): number {
  return AT.OFFSETS + 8 * (MAX_PAGES_BYTES / pageSize);
}

/** The header of a packet with pages. One object serves all packets of a channel. */
export class PagesPacket {
  /** Whether the packet ends a round: `MULTIFD_FLAG_SYNC`. */
  isSync = false;
  /** Number of pages whose contents are in the payload. */
  normal = 0;
  /** Number of zero pages. */
  zero = 0;
  /** Bytes of the payload; 0 without normal pages. */
  payloadSize = 0;
  /** Compression of the payload, if there is one. */
  method: PayloadMethod = 'none';
  /** The block of all pages; null without pages. */
  block: RamBlock | null = null;
  /** Offsets in the block: of the normal pages, then of the zero pages. */
  offsets: Float64Array = new Float64Array(0);

  /**
   * Parse a header.
   *
   * @param bytes - The whole header: `pagesHeaderSize`. `packetKind` has accepted it.
   * @throws {PacketFault} `corrupt`, `unsupported`.
   */
  parse(bytes: Uint8Array, blockTable: MultifdTable['blockTable']): void {
    const fields = viewOf(bytes);
    const { pageSize } = blockTable;
    const flags = fields.getUint32(AT.FLAGS);
    const capacity = fields.getUint32(AT.CAPACITY);
    const maxPages = MAX_PAGES_BYTES / pageSize;
    if (capacity > maxPages) {
      fail(`its capacity is ${capacity} pages, at most ${maxPages}`, AT.CAPACITY);
    }
    this.normal = fields.getUint32(AT.NORMAL);
    if (this.normal > capacity) {
      fail(`it has ${this.normal} pages and a capacity of ${capacity}`, AT.NORMAL);
    }
    this.zero = fields.getUint32(AT.ZERO);
    if (this.zero > capacity - this.normal) {
      const pages = `${this.normal} normal pages and ${this.zero} zero pages`;
      fail(`it has ${pages}, and a capacity of ${capacity}`, AT.ZERO);
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
      const block = blockTable.find(name);
      if (block === undefined) fail(`unknown RAM block ${quote(name)}`, AT.NAME);
      this.block = block;
      this.#readOffsets(fields, block, pageSize);
    }
  }

  #checkPayload(bytes: number): void {
    const { payloadSize } = this;
    if (this.method === 'none' && payloadSize !== bytes) {
      fail(`its payload has ${payloadSize} bytes, its pages have ${bytes}`, AT.PAYLOAD);
    }
    if (payloadSize === 0 || payloadSize > MAX_COMPRESSED_BYTES) {
      fail(`its payload has ${payloadSize} bytes, not 1 to ${MAX_COMPRESSED_BYTES}`, AT.PAYLOAD);
    }
  }

  #readOffsets(fields: DataView, block: RamBlock, pageSize: number): void {
    const maxPages = MAX_PAGES_BYTES / pageSize;
    if (this.offsets.length < maxPages) this.offsets = new Float64Array(maxPages);
    const last = block.usedLength - pageSize;
    const pages = this.normal + this.zero;
    for (let page = 0; page < pages; page++) {
      const at = AT.OFFSETS + 8 * page;
      const low = fields.getUint32(at + 4);
      const offset = fields.getUint32(at) * TWO_32 + low;
      if (offset > last || (low & (pageSize - 1)) !== 0) {
        const where = `offset ${hex(fields.getBigUint64(at))} in RAM block ${quote(block.name)}`;
        const size = `of ${hex(block.usedLength)} bytes in pages of ${pageSize}`;
        fail(`${where} ${size} is not that of a page`, at);
      }
      this.offsets[page] = offset;
    }
  }
}

/** The header of a packet with device state. */
export interface DevicePacket {
  readonly name: string;
  readonly instanceId: number;
  readonly payloadSize: number;
}

/**
 * Parse the header of a packet with device state.
 *
 * @param bytes - The whole header: `DEVICE_HEADER_BYTES`. `packetKind` has accepted it.
 * @throws {PacketFault} `corrupt`.
 */
export function parseDevicePacket(bytes: Uint8Array): DevicePacket {
  const fields = viewOf(bytes);
  const name = nameAt(bytes, DEVICE_AT.NAME);
  const instanceId = fields.getUint32(DEVICE_AT.INSTANCE);
  const payloadSize = fields.getUint32(DEVICE_AT.PAYLOAD);
  if (payloadSize === 0 || payloadSize > MAX_DEVICE_STATE_BYTES) {
    const bounds = `not 1 to ${MAX_DEVICE_STATE_BYTES}`;
    const reason = `the state of device ${quote(name)} has ${payloadSize} bytes, ${bounds}`;
    fail(reason, DEVICE_AT.PAYLOAD);
  }
  return { name, instanceId, payloadSize };
}

function checkVersion(fields: DataView): void {
  const version = fields.getUint32(AT.VERSION);
  if (version === VERSION) return;
  throw new PacketFault('unsupported', `packet version ${version}, not ${VERSION}`, AT.VERSION);
}

function methodOf(bits: number): PayloadMethod {
  const method = METHODS.get(bits);
  if (method !== undefined) return method;
  const name = UNSUPPORTED_METHODS.get(bits) ?? `an unknown method (${hex(bits)})`;
  throw new PacketFault('unsupported', `its pages are compressed with ${name}`, AT.FLAGS);
}

function nameAt(bytes: Uint8Array, at: number): string {
  const end = bytes.indexOf(0, at);
  if (end < 0 || end >= at + NAME_BYTES) fail('a name without a NUL at its end', at);
  return UTF8.decode(bytes.subarray(at, end));
}

function fail(reason: string, at: number): never {
  throw new PacketFault('corrupt', reason, at);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

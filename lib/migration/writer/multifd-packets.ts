import { MULTIFD_MAGIC } from '../format/wire.ts';
import { uuidBytes } from './encode-configuration.ts';
import { be32, be64 } from './encode-integers.ts';

/*
 * A multifd channel begins with a packet of 64 bytes. Each further packet has a header with room for the offsets
 * of all pages that a packet may have, and is followed by the pages.
 *
 * @see QEMU `MultiFDInit_t`, `MultiFDPacket_t` in migration/multifd.h
 */

const VERSION = 1;
const NAME_BYTES = 256;
/** Bytes of pages in a full packet. */
const PACKET_BYTES = 524_288;

const FLAG_SYNC = 0x01;
const METHOD_FLAGS = { none: 0x00, zlib: 0x02, zstd: 0x04 } as const;

/** The pages of a packet. */
export interface MultifdPacketFields {
  /** Number of the packet, counted over all channels. */
  readonly number: number;
  /** Bytes of a target page. */
  readonly pageSize: number;
  /** Name of the RAM block; empty in a packet without pages. */
  readonly block: string;
  /** Byte offsets in the block of the pages that follow, in their order. */
  readonly normal: readonly number[];
  /** Byte offsets of pages of zeros; QEMU before 9.0 expects these as records of the main channel. */
  readonly zero?: readonly number[] | undefined;
  /** Bytes of the pages that follow, compressed or not. */
  readonly payloadBytes: number;
  /** How they are compressed: as a slice of one zlib stream, or zstd frame, for each channel. Default `none`. */
  readonly method?: keyof typeof METHOD_FLAGS | undefined;
  /** Whether the channel is in step with the main channel after this packet. Default false. */
  readonly isSync?: boolean | undefined;
}

/**
 * Return the first packet of a multifd channel.
 *
 * @param id - Number of the channel, from 0.
 * @param uuid - The guest's UUID; null if it has none.
 * @throws RangeError for a number beyond 255, and for text that is not a UUID.
 */
export function encodeMultifdInitial(id: number, uuid: string | null = null): Buffer {
  if (!Number.isInteger(id) || id < 0 || id > 255) {
    throw new RangeError(`${id} is not the number of a multifd channel`);
  }
  const identity = uuid === null ? Buffer.alloc(16) : uuidBytes(uuid);
  const start = [be32(MULTIFD_MAGIC), be32(VERSION), identity, Uint8Array.of(id)];
  return Buffer.concat([...start, Buffer.alloc(39)]);
}

/**
 * Return the header of a packet of pages. Its payload follows if there are normal pages.
 *
 * @throws RangeError for more pages than a packet has, offsets that are not those of pages, a payload that cannot be
 *   that of the pages, and a name that is too long.
 */
export function encodeMultifdHeader(fields: MultifdPacketFields): Buffer {
  const { number, pageSize, normal, zero = [], payloadBytes, method = 'none' } = fields;
  const capacity = PACKET_BYTES / pageSize;
  const offsets = [...normal, ...zero];
  const name = Buffer.from(fields.block);
  if (!Number.isInteger(capacity) || offsets.length > capacity) {
    throw new RangeError(`${offsets.length} pages of ${pageSize} bytes in a packet of ${capacity}`);
  }
  if (name.length >= NAME_BYTES || (name.length === 0) !== (offsets.length === 0)) {
    throw new RangeError(`a block name of ${name.length} bytes for ${offsets.length} pages`);
  }
  const wrong = offsets.find((offset) => offset < 0 || offset % pageSize !== 0);
  if (wrong !== undefined) throw new RangeError(`${wrong} is not the offset of a page`);
  const isFit =
    method === 'none'
      ? payloadBytes === normal.length * pageSize
      : payloadBytes > 0 === normal.length > 0;
  if (!isFit) throw new RangeError(`${payloadBytes} bytes for ${normal.length} pages (${method})`);
  const flags = METHOD_FLAGS[method] | (fields.isSync === true ? FLAG_SYNC : 0);
  return Buffer.concat([
    be32(MULTIFD_MAGIC),
    be32(VERSION),
    be32(flags),
    be32(capacity),
    be32(normal.length),
    be32(payloadBytes),
    be64(number),
    be32(zero.length),
    Buffer.alloc(28),
    name,
    Buffer.alloc(NAME_BYTES - name.length),
    ...offsets.map(be64),
    Buffer.alloc(8 * (capacity - offsets.length)),
  ]);
}

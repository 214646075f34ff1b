import { hex } from '../../util/format.ts';
import { StreamInput } from '../format/stream-input.ts';
import { openSource, type StreamSource } from '../format/stream-source.ts';
import { LIMIT, RETURN_MESSAGE } from '../format/wire.ts';
import { bitmapSize, blockFault, type GuestMemory, rangeFault } from './guest-ranges.ts';

/** A message from a destination to its source. @see QEMU `MIG_RP_MSG_…` in migration/migration.h */
export type ReturnPathContent =
  /** The last message: the destination is done; `value` 0 means success. */
  | { readonly name: 'SHUT'; readonly value: number }
  /** The answer to the PING with this value. */
  | { readonly name: 'PONG'; readonly value: number }
  /** A request for pages of a block. */
  | {
      readonly name: 'REQ_PAGES_ID';
      readonly block: string;
      /** Byte offset in the block. */
      readonly start: number;
      readonly length: number;
    }
  /** A request for pages of the same block as the request before. */
  | {
      readonly name: 'REQ_PAGES';
      /** Name of that block; it is not in the message. */
      readonly block: string;
      readonly start: number;
      readonly length: number;
    }
  /** The pages of a block that the destination has: bit i mod 8 of byte i div 8 for page i. */
  | { readonly name: 'RECV_BITMAP'; readonly block: string; readonly bitmap: Uint8Array }
  /** The destination is ready to go on after a broken connection. */
  | { readonly name: 'RESUME_ACK' }
  /** The destination is ready for the source to stop its guest. */
  | { readonly name: 'SWITCHOVER_ACK' };

/** A message of a return path, and its place there. */
export type ReturnPathMessage = ReturnPathContent & {
  /** Offset of its first byte, from where the reader began. */
  readonly offset: number;
  readonly bytes: number;
};

/** Bytes of a message's type and length. */
const HEADER_BYTES = 4;
/** Longest payload, without a bitmap that follows it. @see QEMU `source_return_path_thread` */
const MAX_PAYLOAD_BYTES = 512;
/** Bytes of a request's start and length. */
const REQUEST_BYTES = 12;
/** Bytes of the largest bitmap: for a block of 8 TiB with pages of 4096 bytes. */
const MAX_BITMAP_BYTES = 268_435_456;
const BITMAP_END = 0x0123456789abcdefn;
const RESUME_VALUE = 1;

/** The valid lengths of a message's payload. */
interface Layout {
  readonly name: ReturnPathContent['name'];
  readonly minBytes: number;
  readonly maxBytes: number;
}

const LAYOUTS: ReadonlyMap<number, Layout> = new Map<number, Layout>([
  [RETURN_MESSAGE.SHUT, { name: 'SHUT', minBytes: 4, maxBytes: 4 }],
  [RETURN_MESSAGE.PONG, { name: 'PONG', minBytes: 4, maxBytes: 4 }],
  [
    RETURN_MESSAGE.REQ_PAGES_ID,
    { name: 'REQ_PAGES_ID', minBytes: REQUEST_BYTES + 2, maxBytes: REQUEST_BYTES + 1 + 255 },
  ],
  [
    RETURN_MESSAGE.REQ_PAGES,
    { name: 'REQ_PAGES', minBytes: REQUEST_BYTES, maxBytes: REQUEST_BYTES },
  ],
  [RETURN_MESSAGE.RECV_BITMAP, { name: 'RECV_BITMAP', minBytes: 2, maxBytes: 256 }],
  [RETURN_MESSAGE.RESUME_ACK, { name: 'RESUME_ACK', minBytes: 4, maxBytes: 4 }],
  [RETURN_MESSAGE.SWITCHOVER_ACK, { name: 'SWITCHOVER_ACK', minBytes: 0, maxBytes: 0 }],
]);

/**
 * Reads the messages of a return path. The iteration ends after `SHUT`, or where the source ends between two
 * messages.
 *
 * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`; `unsupported` for an unknown message.
 *
 * @example
 * ```js
 * for await (const message of new ReturnPathReader(socket)) {
 *   if (message.name === 'PONG') console.log(message.value);
 * }
 * ```
 */
export class ReturnPathReader implements AsyncIterable<ReturnPathMessage> {
  /** The guest's RAM blocks. Set them once known: messages are then checked against them. */
  memory: GuestMemory | null = null;
  readonly #source: StreamSource;

  /** @param source - A `QemuFile`, which stays open, or chunks of bytes. */
  constructor(source: StreamSource) {
    this.#source = source;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ReturnPathMessage, undefined> {
    const { file, close } = openSource(this.#source);
    const input = new StreamInput(file, -file.getPosition);
    let lastBlock: string | null = null;
    try {
      while (!(await input.atEnd())) {
        const offset = input.position;
        const content = await this.#read(input, lastBlock);
        if (content.name === 'REQ_PAGES_ID') lastBlock = content.block;
        yield { ...content, offset, bytes: input.position - offset };
        if (content.name === 'SHUT') return;
      }
    } finally {
      await close();
    }
  }

  async #read(input: StreamInput, lastBlock: string | null): Promise<ReturnPathContent> {
    const offset = input.position;
    await input.need(HEADER_BYTES, "the header of a return path's message");
    const type = input.be16();
    const length = input.be16();
    const layout = LAYOUTS.get(type);
    if (layout === undefined) {
      const fault = type === 0 ? 'corrupt' : 'unsupported';
      throw input.error(fault, `return path message of unknown type ${type}`, offset);
    }
    const { name, minBytes, maxBytes } = layout;
    if (length > MAX_PAYLOAD_BYTES || length < minBytes || length > maxBytes) {
      const expected = minBytes === maxBytes ? `${minBytes}` : `${minBytes} to ${maxBytes}`;
      const reason = `return path message ${name} has ${length} bytes, not ${expected}`;
      throw input.error('corrupt', reason, offset + 2);
    }
    await input.need(length, `return path message ${name}`);
    switch (name) {
      case 'SHUT':
      case 'PONG':
        return { name, value: input.be32() };
      case 'REQ_PAGES_ID':
        return this.#readRequest(input, length, null);
      case 'REQ_PAGES':
        if (lastBlock === null) {
          const reason = 'REQ_PAGES came before a REQ_PAGES_ID that names a block';
          throw input.error('corrupt', reason, offset);
        }
        return this.#readRequest(input, length, lastBlock);
      case 'RECV_BITMAP':
        return this.#readBitmap(input, length);
      case 'RESUME_ACK': {
        const value = input.be32();
        if (value === RESUME_VALUE) return { name };
        const reason = `RESUME_ACK has value ${value}, not ${RESUME_VALUE}`;
        throw input.error('corrupt', reason, offset + HEADER_BYTES);
      }
      case 'SWITCHOVER_ACK':
        return { name };
    }
  }

  /** @param lastBlock - The block of the request; null if its name follows. */
  async #readRequest(
    input: StreamInput,
    size: number,
    lastBlock: string | null,
  ): Promise<ReturnPathContent> {
    const at = input.position;
    const start = input.be64();
    const length = input.be32();
    const name = lastBlock === null ? 'REQ_PAGES_ID' : 'REQ_PAGES';
    const block = lastBlock ?? (await this.#readName(input, name, size - REQUEST_BYTES));
    if (start + BigInt(length) > LIMIT.RAM) {
      const reason = `${name}: ${length} bytes from offset ${start} exceed any RAM block`;
      throw input.error('corrupt', reason, at);
    }
    const fault =
      this.memory === null ? null : rangeFault(this.memory, block, Number(start), length);
    if (fault !== null) throw input.error('corrupt', `${name}: ${fault}`, at);
    return { name, block, start: Number(start), length };
  }

  /** @param size - Bytes of the name together with its length byte. */
  async #readName(input: StreamInput, name: string, size: number): Promise<string> {
    const at = input.position;
    const length = input.file.peekByte(0);
    if (1 + length !== size) {
      const reason = `${name} has ${size - 1} bytes for a block name of ${length} bytes`;
      throw input.error('corrupt', reason, at);
    }
    const block = await input.counted(`the block name of ${name}`);
    const fault = this.memory === null ? null : blockFault(this.memory, block);
    if (fault !== null) throw input.error('corrupt', `${name}: ${fault}`, at);
    return block;
  }

  async #readBitmap(input: StreamInput, length: number): Promise<ReturnPathContent> {
    const block = await this.#readName(input, 'RECV_BITMAP', length);
    const at = input.position;
    await input.need(8, 'the size of a bitmap');
    const size = input.be64();
    const expected = this.memory === null ? null : bitmapSize(this.memory, block);
    if (expected !== null && size !== BigInt(expected)) {
      const reason = `the bitmap of RAM block "${block}" has ${size} bytes, not ${expected}`;
      throw input.error('corrupt', reason, at);
    }
    if (size === 0n || size % 8n !== 0n) {
      throw input.error('corrupt', `a bitmap of ${size} bytes is not a multiple of 8`, at);
    }
    if (size > MAX_BITMAP_BYTES) {
      const reason = `a bitmap of ${size} bytes, more than ${MAX_BITMAP_BYTES}`;
      throw input.error('unsupported', reason, at);
    }
    const bitmap = await input.bytes(Number(size), 'a bitmap');
    await input.need(8, "a bitmap's end mark");
    const end = input.be64();
    if (end !== BITMAP_END) {
      const reason = `a bitmap ends with ${hex(end, 16)}, not with ${hex(BITMAP_END, 16)}`;
      throw input.error('corrupt', reason, input.position - 8);
    }
    return { name: 'RECV_BITMAP', block, bitmap };
  }
}

/**
 * Return the bytes of a message, to send to a source.
 *
 * @throws RangeError for a number or a name that does not fit into the message.
 */
export function encodeReturnPath(message: ReturnPathContent): Buffer {
  switch (message.name) {
    case 'SHUT':
    case 'PONG':
      return framed(message.name, be32(message.value));
    case 'REQ_PAGES_ID':
    case 'REQ_PAGES': {
      const place = [be64(message.start), be32(message.length)];
      if (message.name === 'REQ_PAGES') return framed(message.name, ...place);
      return framed(message.name, ...place, counted(message.block));
    }
    case 'RECV_BITMAP': {
      const { block, bitmap } = message;
      if (bitmap.length === 0 || bitmap.length % 8 !== 0) {
        throw new RangeError(`a bitmap of ${bitmap.length} bytes is not a multiple of 8`);
      }
      const head = framed(message.name, counted(block));
      return Buffer.concat([head, be64(bitmap.length), bitmap, be64(BITMAP_END)]);
    }
    case 'RESUME_ACK':
      return framed(message.name, be32(RESUME_VALUE));
    case 'SWITCHOVER_ACK':
      return framed(message.name);
  }
}

function framed(name: ReturnPathContent['name'], ...payload: Buffer[]): Buffer {
  const body = Buffer.concat(payload);
  const head = Buffer.alloc(HEADER_BYTES);
  head.writeUInt16BE(RETURN_MESSAGE[name]);
  head.writeUInt16BE(body.length, 2);
  return Buffer.concat([head, body]);
}

function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function be64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

function counted(name: string): Buffer {
  const text = Buffer.from(name);
  if (text.length === 0 || text.length > 255) {
    throw new RangeError(`a block name must have 1 to 255 bytes, not ${text.length}`);
  }
  return Buffer.concat([Uint8Array.of(text.length), text]);
}

import { StreamInput } from '../format/stream-input.ts';
import { openSource, type StreamSource } from '../format/stream-source.ts';
import { LIMIT, RETURN_MESSAGE } from '../format/wire.ts';
import { bitmapSize, blockFault, type GuestMemory, rangeFault } from './guest-ranges.ts';

/** What a destination tells its source. */
export type ReturnPathContent =
  /** It is done; 0 means that all went well. The last message. */
  | { readonly name: 'SHUT'; readonly value: number }
  /** It got the PING with this value. */
  | { readonly name: 'PONG'; readonly value: number }
  /** It needs pages of a block. */
  | {
      readonly name: 'REQ_PAGES_ID';
      readonly block: string;
      /** In bytes, inside the block. */
      readonly start: number;
      readonly length: number;
    }
  /** It needs more pages of the block that the request before was about. */
  | {
      readonly name: 'REQ_PAGES';
      /** On the wire it is left out. */
      readonly block: string;
      readonly start: number;
      readonly length: number;
    }
  /** Which pages of a block it has: bit i of byte i/8 for each page. */
  | { readonly name: 'RECV_BITMAP'; readonly block: string; readonly bitmap: Uint8Array }
  /** It is ready to go on after a broken connection. */
  | { readonly name: 'RESUME_ACK' }
  /** It is ready for the source to stop its guest. */
  | { readonly name: 'SWITCHOVER_ACK' };

/** A message of a return path, and where it stands there. */
export type ReturnPathMessage = ReturnPathContent & {
  /** Offset of its first byte, from where reading began. */
  readonly offset: number;
  readonly bytes: number;
};

/** Bytes of a message's type and length. */
const HEADER = 4;
/** Longest message, without its header and a bitmap behind it. */
const LONGEST = 512;
/** Bytes of a request's start and length. */
const REQUEST = 12;
/** Bytes of the largest bitmap: for a block of 8 TiB with pages of 4096 bytes. */
const MAX_BITMAP = 268_435_456;
const BITMAP_END = 0x0123456789abcdefn;
const RESUME_VALUE = 1;

/** Which lengths a message may have. */
interface Layout {
  readonly name: ReturnPathContent['name'];
  readonly least: number;
  readonly most: number;
}

const LAYOUTS: ReadonlyMap<number, Layout> = new Map<number, Layout>([
  [RETURN_MESSAGE.SHUT, { name: 'SHUT', least: 4, most: 4 }],
  [RETURN_MESSAGE.PONG, { name: 'PONG', least: 4, most: 4 }],
  [
    RETURN_MESSAGE.REQ_PAGES_ID,
    { name: 'REQ_PAGES_ID', least: REQUEST + 2, most: REQUEST + 1 + 255 },
  ],
  [RETURN_MESSAGE.REQ_PAGES, { name: 'REQ_PAGES', least: REQUEST, most: REQUEST }],
  [RETURN_MESSAGE.RECV_BITMAP, { name: 'RECV_BITMAP', least: 2, most: 256 }],
  [RETURN_MESSAGE.RESUME_ACK, { name: 'RESUME_ACK', least: 4, most: 4 }],
  [RETURN_MESSAGE.SWITCHOVER_ACK, { name: 'SWITCHOVER_ACK', least: 0, most: 0 }],
]);

/**
 * Reads what a destination sent back. The iteration ends after `SHUT`, or where the source ends
 * between two messages; it throws `MigrationStreamError` for anything else.
 *
 * @example
 * ```js
 * for await (const message of new ReturnPathReader(socket)) {
 *   if (message.name === 'PONG') console.log(message.value);
 * }
 * ```
 */
export class ReturnPathReader implements AsyncIterable<ReturnPathMessage> {
  /** The guest's memory. As soon as it is known, set it: messages are then checked against it. */
  memory: GuestMemory | null = null;
  readonly #source: StreamSource;

  /** @param source - A file, which is left open, or chunks of bytes. */
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
    await input.need(HEADER, "the header of a return path's message");
    const type = input.be16();
    const length = input.be16();
    const layout = LAYOUTS.get(type);
    if (layout === undefined) {
      const fault = type === 0 ? 'corrupt' : 'unsupported';
      throw input.error(fault, `the return path has a message of unknown type ${type}`, offset);
    }
    const { name, least, most } = layout;
    if (length > LONGEST || length < least || length > most) {
      const wanted = least === most ? `${least}` : `${least} to ${most}`;
      const reason = `return path message ${name} has ${length} bytes, not ${wanted}`;
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
          const reason = 'REQ_PAGES comes before any REQ_PAGES_ID has named a block';
          throw input.error('corrupt', reason, offset);
        }
        return this.#readRequest(input, length, lastBlock);
      case 'RECV_BITMAP':
        return this.#readBitmap(input, length);
      case 'RESUME_ACK': {
        const value = input.be32();
        if (value === RESUME_VALUE) return { name };
        const reason = `RESUME_ACK has value ${value}, not ${RESUME_VALUE}`;
        throw input.error('corrupt', reason, offset + HEADER);
      }
      case 'SWITCHOVER_ACK':
        return { name };
    }
  }

  /** @param lastBlock - The block that is meant, null if its name follows. */
  async #readRequest(
    input: StreamInput,
    size: number,
    lastBlock: string | null,
  ): Promise<ReturnPathContent> {
    const at = input.position;
    const start = input.be64();
    const length = input.be32();
    const name = lastBlock === null ? 'REQ_PAGES_ID' : 'REQ_PAGES';
    const block = lastBlock ?? (await this.#readName(input, name, size - REQUEST));
    if (start + BigInt(length) > LIMIT.RAM) {
      const reason = `${name}: ${length} bytes from ${start} on are beyond any RAM block`;
      throw input.error('corrupt', reason, at);
    }
    const fault =
      this.memory === null ? null : rangeFault(this.memory, block, Number(start), length);
    if (fault !== null) throw input.error('corrupt', `${name}: ${fault}`, at);
    return { name, block, start: Number(start), length };
  }

  /** @param size - Bytes that the name has to fill together with its length. */
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
    const wanted = this.memory === null ? null : bitmapSize(this.memory, block);
    if (wanted !== null && size !== BigInt(wanted)) {
      const reason = `the bitmap of RAM block "${block}" has ${size} bytes, not ${wanted}`;
      throw input.error('corrupt', reason, at);
    }
    if (size === 0n || size % 8n !== 0n) {
      throw input.error('corrupt', `a bitmap of ${size} bytes does not consist of words`, at);
    }
    if (size > MAX_BITMAP) {
      const reason = `a bitmap of ${size} bytes is larger than this reader takes (${MAX_BITMAP})`;
      throw input.error('unsupported', reason, at);
    }
    const bitmap = await input.bytes(Number(size), 'a bitmap');
    await input.need(8, "a bitmap's end mark");
    const end = input.be64();
    if (end !== BITMAP_END) {
      const reason = `a bitmap ends with ${hex(end)}, not with ${hex(BITMAP_END)}`;
      throw input.error('corrupt', reason, input.position - 8);
    }
    return { name: 'RECV_BITMAP', block, bitmap };
  }
}

function hex(word: bigint): string {
  return `0x${word.toString(16).padStart(16, '0')}`;
}

/**
 * Gives a message's bytes, to be sent to a source.
 *
 * @throws RangeError for a number or a name that has no room in the message.
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
        throw new RangeError(`a bitmap of ${bitmap.length} bytes does not consist of 64-bit words`);
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
  const head = Buffer.alloc(HEADER);
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
    throw new RangeError(`a block name has 1…255 bytes, not ${text.length}`);
  }
  return Buffer.concat([Uint8Array.of(text.length), text]);
}

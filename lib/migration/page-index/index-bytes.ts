import { QemuFileError } from '../../contract/errors.ts';
import { LIMIT } from '../format/wire.ts';

/** Whether the processor puts the low byte of an integer first. */
const IS_LITTLE_ENDIAN: boolean = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** Longest varint: 8 bytes, which hold every number up to the sizes allowed here. */
const MAX_SCALE = 2 ** 56;

/** Return the error of an index that breaks its own rules. */
export function damaged(why: string): QemuFileError {
  const reason = `the page index is damaged: ${why}; remove it or make a new one`;
  return new QemuFileError('EBADMSG', reason, { operation: 'openSavedGuest' });
}

/** Puts the integers of an index. */
export class ByteWriter {
  #bytes = Buffer.alloc(65_536);
  #length = 0;

  bytes(bytes: Uint8Array): void {
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  u8(value: number): void {
    this.#room(1);
    this.#bytes[this.#length++] = value;
  }

  be32(value: number): void {
    this.#room(4);
    this.#length = this.#bytes.writeUInt32BE(value, this.#length);
  }

  be64(value: bigint): void {
    this.#room(8);
    this.#length = this.#bytes.writeBigUInt64BE(value, this.#length);
  }

  varint(value: number): void {
    this.#room(8);
    let left = value;
    while (left >= 128) {
      this.#bytes[this.#length++] = (left % 128) + 128;
      left = Math.floor(left / 128);
    }
    this.#bytes[this.#length++] = left;
  }

  finish(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  #room(size: number): void {
    if (this.#length + size <= this.#bytes.length) return;
    const grown = Buffer.alloc(Math.max(this.#bytes.length * 2, this.#length + size));
    grown.set(this.#bytes);
    this.#bytes = grown;
  }
}

/** Gets the integers of an index; each is checked. */
export class ByteReader {
  readonly #bytes: Buffer;
  #at: number;

  constructor(bytes: Buffer, at: number) {
    this.#bytes = bytes;
    this.#at = at;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  /** Check that at least so many bytes follow, before memory for them is allocated. */
  expect(bytes: number): void {
    if (!(this.#at + bytes <= this.#bytes.length)) throw damaged('it ends too early');
  }

  u8(): number {
    this.expect(1);
    return this.#bytes[this.#at++] as number;
  }

  be32(): number {
    this.expect(4);
    this.#at += 4;
    return this.#bytes.readUInt32BE(this.#at - 4);
  }

  /** Get many integers at once: one by one they delay the start of a guest. */
  be32s(count: number): Uint32Array {
    this.expect(count * 4);
    const integers = new Uint32Array(count);
    const bytes = Buffer.from(integers.buffer);
    this.#bytes.copy(bytes, 0, this.#at);
    if (IS_LITTLE_ENDIAN) bytes.swap32();
    this.#at += count * 4;
    return integers;
  }

  be64(): number {
    const value = this.be64Big();
    if (value > BigInt(LIMIT.RAM)) throw damaged('a size is too large');
    return Number(value);
  }

  be64Big(): bigint {
    this.expect(8);
    this.#at += 8;
    return this.#bytes.readBigUInt64BE(this.#at - 8);
  }

  text(): string {
    const length = this.u8();
    this.expect(length);
    this.#at += length;
    return this.#bytes.toString('utf8', this.#at - length, this.#at);
  }

  varint(): number {
    const first = this.#bytes[this.#at];
    // Most are this short.
    if (first !== undefined && first < 128) {
      this.#at += 1;
      return first;
    }
    let value = 0;
    for (let scale = 1; scale < MAX_SCALE; scale *= 128) {
      this.expect(1);
      const byte = this.#bytes[this.#at++] as number;
      value += (byte & 127) * scale;
      if (value > LIMIT.RAM * 2) throw damaged('a number is too large');
      if (byte < 128) return value;
    }
    throw damaged('a number is too large');
  }
}

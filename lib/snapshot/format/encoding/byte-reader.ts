/** Largest number of bytes of a varint below 2^53. */
const MAX_VARINT_BYTES = 8;

/** Reads the bytes of an object that may be damaged: every length is checked before it is used. */
export class ByteReader {
  readonly #bytes: Buffer;
  readonly #fail: (reason: string) => Error;
  #at = 0;

  /** @param fail - Makes the error for a reason, a clause. */
  constructor(bytes: Uint8Array, fail: (reason: string) => Error) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#fail = fail;
  }

  /** Bytes that were not read yet. */
  get left(): number {
    return this.#bytes.length - this.#at;
  }

  u8(): number {
    this.#need(1);
    return this.#bytes[this.#at++] as number;
  }

  u32(): number {
    this.#need(4);
    this.#at += 4;
    return this.#bytes.readUInt32BE(this.#at - 4);
  }

  u64(): bigint {
    this.#need(8);
    this.#at += 8;
    return this.#bytes.readBigUInt64BE(this.#at - 8);
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let count = 1; ; count++) {
      const byte = this.u8();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) break;
      if (count === MAX_VARINT_BYTES) throw this.#fail('an integer is too long');
      scale *= 0x80;
    }
    if (!Number.isSafeInteger(value)) throw this.#fail('an integer is too large');
    return value;
  }

  /** Read a varint and check its range. */
  varintUpTo(max: number, what: string): number {
    const value = this.varint();
    if (value > max) throw this.#fail(`${what} of ${value}, at most ${max}`);
    return value;
  }

  signed(): number {
    const value = this.varint();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }

  /** Return the next bytes, without a copy. */
  bytes(length: number): Buffer {
    this.#need(length);
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  counted(): Buffer {
    return this.bytes(this.varint());
  }

  /** Read text of at most `maxBytes`. */
  text(maxBytes: number, what: string): string {
    return this.bytes(this.varintUpTo(maxBytes, `the length of ${what}`)).toString();
  }

  flag(): boolean {
    const value = this.u8();
    if (value > 1) throw this.#fail(`a flag of ${value}`);
    return value === 1;
  }

  #need(size: number): void {
    if (size > this.left) throw this.#fail(`it ends ${size - this.left} bytes too early`);
  }
}

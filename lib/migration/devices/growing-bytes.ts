import { Buffer } from 'node:buffer';

const FIRST_BYTES = 1024;

/** Bytes that are appended one after the other. */
export class GrowingBytes {
  #bytes: Buffer = Buffer.allocUnsafe(FIRST_BYTES);
  #view: DataView = viewOf(this.#bytes);
  #length = 0;

  /** Bytes appended so far. */
  get length(): number {
    return this.#length;
  }

  append(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Append an integer in big-endian order. */
  integer(value: bigint, size: 1 | 2 | 4 | 8): void {
    this.#reserve(size);
    const view = this.#view;
    const at = this.#length;
    if (size === 8) view.setBigUint64(at, BigInt.asUintN(64, value));
    else if (size === 4) view.setUint32(at, Number(BigInt.asUintN(32, value)));
    else if (size === 2) view.setUint16(at, Number(BigInt.asUintN(16, value)));
    else view.setUint8(at, Number(BigInt.asUintN(8, value)));
    this.#length = at + size;
  }

  /** Return all bytes, in memory of their own. */
  take(): Buffer {
    return Buffer.from(this.#bytes.subarray(0, this.#length));
  }

  #reserve(size: number): void {
    const needed = this.#length + size;
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
    this.#view = viewOf(larger);
  }
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

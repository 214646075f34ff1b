/** Collects the bytes that one payload decodes to, and refuses more of them than there must be. */
export class PayloadOutput {
  #bytes = Buffer.alloc(0);
  #size = 0;
  #filled = 0;

  /** Start a payload that must decode to `size` bytes. Invalidates the bytes of the previous one. */
  begin(size: number): void {
    if (this.#bytes.length < size) this.#bytes = Buffer.allocUnsafeSlow(size);
    this.#size = size;
    this.#filled = 0;
  }

  /** @throws Error if the payload decodes to more bytes than it must. */
  add(chunk: Uint8Array): void {
    if (chunk.length > this.#size - this.#filled) throw new Error(tooMuch(this.#size));
    this.#bytes.set(chunk, this.#filled);
    this.#filled += chunk.length;
  }

  /**
   * Return the bytes of the payload.
   *
   * @throws Error if there are fewer than there must be.
   */
  end(): Uint8Array {
    if (this.#filled < this.#size) throw new Error(tooLittle(this.#filled, this.#size));
    return this.#bytes.subarray(0, this.#size);
  }
}

/** Return the reason for refusing a payload that decodes to more than `size` bytes. */
export function tooMuch(size: number): string {
  return `it decodes to more than the ${size} bytes of its pages`;
}

/** Return the reason for refusing a payload that decodes to fewer than `size` bytes. */
export function tooLittle(decoded: number, size: number): string {
  return `it decodes to ${decoded} bytes, its pages are ${size}`;
}

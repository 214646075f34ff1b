import type { PackedValue } from './page/model.ts';

/** Greatest number of hexadecimal digits for one field. */
const MAX_DIGITS = 524_288;

/** Larger integers are text in a summary. */
const MAX_NUMBER = BigInt(Number.MAX_SAFE_INTEGER);
const INTEGER_END = 2n ** 64n;

/** Packs the states of devices for a page until a number of characters is used up. */
export class StatePacker {
  #charsLeft: number;

  /** @param maxChars - Greatest number of characters for all states. */
  constructor(maxChars: number) {
    this.#charsLeft = maxChars;
  }

  /**
   * Pack a state of a summary.
   *
   * @returns Undefined if the state is too large; a smaller one may still fit.
   */
  pack(state: unknown): PackedValue | undefined {
    const before = this.#charsLeft;
    const packed = this.#value(state);
    if (packed === undefined) this.#charsLeft = before;
    return packed;
  }

  #value(value: unknown): PackedValue | undefined {
    if (typeof value === 'string') return this.#account(packText(value));
    if (Array.isArray(value)) {
      const list: PackedValue[] = [];
      for (const item of value) {
        const packed = this.#value(item);
        if (packed === undefined) return undefined;
        list.push(packed);
      }
      return this.#account(list, 2);
    }
    if (typeof value === 'object' && value !== null) {
      const entries: [string, PackedValue][] = [];
      for (const [name, inner] of Object.entries(value)) {
        const packed = this.#value(inner);
        if (packed === undefined || this.#account(name) === undefined) return undefined;
        entries.push([name, packed]);
      }
      // An assignment to "__proto__" would set the prototype.
      return this.#account(Object.fromEntries(entries), 2);
    }
    return this.#account(typeof value === 'number' || typeof value === 'boolean' ? value : null, 6);
  }

  /** Return `value` if its characters are still available. */
  #account<T extends PackedValue>(value: T, size = 0): T | undefined {
    this.#charsLeft -= size + (typeof value === 'string' ? value.length + 4 : 0);
    return this.#charsLeft < 0 ? undefined : value;
  }
}

/** Pack a string of a summary: an integer beyond 2^53-1, bytes, or text. */
function packText(text: string): string {
  if (isBigInteger(text)) return `#${text}`;
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/.test(text)) return `"${text.slice(0, MAX_DIGITS)}`;
  const size = text.length / 2;
  let end = text.length;
  while (end > 0 && text.charCodeAt(end - 1) === 0x30) end--;
  end += end % 2;
  return end > MAX_DIGITS
    ? `${size}!${text.slice(0, MAX_DIGITS)}`
    : `${size}:${text.slice(0, end)}`;
}

function isBigInteger(text: string): boolean {
  if (!/^-?[1-9]\d{15,19}$/.test(text)) return false;
  const value = BigInt(text);
  return (
    (value > MAX_NUMBER && value < INTEGER_END) ||
    (value < -MAX_NUMBER && value >= -INTEGER_END / 2n)
  );
}

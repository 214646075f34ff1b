import type { PackedValue } from './page/model.ts';

/** Hexadecimal digits of one field at most. */
const MAX_DIGITS = 524_288;

/** Integers beyond these are text in a summary. */
const SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const MOST = 2n ** 64n;

/** Packs the states of devices for a page, as long as there is room in it. */
export class StatePacker {
  #left: number;

  /** @param room - Characters that all states may take. */
  constructor(room: number) {
    this.#left = room;
  }

  /**
   * Packs a state, as a summary has it.
   *
   * @returns Undefined if there is no room for it; there may be for another.
   */
  pack(state: unknown): PackedValue | undefined {
    const before = this.#left;
    const packed = this.#value(state);
    if (packed === undefined) this.#left = before;
    return packed;
  }

  #value(value: unknown): PackedValue | undefined {
    if (typeof value === 'string') return this.#room(packText(value));
    if (Array.isArray(value)) {
      const list: PackedValue[] = [];
      for (const item of value) {
        const packed = this.#value(item);
        if (packed === undefined) return undefined;
        list.push(packed);
      }
      return this.#room(list, 2);
    }
    if (typeof value === 'object' && value !== null) {
      const entries: [string, PackedValue][] = [];
      for (const [name, inner] of Object.entries(value)) {
        const packed = this.#value(inner);
        if (packed === undefined || this.#room(name) === undefined) return undefined;
        entries.push([name, packed]);
      }
      // A name may be "__proto__": no assignment, then.
      return this.#room(Object.fromEntries(entries), 2);
    }
    return this.#room(typeof value === 'number' || typeof value === 'boolean' ? value : null, 6);
  }

  #room<T extends PackedValue>(value: T, size = 0): T | undefined {
    this.#left -= size + (typeof value === 'string' ? value.length + 4 : 0);
    return this.#left < 0 ? undefined : value;
  }
}

/** A string of a summary is an integer beyond 2^53-1, or bytes. */
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
  return (value > SAFE && value < MOST) || (value < -SAFE && value >= -MOST / 2n);
}

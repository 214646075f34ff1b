import { appendInSteps, makeDetails, makeElement } from './elements.ts';
import { formatCount, formatHex, formatNumber } from './format.ts';
import type { PackedValue } from './model.ts';

/** Bytes of a device's state. */
interface PackedBytes {
  size: number;
  /** Hexadecimal digits of the first bytes. */
  digits: string;
  /** Whether the page does not have the other bytes; otherwise they are zeros. */
  isCut: boolean;
}

/** Unpack bytes; null if the value is of another kind. */
export function unpackBytes(value: PackedValue): PackedBytes | null {
  const match = typeof value === 'string' ? /^(\d+)([:!])([0-9a-f]*)$/.exec(value) : null;
  if (match === null) return null;
  return { size: Number(match[1]), digits: match[3] as string, isCut: match[2] === '!' };
}

/** Unpack an integer of any size; null if the value is of another kind. */
export function unpackInteger(value: PackedValue): bigint | null {
  if (typeof value === 'number') return Number.isInteger(value) ? BigInt(value) : null;
  return typeof value === 'string' && value.startsWith('#') ? BigInt(value.slice(1)) : null;
}

/** Return a single value as text. */
export function plainText(value: PackedValue): string {
  if (isNested(value)) return describeNested(value);
  const integer = unpackInteger(value);
  if (integer !== null) return integer.toString();
  return typeof value === 'string' ? value.slice(1) : String(value);
}

/** Return whether a value is an array or a structure. */
export function isNested(
  value: PackedValue,
): value is PackedValue[] | { [name: string]: PackedValue } {
  return typeof value === 'object' && value !== null;
}

/** Show a value under its name; the members of a nested one are made when the reader opens it. */
export function valueView(name: string, value: PackedValue): HTMLElement {
  const key = makeElement('span', { class: 'key' }, name);
  if (isNested(value)) {
    return makeDetails(
      [key, makeElement('span', { class: 'quiet' }, describeNested(value))],
      (into) => appendMembers(into, value),
    );
  }
  const bytes = unpackBytes(value);
  if (bytes !== null) {
    if (bytes.size === 0) return makeElement('div', { class: 'field' }, key, 'no bytes');
    return makeDetails(
      [key, makeElement('span', { class: 'quiet' }, describeBytes(bytes))],
      (into) => appendDump(into, bytes),
    );
  }
  const integer = unpackInteger(value);
  return makeElement(
    'div',
    { class: 'field' },
    key,
    makeElement('span', { class: 'plain' }, plainText(value)),
    makeElement('span', { class: 'hex' }, integer === null ? '' : formatHex(integer)),
  );
}

/** Append the fields of a structure, or the elements of an array. */
export function appendMembers(
  into: HTMLElement,
  value: PackedValue[] | { [name: string]: PackedValue },
): void {
  const members: [name: string, value: PackedValue][] = Array.isArray(value)
    ? value.map((item, at) => [`[${at}]`, item])
    : Object.entries(value);
  if (members.length === 0) into.append(makeElement('p', { class: 'quiet' }, 'empty'));
  appendInSteps(into, into, members, 100, ([name, inner]) => valueView(name, inner));
}

/** Describe a structure or an array in short. */
function describeNested(value: PackedValue[] | { [name: string]: PackedValue }): string {
  if (!Array.isArray(value)) return formatCount(Object.keys(value).length, 'field');
  const count = formatCount(value.length, 'element');
  const first = value.slice(0, 6);
  if (first.some((item) => isNested(item) || unpackBytes(item) !== null)) return count;
  return `${count}: ${first.map(plainText).join(', ')}${value.length > first.length ? ', …' : ''}`;
}

/** Describe bytes in short. */
function describeBytes({ size, digits }: PackedBytes): string {
  const count = formatCount(size, 'byte');
  if (digits === '') return `${count}, all zero`;
  const shown = Math.min(size, 8);
  const first = digits.slice(0, 2 * shown).padEnd(2 * shown, '0');
  return `${count}: ${first.replace(/..\B/g, '$& ')}${size > shown ? ' …' : ''}`;
}

/** Append a dump of bytes, sixteen in a line. */
function appendDump(into: HTMLElement, { size, digits, isCut }: PackedBytes): void {
  const lineBytes = 16;
  const chunkLines = 256;
  // Zeros after the last known byte fill its line only.
  const known = Math.min(size, Math.ceil(digits.length / 2 / lineBytes) * lineBytes);
  const text = digits.padEnd(2 * known, '0');
  const places = Math.max(4, known.toString(16).length);
  const line = (at: number): string => {
    const own = text.slice(2 * at, 2 * Math.min(at + lineBytes, known));
    const bytes = own.match(/../g) ?? [];
    const letters = bytes.map((byte) => {
      const code = Number.parseInt(byte, 16);
      return code >= 0x20 && code < 0x7f ? String.fromCharCode(code) : '.';
    });
    const hex = bytes.join(' ').padEnd(3 * lineBytes - 1);
    return `${at.toString(16).padStart(places, '0')}  ${hex}  ${letters.join('')}`;
  };
  const chunks: number[] = [];
  for (let at = 0; at < known; at += lineBytes * chunkLines) chunks.push(at);
  appendInSteps(into, into, chunks, 1, (first) => {
    const lines: string[] = [];
    const end = Math.min(first + lineBytes * chunkLines, known);
    for (let at = first; at < end; at += lineBytes) lines.push(line(at));
    const dump = makeElement('pre', { tabindex: '0' });
    dump.textContent = lines.join('\n');
    return dump;
  });
  if (known === size) return;
  const rest = isCut
    ? `The other ${formatNumber(size - known)} bytes are not in this page.`
    : `Zeros up to byte ${formatNumber(size)}.`;
  into.append(makeElement('p', { class: 'quiet' }, rest));
}

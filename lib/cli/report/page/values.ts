import { pageCount, pageElement, pageHex, pageNumber, pageSome } from './base.ts';
import type { PageElement } from './dom.ts';
import type { PackedValue } from './model.ts';

/** Bytes of a state: how many, and the digits that are known; what is not cut off is zeros. */
export interface PageBytes {
  size: number;
  digits: string;
  isCut: boolean;
}

/** Unpacks bytes; null if the value is something else. */
export function pageBytes(value: PackedValue): PageBytes | null {
  const match = typeof value === 'string' ? /^(\d+)([:!])([0-9a-f]*)$/.exec(value) : null;
  if (match === null) return null;
  return { size: Number(match[1]), digits: match[3] as string, isCut: match[2] === '!' };
}

/** Unpacks an integer, however large; null if the value is something else. */
export function pageInteger(value: PackedValue): bigint | null {
  if (typeof value === 'number') return Number.isInteger(value) ? BigInt(value) : null;
  return typeof value === 'string' && value.startsWith('#') ? BigInt(value.slice(1)) : null;
}

/** A single value as text. */
export function pagePlain(value: PackedValue): string {
  if (pageIsNested(value)) return pageGlance(value);
  const integer = pageInteger(value);
  if (integer !== null) return integer.toString();
  return typeof value === 'string' ? value.slice(1) : String(value);
}

/** Tells whether a value has others in it. */
export function pageIsNested(
  value: PackedValue,
): value is PackedValue[] | { [name: string]: PackedValue } {
  return typeof value === 'object' && value !== null;
}

/** A value under its name; what is in it is made when it is opened. */
export function pageValue(name: string, value: PackedValue): PageElement {
  const key = pageElement('span', { class: 'key' }, name);
  if (pageIsNested(value)) {
    return pageOpens([key, pageElement('span', { class: 'quiet' }, pageGlance(value))], (into) =>
      pageMembers(into, value),
    );
  }
  const bytes = pageBytes(value);
  if (bytes !== null) {
    if (bytes.size === 0) return pageElement('div', { class: 'field' }, key, 'no bytes');
    return pageOpens(
      [key, pageElement('span', { class: 'quiet' }, pageBytesGlance(bytes))],
      (into) => pageDump(into, bytes),
    );
  }
  const integer = pageInteger(value);
  return pageElement(
    'div',
    { class: 'field' },
    key,
    pageElement('span', { class: 'plain' }, pagePlain(value)),
    pageElement('span', { class: 'hex' }, integer === null ? '' : pageHex(integer)),
  );
}

/** Something to open, filled the first time. */
export function pageOpens(summary: PageElement[], fill: (into: PageElement) => void): PageElement {
  const inside = pageElement('div', { class: 'inside' });
  const details = pageElement('details', {}, pageElement('summary', {}, ...summary), inside);
  let isFilled = false;
  details.addEventListener('toggle', () => {
    if (isFilled || !details.open) return;
    isFilled = true;
    fill(inside);
  });
  return details;
}

/** The fields of a structure, or the elements of an array. */
export function pageMembers(
  into: PageElement,
  value: PackedValue[] | { [name: string]: PackedValue },
): void {
  const members: [name: string, value: PackedValue][] = Array.isArray(value)
    ? value.map((item, at) => [`[${at}]`, item])
    : Object.entries(value);
  if (members.length === 0) into.append(pageElement('p', { class: 'quiet' }, 'nothing in it'));
  pageSome(into, into, members, 100, ([name, inner]) => pageValue(name, inner));
}

/** What is in a structure or array, in short. */
export function pageGlance(value: PackedValue[] | { [name: string]: PackedValue }): string {
  if (!Array.isArray(value)) return pageCount(Object.keys(value).length, 'field');
  const count = pageCount(value.length, 'element');
  const first = value.slice(0, 6);
  if (first.some((item) => pageIsNested(item) || pageBytes(item) !== null)) return count;
  return `${count}: ${first.map(pagePlain).join(', ')}${value.length > first.length ? ', …' : ''}`;
}

/** What bytes are, in short. */
export function pageBytesGlance({ size, digits }: PageBytes): string {
  const count = pageCount(size, 'byte');
  if (digits === '') return `${count}, all zero`;
  const shown = Math.min(size, 8);
  const first = digits.slice(0, 2 * shown).padEnd(2 * shown, '0');
  return `${count}: ${first.replace(/..\B/g, '$& ')}${size > shown ? ' …' : ''}`;
}

/** Bytes, sixteen in a line. */
export function pageDump(into: PageElement, { size, digits, isCut }: PageBytes): void {
  const lineBytes = 16;
  const chunkLines = 256;
  // Zeros behind the last known byte fill its line only.
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
  pageSome(into, into, chunks, 1, (first) => {
    const lines: string[] = [];
    const end = Math.min(first + lineBytes * chunkLines, known);
    for (let at = first; at < end; at += lineBytes) lines.push(line(at));
    const dump = pageElement('pre', { tabindex: '0' });
    dump.textContent = lines.join('\n');
    return dump;
  });
  if (known === size) return;
  const rest = isCut
    ? `The other ${pageNumber(size - known)} bytes are left out of this page.`
    : `Zeros up to byte ${pageNumber(size)}.`;
  into.append(pageElement('p', { class: 'quiet' }, rest));
}

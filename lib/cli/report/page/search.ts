import { type Content, makeElement } from './elements.ts';
import { formatCount } from './format.ts';
import type { PackedValue } from './model.ts';
import { isNested, plainText, unpackBytes, unpackInteger } from './values.ts';

/** A query matches names that contain `text`, integers equal to `number`, and bytes that contain `digits`. */
export interface Query {
  text: string;
  number: bigint | null;
  /** Hexadecimal digits, two for each byte. */
  digits: string | null;
}

/** A value that matches a query, and the path of fields to it. */
export interface Hit {
  path: string;
  value: PackedValue;
}

/** Milliseconds without a key after which the search begins. */
const PAUSE_MS = 150;

/** Where a search panel shows what was found. */
export interface Results {
  /** Emptied before each search. */
  list: HTMLElement;
  /** Line of text above the list. */
  summary: HTMLElement;
}

/**
 * Make a panel of devices with a search field.
 *
 * @param example - What the empty field shows.
 * @param moreDevices - Devices that are not in this page.
 * @param show - Shows the devices that match what was typed; called at first with an empty query.
 */
export function makeSearchPanel(
  example: string,
  moreDevices: number,
  show: (query: Query, results: Results) => void,
): Content[] {
  const summary = makeElement('p', { class: 'quiet', role: 'status' });
  const list = makeElement('div', { class: 'devices' });
  const search = makeSearch(example, (typed) => {
    list.replaceChildren();
    show(parseQuery(typed), { list, summary });
  });
  if (moreDevices === 0) return [search, summary, list];
  const rest = `${formatCount(moreDevices, 'device')} not in this page.`;
  return [search, summary, list, makeElement('p', { class: 'quiet' }, rest)];
}

function makeSearch(example: string, show: (typed: string) => void): HTMLElement {
  const input = makeElement('input', {
    type: 'search',
    id: 'query',
    placeholder: example,
    autocomplete: 'off',
    spellcheck: 'false',
  });
  const label = makeElement('label', { for: 'query' }, 'Find a device, a field or a value');
  let timer: number | undefined;
  input.addEventListener('input', () => {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => show(input.value), PAUSE_MS);
  });
  show('');
  return makeElement('div', { class: 'search' }, label, input);
}

/** Read what was typed as text, as a number, and as bytes, where it can be each. */
function parseQuery(typed: string): Query {
  const text = typed.trim().toLowerCase();
  const number = /^(-?)(0x[0-9a-f]+|\d+)$/.exec(text);
  const digits = text.replace(/^0x/, '').replace(/\s+/g, '');
  // Digits that can be a decimal number are a number, not bytes.
  const isBytes = !/^\d*$/.test(text) && /^(?:[0-9a-f]{2}){2,}$/.test(digits);
  return {
    text,
    number: number === null ? null : BigInt(number[2] as string) * (number[1] === '-' ? -1n : 1n),
    digits: isBytes ? digits : null,
  };
}

/** Search a value and all values in it, and add up to `most` hits. */
export function searchValue(
  value: PackedValue,
  query: Query,
  path: string,
  hits: Hit[],
  most: number,
): void {
  if (hits.length >= most) return;
  if (!isNested(value)) {
    if (matchesQuery(value, query)) hits.push({ path, value });
    return;
  }
  if (Array.isArray(value)) {
    value.forEach((item, at) => {
      searchValue(item, query, `${path}[${at}]`, hits, most);
    });
    return;
  }
  for (const [name, inner] of Object.entries(value)) {
    const innerPath = path === '' ? name : `${path}.${name}`;
    // A match by name stands for all values in it: the reader can open it.
    if (name.toLowerCase().includes(query.text)) {
      if (hits.length < most) hits.push({ path: innerPath, value: inner });
    } else searchValue(inner, query, innerPath, hits, most);
  }
}

/** Return whether a single value matches a query. */
export function matchesQuery(value: PackedValue, { text, number, digits }: Query): boolean {
  const integer = unpackInteger(value);
  if (integer !== null) return integer === number;
  const bytes = unpackBytes(value);
  if (bytes === null) return plainText(value).toLowerCase() === text;
  if (digits === null) return false;
  let at = bytes.digits.indexOf(digits);
  while (at % 2 === 1) at = bytes.digits.indexOf(digits, at + 1);
  return at >= 0;
}

import { appendInSteps, type Content, makeDetails, makeElement } from './elements.ts';
import { formatCount, formatNumber, formatSize } from './format.ts';
import type { DeviceRow, PackedValue, ReportData } from './model.ts';
import {
  appendMembers,
  isNested,
  plainText,
  unpackBytes,
  unpackInteger,
  valueView,
} from './values.ts';

/** A query matches names that contain `text`, integers equal to `number`, and bytes that contain `digits`. */
interface Query {
  text: string;
  number: bigint | null;
  /** Hexadecimal digits, two for each byte. */
  digits: string | null;
}

/** A value that matches a query, and the path of fields to it. */
interface Hit {
  path: string;
  value: PackedValue;
}

/** Show the state of devices, with a search field. */
export function devicesPanel({ devices, moreDevices }: ReportData): Content[] {
  const input = makeElement('input', {
    type: 'search',
    id: 'query',
    placeholder: 'apic, 0x1f0, 4096, 0xdeadbeef …',
    autocomplete: 'off',
    spellcheck: 'false',
  });
  const label = makeElement('label', { for: 'query' }, 'Find a device, a field or a value');
  const found = makeElement('p', { class: 'quiet', role: 'status' });
  const list = makeElement('div', { class: 'devices' });
  const show = (): void => showMatches(devices, input.value, list, found);
  let timer: number | undefined;
  input.addEventListener('input', () => {
    window.clearTimeout(timer);
    timer = window.setTimeout(show, 150);
  });
  show();
  const content: Content[] = [makeElement('div', { class: 'search' }, label, input), found, list];
  if (moreDevices > 0) {
    const rest = `${formatCount(moreDevices, 'device')} not in this page.`;
    content.push(makeElement('p', { class: 'quiet' }, rest));
  }
  return content;
}

/** Show the devices that match what was typed, or all of them if nothing was. */
function showMatches(
  devices: readonly DeviceRow[],
  typed: string,
  list: HTMLElement,
  found: HTMLElement,
): void {
  const query = parseQuery(typed);
  list.replaceChildren();
  if (query.text === '') {
    found.textContent = `${formatCount(devices.length, 'device')}. Search for a part of a name, a whole number (decimal or 0x…), or a sequence of bytes.`;
    appendInSteps(list, list, devices, 100, (device) => deviceView(device, []));
    return;
  }
  const most = 20;
  const matches = devices.flatMap((device) => {
    const hits: Hit[] = [];
    // One more than is shown, to know whether there are more.
    if (device.state !== undefined) searchValue(device.state, query, '', hits, most + 1);
    const isNamed = device.name.toLowerCase().includes(query.text);
    return isNamed || hits.length > 0 ? [{ device, hits }] : [];
  });
  const fields = matches.reduce((sum, { hits }) => sum + Math.min(hits.length, most), 0);
  const isMore = matches.some(({ hits }) => hits.length > most);
  found.textContent = `${formatCount(matches.length, 'device')}, ${isMore ? 'more than ' : ''}${formatCount(fields, 'field')}`;
  appendInSteps(list, list, matches, 50, ({ device, hits }) => {
    const element = deviceView(device, hits.slice(0, most));
    if (hits.length > most)
      element.append(
        makeElement('p', { class: 'quiet' }, `Only the first ${formatNumber(most)} are shown.`),
      );
    return element;
  });
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
function searchValue(
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
function matchesQuery(value: PackedValue, { text, number, digits }: Query): boolean {
  const integer = unpackInteger(value);
  if (integer !== null) return integer === number;
  const bytes = unpackBytes(value);
  if (bytes === null) return plainText(value).toLowerCase() === text;
  if (digits === null) return false;
  let at = bytes.digits.indexOf(digits);
  while (at % 2 === 1) at = bytes.digits.indexOf(digits, at + 1);
  return at >= 0;
}

/** Show a device, and the hits in it. */
function deviceView({ name, bytes, state }: DeviceRow, hits: readonly Hit[]): HTMLElement {
  const title = [
    makeElement('span', { class: 'key' }, name),
    makeElement('span', { class: 'quiet' }, bytes === null ? '' : formatSize(bytes)),
  ];
  const device = makeDetails(title, (into) => {
    if (state === undefined)
      into.append(
        makeElement(
          'p',
          { class: 'quiet' },
          'Too large for this page; "qemu-file inspect --json" prints it.',
        ),
      );
    else if (isNested(state)) appendMembers(into, state);
    else into.append(valueView('state', state));
  });
  const found = makeElement(
    'div',
    { class: 'hits' },
    ...hits.map(({ path, value }) => valueView(path, value)),
  );
  return makeElement('div', { class: 'device' }, device, ...(hits.length > 0 ? [found] : []));
}

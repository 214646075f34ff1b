import { pageCount, pageElement, pageNumber, pageSize, pageSome } from './base.ts';
import type { PageContent, PageElement, PageWindow } from './dom.ts';
import type { DeviceRow, PackedValue, ReportData } from './model.ts';
import {
  pageBytes,
  pageInteger,
  pageIsNested,
  pageMembers,
  pageOpens,
  pagePlain,
  pageValue,
} from './values.ts';

declare const window: PageWindow;

/** What is looked for: names that contain a text, numbers that are one, bytes that contain some. */
export interface PageQuery {
  text: string;
  number: bigint | null;
  digits: string | null;
}

/** A value that was found, and where. */
export interface PageHit {
  path: string;
  value: PackedValue;
}

/** The state of devices, to look into and to search. */
export function pageDevices({ devices, moreDevices }: ReportData): PageContent[] {
  const input = pageElement('input', {
    type: 'search',
    id: 'query',
    placeholder: 'apic, 0x1f0, 4096, 0xdeadbeef …',
    autocomplete: 'off',
    spellcheck: 'false',
  });
  const label = pageElement('label', { for: 'query' }, 'Find a device, a field or a value');
  const found = pageElement('p', { class: 'quiet', role: 'status' });
  const list = pageElement('div', { class: 'devices' });
  const show = (): void => pageFind(devices, input.value, list, found);
  let timer: number | undefined;
  input.addEventListener('input', () => {
    window.clearTimeout(timer);
    timer = window.setTimeout(show, 150);
  });
  show();
  const content: PageContent[] = [
    pageElement('div', { class: 'search' }, label, input),
    found,
    list,
  ];
  if (moreDevices > 0) {
    const rest = `${pageCount(moreDevices, 'device')} left out of this page.`;
    content.push(pageElement('p', { class: 'quiet' }, rest));
  }
  return content;
}

/** Shows the devices that have what is looked for; all if that is nothing. */
export function pageFind(
  devices: readonly DeviceRow[],
  typed: string,
  list: PageElement,
  found: PageElement,
): void {
  const query = pageQuery(typed);
  list.replaceChildren();
  if (query.text === '') {
    found.textContent = `${pageCount(devices.length, 'device')}. Names are found by a part of them, numbers as a whole, decimal or 0x…, bytes by some of them.`;
    pageSome(list, list, devices, 100, (device) => pageDevice(device, []));
    return;
  }
  // One more than is shown tells that there are more.
  const most = 20;
  const matches = devices.flatMap((device) => {
    const hits: PageHit[] = [];
    if (device.state !== undefined) pageSearch(device.state, query, '', hits, most + 1);
    const isNamed = device.name.toLowerCase().includes(query.text);
    return isNamed || hits.length > 0 ? [{ device, hits }] : [];
  });
  const fields = matches.reduce((sum, { hits }) => sum + Math.min(hits.length, most), 0);
  const isMore = matches.some(({ hits }) => hits.length > most);
  found.textContent = `${pageCount(matches.length, 'device')}, ${isMore ? 'more than ' : ''}${pageCount(fields, 'field')}`;
  pageSome(list, list, matches, 50, ({ device, hits }) => {
    const element = pageDevice(device, hits.slice(0, most));
    if (hits.length > most)
      element.append(
        pageElement('p', { class: 'quiet' }, `Only the first ${pageNumber(most)} are shown.`),
      );
    return element;
  });
}

/** Understands what was typed. */
export function pageQuery(typed: string): PageQuery {
  const text = typed.trim().toLowerCase();
  const number = /^(-?)(0x[0-9a-f]+|\d+)$/.exec(text);
  const digits = text.replace(/^0x/, '').replace(/\s+/g, '');
  // What might be a decimal number is one.
  const isBytes = !/^\d*$/.test(text) && /^(?:[0-9a-f]{2}){2,}$/.test(digits);
  return {
    text,
    number: number === null ? null : BigInt(number[2] as string) * (number[1] === '-' ? -1n : 1n),
    digits: isBytes ? digits : null,
  };
}

/** Looks for values in another, up to a number of hits. */
export function pageSearch(
  value: PackedValue,
  query: PageQuery,
  path: string,
  hits: PageHit[],
  most: number,
): void {
  if (hits.length >= most) return;
  if (!pageIsNested(value)) {
    if (pageIs(value, query)) hits.push({ path, value });
    return;
  }
  if (Array.isArray(value)) {
    value.forEach((item, at) => {
      pageSearch(item, query, `${path}[${at}]`, hits, most);
    });
    return;
  }
  for (const [name, inner] of Object.entries(value)) {
    const innerPath = path === '' ? name : `${path}.${name}`;
    // All of what has the name: it can be opened.
    if (name.toLowerCase().includes(query.text)) {
      if (hits.length < most) hits.push({ path: innerPath, value: inner });
    } else pageSearch(inner, query, innerPath, hits, most);
  }
}

/** Tells whether a single value is what is looked for. */
export function pageIs(value: PackedValue, { text, number, digits }: PageQuery): boolean {
  const integer = pageInteger(value);
  if (integer !== null) return integer === number;
  const bytes = pageBytes(value);
  if (bytes === null) return pagePlain(value).toLowerCase() === text;
  if (digits === null) return false;
  let at = bytes.digits.indexOf(digits);
  while (at % 2 === 1) at = bytes.digits.indexOf(digits, at + 1);
  return at >= 0;
}

/** A device, and what was found in it. */
export function pageDevice(
  { name, bytes, state }: DeviceRow,
  hits: readonly PageHit[],
): PageElement {
  const title = [
    pageElement('span', { class: 'key' }, name),
    pageElement('span', { class: 'quiet' }, bytes === null ? '' : pageSize(bytes)),
  ];
  const device = pageOpens(title, (into) => {
    if (state === undefined)
      into.append(
        pageElement(
          'p',
          { class: 'quiet' },
          'Too large for this page: "qemu-file inspect --json" has it.',
        ),
      );
    else if (pageIsNested(state)) pageMembers(into, state);
    else into.append(pageValue('state', state));
  });
  const found = pageElement(
    'div',
    { class: 'hits' },
    ...hits.map(({ path, value }) => pageValue(path, value)),
  );
  return pageElement('div', { class: 'device' }, device, ...(hits.length > 0 ? [found] : []));
}

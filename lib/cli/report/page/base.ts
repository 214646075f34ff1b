import type { PageContent, PageDocument, PageElement, PageEvent, PageWindow } from './dom.ts';

/*
 * The parts that all of a report's page is made of.
 *
 * Functions of modules `report-page-….ts` run in a browser: their source is put into the page. They know
 * of nothing but each other and what a browser has.
 */

declare const document: PageDocument;
declare const window: PageWindow;

/** Makes text of a stream harmless to look at: what is invisible or turns the direction is written out. */
export function pageText(text: string): string {
  return text.replace(
    /[\p{C}\p{Zl}\p{Zp}]/gu,
    (char) => `\\u{${(char.codePointAt(0) as number).toString(16)}}`,
  );
}

/** Makes an element. Strings become text, in attributes and in content. */
export function pageElement(
  tag: string,
  attributes: Readonly<Record<string, string>> = {},
  ...content: PageContent[]
): PageElement {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, pageText(value));
  }
  element.append(...content.map((part) => (typeof part === 'string' ? pageText(part) : part)));
  return element;
}

/** Makes a button. */
export function pageButton(text: string, pressed: () => void): PageElement {
  const button = pageElement('button', { type: 'button' }, text);
  button.addEventListener('click', pressed);
  return button;
}

/** A number with its digits in groups. */
export function pageNumber(value: number): string {
  return value.toLocaleString('en-US');
}

/** A number of things: `1 page`, `2 pages`. */
export function pageCount(value: number, thing: string): string {
  return `${pageNumber(value)} ${thing}${value === 1 ? '' : 's'}`;
}

/** A number of bytes in the unit that suits it. */
export function pageSize(bytes: number): string {
  const units = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 'B';
  while (value >= 1024 && units.length > 0) {
    value /= 1024;
    unit = units.shift() as string;
  }
  return `${unit === 'B' ? value : Number(value.toPrecision(value >= 1000 ? 4 : 3))} ${unit}`;
}

/** A share of a whole, never said to be all or nothing when it is not. */
export function pageShare(part: number, whole: number): string {
  const percent = whole === 0 ? 0 : (100 * part) / whole;
  if (percent > 0 && percent < 0.1) return '<0.1 %';
  if (percent < 100 && percent > 99.9) return '>99.9 %';
  return `${percent.toFixed(percent > 0 && percent < 10 ? 1 : 0)} %`;
}

/** A number in hexadecimal. */
export function pageHex(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}

/** The value of one of the page's colours. */
export function pageColour(name: string): string {
  return window.getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Draws soon, when the colours change, and when the width of an element does. */
export function pageDraw(element: PageElement, draw: () => void): void {
  let width = 0;
  const fit = (): void => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    draw();
  };
  new window.ResizeObserver(fit).observe(element);
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  // Not at once: whoever made the element has yet to put it into the page.
  void Promise.resolve().then(fit);
}

/** Shows what there is under the pointer, or where the keyboard is. */
export function pageTip(lines: readonly string[], x: number, y: number): void {
  const tip = document.getElementById('tip') as PageElement;
  tip.hidden = false;
  tip.replaceChildren(...lines.map((line) => pageElement('div', {}, line)));
  const left = Math.min(x + 14, window.innerWidth - tip.offsetWidth - 8);
  const top = y > tip.offsetHeight + 24 ? y - tip.offsetHeight - 12 : y + 20;
  tip.style.setProperty('left', `${Math.max(8, left)}px`);
  tip.style.setProperty('top', `${top}px`);
}

/** Hides it. */
export function pageHideTip(): void {
  (document.getElementById('tip') as PageElement).hidden = true;
}

/** Lets an element be explored with the pointer: `say` gives the lines for a place in it, if any. */
export function pageExplore(
  element: PageElement,
  say: (x: number, y: number) => readonly string[] | null,
): void {
  const show = (event: PageEvent): void => {
    const { left, top } = element.getBoundingClientRect();
    const lines = say(event.clientX - left, event.clientY - top);
    if (lines === null) pageHideTip();
    else pageTip(lines, event.clientX, event.clientY);
  };
  element.addEventListener('pointermove', show);
  element.addEventListener('pointerdown', show);
  element.addEventListener('pointerleave', pageHideTip);
}

/** Puts items into an element, so many at a time: a button for more is put into `controls`. */
export function pageSome<T>(
  into: PageElement,
  controls: PageElement,
  items: readonly T[],
  each: number,
  make: (item: T, index: number) => PageElement,
): void {
  let shown = 0;
  const more = pageElement('div', { class: 'more' });
  const add = (count: number): void => {
    const next = items.slice(shown, shown + count);
    into.append(...next.map((item, at) => make(item, shown + at)));
    shown += next.length;
    const left = items.length - shown;
    const some = Math.min(left, 5 * each);
    const text = some === left ? `Show the other ${pageNumber(left)}` : `Show ${some} more`;
    more.replaceChildren(
      ...(left === 0 ? [] : [pageButton(text, () => add(some))]),
      some === left ? '' : ` of ${pageNumber(left)} others`,
    );
    more.hidden = left === 0;
    controls.append(more);
  };
  add(each);
}

/** A legend: a colour's name, and what it stands for. */
export function pageLegend(
  entries: readonly (readonly [colour: string, text: string])[],
): PageElement {
  return pageElement(
    'ul',
    { class: 'legend' },
    ...entries.map(([colour, text]) =>
      pageElement('li', {}, pageElement('span', { class: `swatch ${colour}` }), text),
    ),
  );
}

/** A table that scrolls by itself where it is wider than the page, and grows on demand. */
export function pageTable<T>(
  label: string,
  heads: readonly PageContent[],
  items: readonly T[],
  each: number,
  make: (item: T) => readonly PageContent[],
): PageElement {
  const head = pageElement(
    'tr',
    {},
    ...heads.map((text) => pageElement('th', { scope: 'col' }, text)),
  );
  const body = pageElement('tbody');
  const frame = pageElement(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label },
    pageElement('table', {}, pageElement('thead', {}, head), body),
  );
  const element = pageElement('div', {}, frame);
  pageSome(body, element, items, each, (item) =>
    pageElement('tr', {}, ...make(item).map((cell) => pageElement('td', {}, cell))),
  );
  return element;
}

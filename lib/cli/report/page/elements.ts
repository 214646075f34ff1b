import { escapeInvisible, formatNumber } from './format.ts';

/*
 * The elements that all parts of the page are made of. Text from a stream becomes text nodes and attribute
 * values only, never markup.
 */

/** Possible contents of an element. */
export type Content = Node | string;

/** Make an element. Strings become text, in attributes and in content. */
export function makeElement<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Readonly<Record<string, string>> = {},
  ...content: Content[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, escapeInvisible(value));
  }
  element.append(
    ...content.map((part) => (typeof part === 'string' ? escapeInvisible(part) : part)),
  );
  return element;
}

/** Make a button. */
export function makeButton(text: string, onClick: () => void): HTMLButtonElement {
  const button = makeElement('button', { type: 'button' }, text);
  button.addEventListener('click', onClick);
  return button;
}

/** Make a `details` element whose content is made when it is opened for the first time. */
export function makeDetails(
  summary: Content[],
  fill: (into: HTMLElement) => void,
): HTMLDetailsElement {
  const inside = makeElement('div', { class: 'inside' });
  const details = makeElement('details', {}, makeElement('summary', {}, ...summary), inside);
  let isFilled = false;
  details.addEventListener('toggle', () => {
    if (isFilled || !details.open) return;
    isFilled = true;
    fill(inside);
  });
  return details;
}

/** Make a legend: the name of a colour, and its meaning. */
export function makeLegend(
  entries: readonly (readonly [colour: string, text: string])[],
): HTMLElement {
  return makeElement(
    'ul',
    { class: 'legend' },
    ...entries.map(([colour, text]) =>
      makeElement('li', {}, makeElement('span', { class: `swatch ${colour}` }), text),
    ),
  );
}

/** Make a region that scrolls by itself where its content is wider than the page. */
export function makeScrollRegion(label: string, content: Content): HTMLElement {
  const attributes = { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label };
  return makeElement('div', attributes, content);
}

/** Append items to an element in steps of `step`, with a button for more in `controls`. */
export function appendInSteps<T>(
  into: HTMLElement,
  controls: HTMLElement,
  items: readonly T[],
  step: number,
  make: (item: T, index: number) => HTMLElement,
): void {
  let shown = 0;
  const more = makeElement('div', { class: 'more' });
  const add = (count: number): void => {
    const next = items.slice(shown, shown + count);
    into.append(...next.map((item, index) => make(item, shown + index)));
    shown += next.length;
    const left = items.length - shown;
    const nextCount = Math.min(left, 5 * step);
    const text =
      nextCount === left ? `Show the other ${formatNumber(left)}` : `Show ${nextCount} more`;
    more.replaceChildren(
      ...(left === 0 ? [] : [makeButton(text, () => add(nextCount))]),
      nextCount === left ? '' : ` of ${formatNumber(left)} others`,
    );
    more.hidden = left === 0;
    controls.append(more);
  };
  add(step);
}

/** Make a table that scrolls by itself, with a button for more rows. */
export function makeTable<T>(
  label: string,
  heads: readonly Content[],
  items: readonly T[],
  step: number,
  cellsOf: (item: T) => readonly Content[],
): HTMLElement {
  const head = makeElement(
    'tr',
    {},
    ...heads.map((text) => makeElement('th', { scope: 'col' }, text)),
  );
  const body = makeElement('tbody');
  const table = makeElement('table', {}, makeElement('thead', {}, head), body);
  const element = makeElement('div', {}, makeScrollRegion(label, table));
  appendInSteps(body, element, items, step, (item) =>
    makeElement('tr', {}, ...cellsOf(item).map((cell) => makeElement('td', {}, cell))),
  );
  return element;
}

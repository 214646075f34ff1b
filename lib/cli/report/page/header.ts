import { type Content, makeButton, makeElement } from './elements.ts';
import { formatCount, formatNumber, formatSize } from './format.ts';
import type { ReportData } from './model.ts';

/** Make the head of the page: which stream it is about. */
export function makeHeader({ title, facts }: ReportData): HTMLElement {
  const entries: [name: string, value: string, note: string][] = [];
  const add = (name: string, value: string, note = ''): void => {
    entries.push([name, value, note]);
  };
  add(
    'Machine',
    facts.machine ?? 'unknown',
    facts.machine === null ? 'machine type older than 2.4' : '',
  );
  add('Stream', formatSize(facts.bytes), formatCount(facts.bytes, 'byte'));
  add('Container', facts.container ?? 'none', `stream version ${facts.version}`);
  if (facts.pageSize !== null) {
    add('Guest memory', formatSize(facts.ram), `pages of ${formatSize(facts.pageSize)}`);
  }
  const pieces = facts.pieces === facts.sections ? '' : `in ${formatCount(facts.pieces, 'piece')}`;
  add('Sections', formatNumber(facts.sections), pieces);
  add(
    'Devices',
    formatNumber(facts.devices),
    facts.vmDescription ? 'with a VM description' : 'no VM description',
  );
  if (facts.commands > 0) add('Commands', formatNumber(facts.commands));
  if (facts.trailingBytes > 0) {
    add('After the stream', formatSize(facts.trailingBytes));
  }
  if (facts.capabilities.length > 0) add('Capabilities', facts.capabilities.join(', '));
  if (facts.uuid !== null) add('Guest UUID', facts.uuid);
  return makeHead('Migration stream', title, entries);
}

/** Make the head of a page: its kind, its title, and facts. */
export function makeHead(
  kind: string,
  title: string,
  entries: readonly (readonly [name: string, value: string, note: string])[],
): HTMLElement {
  return makeElement(
    'header',
    {},
    makeElement('p', { class: 'kicker' }, kind),
    makeElement('h1', {}, title),
    makeElement(
      'dl',
      { class: 'facts' },
      ...entries.map(([name, value, note]) =>
        makeElement(
          'div',
          {},
          makeElement('dt', {}, name),
          makeElement('dd', {}, value, makeElement('small', {}, note)),
        ),
      ),
    ),
  );
}

/** Make the list of warnings: a reader should see them before anything else. */
export function warningsPanel({ warnings, moreWarnings }: ReportData): HTMLElement {
  const count = warnings.length + moreWarnings;
  const list = makeElement('ul', {});
  const first = 8;
  const show = (some: readonly string[]): void =>
    list.append(...some.map((warning) => makeElement('li', {}, warning)));
  show(warnings.slice(0, first));
  const content: Content[] = [makeElement('h2', {}, formatCount(count, 'warning')), list];
  if (count > first) {
    const more = makeElement('p', {});
    more.append(
      makeButton(`Show the other ${formatNumber(warnings.length - first)}`, () => {
        show(warnings.slice(first));
        more.replaceChildren(moreWarnings > 0 ? `${formatNumber(moreWarnings)} more left out` : '');
      }),
    );
    content.push(more);
  }
  return makeElement('section', { class: 'warnings', 'aria-label': 'Warnings' }, ...content);
}

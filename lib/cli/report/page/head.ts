import { pageButton, pageCount, pageElement, pageNumber, pageSize } from './base.ts';
import type { PageContent, PageElement } from './dom.ts';
import type { ReportData } from './model.ts';

/** The head of the page: what stream it is about. */
export function pageHead({ title, facts }: ReportData): PageElement {
  const entries: [name: string, value: string, note: string][] = [];
  const add = (name: string, value: string, note = ''): void => {
    entries.push([name, value, note]);
  };
  add(
    'Machine',
    facts.machine ?? 'not said',
    facts.machine === null ? 'machine type older than 2.4' : '',
  );
  add('Stream', pageSize(facts.bytes), pageCount(facts.bytes, 'byte'));
  add('Container', facts.container ?? 'none', `stream version ${facts.version}`);
  if (facts.pageSize !== null) {
    add('Guest memory', pageSize(facts.ram), `pages of ${pageSize(facts.pageSize)}`);
  }
  const pieces = facts.pieces === facts.sections ? '' : `in ${pageCount(facts.pieces, 'piece')}`;
  add('Sections', pageNumber(facts.sections), pieces);
  add(
    'Devices',
    pageNumber(facts.devices),
    facts.vmDescription ? 'with a VM description' : 'no VM description',
  );
  if (facts.commands > 0) add('Commands', pageNumber(facts.commands));
  if (facts.trailingBytes > 0) {
    add('Behind the stream', pageSize(facts.trailingBytes));
  }
  if (facts.capabilities.length > 0) add('Capabilities', facts.capabilities.join(', '));
  if (facts.uuid !== null) add('Guest UUID', facts.uuid);
  return pageElement(
    'header',
    {},
    pageElement('p', { class: 'kicker' }, 'Migration stream'),
    pageElement('h1', {}, title),
    pageElement(
      'dl',
      { class: 'facts' },
      ...entries.map(([name, value, note]) =>
        pageElement(
          'div',
          {},
          pageElement('dt', {}, name),
          pageElement('dd', {}, value, pageElement('small', {}, note)),
        ),
      ),
    ),
  );
}

/** What a person should know before anything else. */
export function pageWarnings({ warnings, moreWarnings }: ReportData): PageElement {
  const count = warnings.length + moreWarnings;
  const list = pageElement('ul', {});
  const first = 8;
  const show = (some: readonly string[]): void =>
    list.append(...some.map((warning) => pageElement('li', {}, warning)));
  show(warnings.slice(0, first));
  const content: PageContent[] = [pageElement('h2', {}, pageCount(count, 'warning')), list];
  if (count > first) {
    const more = pageElement('p', {});
    more.append(
      pageButton(`Show the other ${pageNumber(warnings.length - first)}`, () => {
        show(warnings.slice(first));
        more.replaceChildren(moreWarnings > 0 ? `${pageNumber(moreWarnings)} more left out` : '');
      }),
    );
    content.push(more);
  }
  return pageElement('section', { class: 'warnings', 'aria-label': 'Warnings' }, ...content);
}

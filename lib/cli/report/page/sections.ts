import {
  pageButton,
  pageCount,
  pageElement,
  pageNumber,
  pageShare,
  pageSize,
  pageSome,
  pageTable,
} from './base.ts';
import type { PageContent, PageElement } from './dom.ts';
import type { ReportData, SectionRow } from './model.ts';

/** In which pieces a section came: `start, 12 parts, end`. */
export function pagePieces({ kinds }: SectionRow): string {
  return (['full', 'start', 'part', 'end'] as const)
    .flatMap((kind) => {
      const count = kinds[kind] ?? 0;
      if (count === 0) return [];
      return count === 1 ? kind : pageCount(count, kind);
    })
    .join(', ');
}

/** All sections, in an order that one chooses. */
export function pageSections({ sections, moreSections }: ReportData): PageContent[] {
  const columns: [head: string, key: (section: SectionRow) => number | string][] = [
    ['Size', ({ bytes }) => bytes],
    ['Name', ({ name }) => name],
    ['Kind', pagePieces],
    ['Instance', ({ instanceId }) => instanceId],
    ['Version', ({ versionId }) => versionId],
    ['Id', ({ sectionId }) => sectionId],
    ['Offset', ({ offset }) => offset],
  ];
  const most = sections[0]?.bytes ?? 0;
  const total = sections.reduce((sum, { bytes }) => sum + bytes, moreSections.bytes);
  const body = pageElement('tbody');
  const controls = pageElement('div');
  let sorted: SectionRow[] = [];
  let by = -1;
  let descending = false;

  const sort = (column: number): void => {
    // Sizes are first wanted with the largest on top, all else the other way round.
    descending = by === column ? !descending : column === 0;
    by = column;
    const [, key] = columns[column] as (typeof columns)[number];
    sorted = [...sections].sort((a, b) => {
      const [less, more] = descending ? [key(b), key(a)] : [key(a), key(b)];
      if (less === more) return a.offset - b.offset;
      return less < more ? -1 : 1;
    });
    body.replaceChildren();
    controls.replaceChildren();
    pageSome(body, controls, sorted, 25, (section) => pageSection(section, most, total));
    heads.forEach((head, at) => {
      const order = descending ? 'descending' : 'ascending';
      if (at === by) head.setAttribute('aria-sort', order);
      else head.removeAttribute('aria-sort');
    });
  };
  const heads = columns.map(([head], at) =>
    pageElement(
      'th',
      { scope: 'col' },
      pageButton(head, () => sort(at)),
    ),
  );
  const table = pageElement(
    'table',
    { class: 'sections' },
    pageElement('thead', {}, pageElement('tr', {}, ...heads)),
    body,
  );
  sort(0);
  const label = 'Sections';
  const frame = { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label };
  const scale = 'Bars are on a logarithmic scale: beside memory, devices could not be seen.';
  const content: PageContent[] = [
    pageElement('p', { class: 'quiet' }, scale),
    pageElement('div', frame, table),
    controls,
  ];
  if (moreSections.count > 0) {
    const rest = `${pageCount(moreSections.count, 'smaller section')}, ${pageSize(moreSections.bytes)} together, left out.`;
    content.push(pageElement('p', { class: 'quiet' }, rest));
  }
  return content;
}

/** A section in the table, which may be opened to see its pieces. */
export function pageSection(section: SectionRow, most: number, total: number): PageElement {
  const { name, instanceId, versionId, sectionId, offset, bytes, pieces } = section;
  const bar = pageElement('span', { class: 'bar' });
  bar.style.setProperty('width', `${(100 * Math.log2(1 + bytes)) / Math.log2(2 + most)}%`);
  const size = pageElement(
    'div',
    { class: 'size' },
    pageElement('span', { class: 'track' }, bar),
    pageElement('span', {}, pageSize(bytes)),
    pageElement('small', {}, pageShare(bytes, total)),
  );
  const title = pageElement('td', { class: 'name' }, name);
  const cells = [instanceId, versionId, sectionId, offset].map((value) =>
    pageElement('td', {}, pageNumber(value)),
  );
  const kinds = pageElement('td', {}, pagePieces(section));
  const row = pageElement('tr', {}, pageElement('td', {}, size), title, kinds, ...cells);
  if (pieces.length === 0) return row;

  let opened: PageElement | undefined;
  const button = pageButton(name, () => {
    if (opened === undefined) {
      const table = pageTable(
        `Pieces of ${name}`,
        ['Kind', 'Pieces', 'Bytes', 'Offset'],
        pieces,
        20,
        (piece) => [
          piece.kind,
          pageNumber(piece.count),
          pageNumber(piece.bytes),
          pageNumber(piece.offset),
        ],
      );
      opened = pageElement('tr', { class: 'opened' }, pageElement('td', { colspan: '7' }, table));
      opened.hidden = true;
      row.after(opened);
    }
    opened.hidden = !opened.hidden;
    button.setAttribute('aria-expanded', String(!opened.hidden));
  });
  button.setAttribute('class', 'opens');
  button.setAttribute('aria-expanded', 'false');
  title.replaceChildren(button);
  return row;
}

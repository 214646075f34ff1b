import {
  appendInSteps,
  type Content,
  makeButton,
  makeElement,
  makeScrollRegion,
  makeTable,
} from './elements.ts';
import { formatCount, formatNumber, formatShare, formatSize } from './format.ts';
import type { ReportData, SectionRow } from './model.ts';

/** Describe the pieces that a section consists of: `start, 12 parts, end`. */
function describePieces({ kinds }: SectionRow): string {
  return (['full', 'start', 'part', 'end'] as const)
    .flatMap((kind) => {
      const count = kinds[kind] ?? 0;
      if (count === 0) return [];
      return count === 1 ? kind : formatCount(count, kind);
    })
    .join(', ');
}

/** Show all sections, sorted by the column that the reader chooses. */
export function sectionsPanel({ sections, moreSections }: ReportData): Content[] {
  const columns: [head: string, key: (section: SectionRow) => number | string][] = [
    ['Size', ({ bytes }) => bytes],
    ['Name', ({ name }) => name],
    ['Kind', describePieces],
    ['Instance', ({ instanceId }) => instanceId],
    ['Version', ({ versionId }) => versionId],
    ['Id', ({ sectionId }) => sectionId],
    ['Offset', ({ offset }) => offset],
  ];
  const most = sections[0]?.bytes ?? 0;
  const total = sections.reduce((sum, { bytes }) => sum + bytes, moreSections.bytes);
  const body = makeElement('tbody');
  const controls = makeElement('div');
  let sorted: SectionRow[] = [];
  let by = -1;
  let descending = false;

  const sort = (column: number): void => {
    // The first click on a column sorts sizes from the largest, and everything else upwards.
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
    appendInSteps(body, controls, sorted, 25, (section) => sectionView(section, most, total));
    heads.forEach((head, at) => {
      const order = descending ? 'descending' : 'ascending';
      if (at === by) head.setAttribute('aria-sort', order);
      else head.removeAttribute('aria-sort');
    });
  };
  const heads = columns.map(([head], at) =>
    makeElement(
      'th',
      { scope: 'col' },
      makeButton(head, () => sort(at)),
    ),
  );
  const table = makeElement(
    'table',
    { class: 'sections' },
    makeElement('thead', {}, makeElement('tr', {}, ...heads)),
    body,
  );
  sort(0);
  const scale =
    'Bars are on a logarithmic scale, because guest memory is so much larger than devices.';
  const content: Content[] = [
    makeElement('p', { class: 'quiet' }, scale),
    makeScrollRegion('Sections', table),
    controls,
  ];
  if (moreSections.count > 0) {
    const rest = `${formatCount(moreSections.count, 'smaller section')}, ${formatSize(moreSections.bytes)} together, not in this page.`;
    content.push(makeElement('p', { class: 'quiet' }, rest));
  }
  return content;
}

/** Make the row of a section; the reader can open it to see the pieces. */
function sectionView(section: SectionRow, most: number, total: number): HTMLElement {
  const { name, instanceId, versionId, sectionId, offset, bytes, pieces } = section;
  const bar = makeElement('span', { class: 'bar' });
  bar.style.setProperty('width', `${(100 * Math.log2(1 + bytes)) / Math.log2(2 + most)}%`);
  const size = makeElement(
    'div',
    { class: 'size' },
    makeElement('span', { class: 'track' }, bar),
    makeElement('span', {}, formatSize(bytes)),
    makeElement('small', {}, formatShare(bytes, total)),
  );
  const title = makeElement('td', { class: 'name' }, name);
  const cells = [instanceId, versionId, sectionId, offset].map((value) =>
    makeElement('td', {}, formatNumber(value)),
  );
  const kinds = makeElement('td', {}, describePieces(section));
  const row = makeElement('tr', {}, makeElement('td', {}, size), title, kinds, ...cells);
  if (pieces.length === 0) return row;

  let opened: HTMLElement | undefined;
  const button = makeButton(name, () => {
    if (opened === undefined) {
      const table = makeTable(
        `Pieces of ${name}`,
        ['Kind', 'Pieces', 'Bytes', 'Offset'],
        pieces,
        20,
        (piece) => [
          piece.kind,
          formatNumber(piece.count),
          formatNumber(piece.bytes),
          formatNumber(piece.offset),
        ],
      );
      opened = makeElement('tr', { class: 'opened' }, makeElement('td', { colspan: '7' }, table));
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

import { appendInSteps, type Content, makeElement, makeLegend, makeTable } from './elements.ts';
import { formatCount, formatNumber, formatShare, formatSize } from './format.ts';
import { isWide, MemoryMap, tallyPages } from './memory-map.ts';
import type { BlockData, ReportData } from './model.ts';
import { recordKinds } from './rounds.ts';

/** Show guest memory: maps of all blocks, and a table of their numbers. */
export function memoryPanel({ blocks }: ReportData): Content[] {
  const drawn = blocks.filter(({ cells }) => cells.length > 0);
  const maps = makeElement('div', { class: 'maps' });
  appendInSteps(maps, maps, drawn, 24, blockFigure);
  const legend = makeLegend([
    ['data', 'data'],
    ['resent', 'sent again'],
    ['zero', 'zeros'],
    ['absent', 'never sent'],
  ]);
  const table = blockTable(blocks);
  return drawn.length === 0 ? [table] : [legend, maps, table];
}

/** Show one block with its map. */
function blockFigure(block: BlockData): HTMLElement {
  const { name, usedLength, cells, cellBytes } = block;
  const [zero, data, resent, absent] = tallyPages(cells);
  const pages = zero + data + absent;
  const shares = [
    `${formatShare(data, pages)} data`,
    `${formatShare(zero, pages)} zeros`,
    ...(resent > 0 ? [`${formatCount(resent, 'page')} sent again`] : []),
    ...(absent > 0 ? [`${formatShare(absent, pages)} never sent`] : []),
  ].join(' · ');
  const cellPages = Math.round(pages / (cells.length / 4));
  const cellSize = formatSize(Math.min(cellBytes, usedLength));
  const cellText = cellPages > 1 ? `${cellSize}, ${formatCount(cellPages, 'page')}` : cellSize;
  const frame = makeElement('div', { class: 'map' });
  const labels = { resent: 'sent again', absent: 'never sent' };
  new MemoryMap(frame, { ...block, labels }, `Map of ${name}: ${shares}.`);
  return makeElement(
    'figure',
    { class: isWide(block) ? 'block wide' : 'block' },
    makeElement(
      'figcaption',
      {},
      makeElement('h3', {}, name),
      makeElement('span', {}, `${formatSize(usedLength)} · ${formatCount(pages, 'page')}`),
    ),
    frame,
    makeElement('p', { class: 'quiet' }, `${shares}. Each cell is ${cellText}.`),
  );
}

/** Make the table of all blocks, without the columns that would be empty. */
function blockTable(blocks: readonly BlockData[]): HTMLElement {
  const has = (test: (block: BlockData) => boolean): boolean => blocks.some(test);
  const columns: [head: string, cellOf: (block: BlockData) => string][] = [
    ['Block', ({ name }) => name],
    ['Size', ({ usedLength }) => formatSize(usedLength)],
  ];
  if (has(({ cells }) => cells.length > 0)) {
    ['zeros', 'data', 'sent again', 'never sent'].forEach((head, at) => {
      columns.push([
        `Pages: ${head}`,
        ({ cells }) => formatNumber(tallyPages(cells)[at] as number),
      ]);
    });
  }
  for (const [kind, text] of recordKinds(blocks.map(({ records }) => records))) {
    columns.push([`Records: ${text}`, ({ records }) => formatNumber(records?.[kind] ?? 0)]);
  }
  if (has(({ hostPageSize }) => hostPageSize !== null)) {
    columns.push([
      'Host pages',
      ({ hostPageSize }) => (hostPageSize === null ? '' : formatSize(hostPageSize)),
    ]);
  }
  if (has(({ address }) => address !== null)) {
    columns.push(['Address', ({ address }) => address ?? '']);
  }
  if (has(({ xxh64 }) => xxh64 !== null)) columns.push(['XXH64', ({ xxh64 }) => xxh64 ?? '']);
  return makeTable(
    'Blocks of guest memory',
    columns.map(([head]) => head),
    blocks,
    20,
    (block) => columns.map(([, cellOf]) => cellOf(block)),
  );
}

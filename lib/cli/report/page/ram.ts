import {
  pageColour,
  pageCount,
  pageDraw,
  pageElement,
  pageExplore,
  pageHex,
  pageHideTip,
  pageLegend,
  pageNumber,
  pageShare,
  pageSize,
  pageSome,
  pageTable,
  pageTip,
} from './base.ts';
import type {
  PageCanvas,
  PageContent,
  PageDocument,
  PageElement,
  PageEvent,
  PageWindow,
} from './dom.ts';
import type { BlockData, ReportData } from './model.ts';
import { pageKinds } from './rounds.ts';

declare const document: PageDocument;
declare const window: PageWindow;

/** Guest memory: maps of all blocks, and what they show as a table. */
export function pageRam({ blocks }: ReportData): PageContent[] {
  const drawn = blocks.filter(({ cells }) => cells.length > 0);
  const maps = pageElement('div', { class: 'maps' });
  pageSome(maps, maps, drawn, 24, pageBlock);
  const legend = pageLegend([
    ['data', 'data'],
    ['resent', 'sent again'],
    ['zero', 'zeros'],
    ['absent', 'never came'],
  ]);
  const table = pageBlockTable(blocks);
  return drawn.length === 0 ? [table] : [legend, maps, table];
}

/** Pages of a block, or of one of its cells. */
export function pageTally(
  cells: readonly number[],
  cell?: number,
): [zero: number, data: number, resent: number, absent: number] {
  const sum: [number, number, number, number] = [0, 0, 0, 0];
  const first = cell === undefined ? 0 : 4 * cell;
  const end = cell === undefined ? cells.length : first + 4;
  for (let at = first; at < end; at++) sum[(at % 4) as 0 | 1 | 2 | 3] += cells[at] as number;
  return sum;
}

/** One block with its map. */
export function pageBlock(block: BlockData): PageElement {
  const { name, usedLength, cells, cellBytes } = block;
  const [zero, data, resent, absent] = pageTally(cells);
  const pages = zero + data + absent;
  const shares = [
    `${pageShare(data, pages)} data`,
    `${pageShare(zero, pages)} zeros`,
    ...(resent > 0 ? [`${pageCount(resent, 'page')} sent again`] : []),
    ...(absent > 0 ? [`${pageShare(absent, pages)} never came`] : []),
  ].join(' · ');
  const canvas = document.createElement('canvas');
  canvas.setAttribute('tabindex', '0');
  canvas.setAttribute('role', 'img');
  const frame = pageElement('div', { class: 'map' }, canvas);
  const cellPages = Math.round(pages / (cells.length / 4));
  const element = pageElement(
    'figure',
    { class: cells.length > 4 * 256 ? 'block wide' : 'block' },
    pageElement(
      'figcaption',
      {},
      pageElement('h3', {}, name),
      pageElement('span', {}, `${pageSize(usedLength)} · ${pageCount(pages, 'page')}`),
    ),
    frame,
    pageElement(
      'p',
      { class: 'quiet' },
      `${shares}. Each cell is ${pageSize(Math.min(cellBytes, usedLength))}${cellPages > 1 ? `, ${pageCount(cellPages, 'page')}` : ''}.`,
    ),
  );
  canvas.setAttribute(
    'aria-label',
    `Map of ${name}: ${shares}. Arrow keys move through the cells.`,
  );
  pageMap(frame, canvas, block);
  return element;
}

/** Draws a block's map, and lets it be explored. */
export function pageMap(
  frame: PageElement,
  canvas: PageCanvas,
  { usedLength, cellBytes, cells }: BlockData,
): void {
  const count = cells.length / 4;
  let pitch = 9;
  let columns = 1;
  let marked = -1;

  const draw = (): void => {
    const width = Math.max(frame.clientWidth, 80);
    // A power of two, so that what is one below the other has addresses that are alike.
    columns = 2 ** Math.floor(Math.log2(width / (count > 256 ? 5 : 10)));
    pitch = Math.min(12, width / columns);
    const total = Math.ceil(count / columns) * pitch;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(total * ratio);
    canvas.style.setProperty('width', `${width}px`);
    canvas.style.setProperty('height', `${total}px`);
    const context = canvas.getContext('2d');
    context.scale(ratio, ratio);
    const colours = ['resent', 'data', 'zero', 'absent'].map(pageColour);
    const size = pitch - 1;
    for (let cell = 0; cell < count; cell++) {
      const [zero, data, resent, absent] = pageTally(cells, cell);
      const pages = zero + data + absent;
      const again = Math.min(resent, data);
      const x = (cell % columns) * pitch;
      let bottom = Math.floor(cell / columns) * pitch + size;
      let left = size;
      [resent, data - again, zero - (resent - again), absent].forEach((part, kind) => {
        if (part === 0) return;
        // The little that came must not vanish in what did not.
        const height = Math.min(left, Math.max((size * part) / pages, 1.5));
        context.fillStyle = colours[kind] as string;
        context.fillRect(x, bottom - height, size, height);
        bottom -= height;
        left -= height;
      });
    }
    canvas.dataset.drawn = String(count);
    if (marked < 0) return;
    context.strokeStyle = pageColour('ink');
    context.lineWidth = 1.5;
    const row = Math.floor(marked / columns);
    context.strokeRect((marked % columns) * pitch, row * pitch, size, size);
  };

  const say = (cell: number): string[] => {
    const [zero, data, resent, absent] = pageTally(cells, cell);
    const first = cell * cellBytes;
    const last = Math.min(first + cellBytes, usedLength) - 1;
    return [
      `${pageHex(first)} – ${pageHex(last)}`,
      `data ${pageNumber(data)} · zeros ${pageNumber(zero)} · sent again ${pageNumber(resent)} · never came ${pageNumber(absent)}`,
    ];
  };

  const mark = (cell: number): void => {
    marked = Math.max(0, Math.min(cell, count - 1));
    draw();
    const { left, top } = canvas.getBoundingClientRect();
    const row = Math.floor(marked / columns);
    pageTip(say(marked), left + (marked % columns) * pitch, top + row * pitch);
  };
  const key = (event: PageEvent): void => {
    const steps = new Map([
      ['ArrowRight', marked + 1],
      ['ArrowLeft', marked - 1],
      ['ArrowDown', marked < 0 ? 0 : marked + columns],
      ['ArrowUp', marked - columns],
      ['Home', 0],
      ['End', count - 1],
    ]);
    const to = steps.get(event.key);
    if (to === undefined) return;
    event.preventDefault();
    mark(to);
  };
  canvas.addEventListener('keydown', key);
  canvas.addEventListener('blur', () => {
    marked = -1;
    draw();
    pageHideTip();
  });
  pageExplore(canvas, (x, y) => {
    const column = Math.floor(x / pitch);
    const cell = Math.floor(y / pitch) * columns + column;
    return column >= 0 && column < columns && cell >= 0 && cell < count ? say(cell) : null;
  });
  pageDraw(frame, draw);
}

/** All blocks in numbers. */
export function pageBlockTable(blocks: readonly BlockData[]): PageElement {
  const has = (test: (block: BlockData) => boolean): boolean => blocks.some(test);
  const kinds = pageKinds(blocks.map(({ records }) => records));
  const columns: [head: string, cell: (block: BlockData) => string][] = [
    ['Block', ({ name }) => name],
    ['Size', ({ usedLength }) => pageSize(usedLength)],
  ];
  const pages = ['zeros', 'data', 'sent again', 'never came'] as const;
  if (has(({ cells }) => cells.length > 0)) {
    pages.forEach((head, at) => {
      columns.push([`Pages: ${head}`, ({ cells }) => pageNumber(pageTally(cells)[at] as number)]);
    });
  }
  for (const [kind, text] of kinds) {
    columns.push([`Sent: ${text}`, ({ records }) => pageNumber(records?.[kind] ?? 0)]);
  }
  if (has(({ hostPageSize }) => hostPageSize !== null)) {
    columns.push([
      'Host pages',
      ({ hostPageSize }) => (hostPageSize === null ? '' : pageSize(hostPageSize)),
    ]);
  }
  if (has(({ address }) => address !== null))
    columns.push(['Address', ({ address }) => address ?? '']);
  if (has(({ xxh64 }) => xxh64 !== null)) columns.push(['XXH64', ({ xxh64 }) => xxh64 ?? '']);
  return pageTable(
    'Blocks of guest memory',
    columns.map(([head]) => head),
    blocks,
    20,
    (block) => columns.map(([, cell]) => cell(block)),
  );
}

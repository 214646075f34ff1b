import { appendInSteps, type Content, makeElement, makeLegend, makeTable } from '../elements.ts';
import { formatNumber, formatSize } from '../format.ts';
import { MemoryMap } from '../memory-map.ts';
import type { BlockDifferenceData, DiffData } from '../model.ts';

const KINDS = [
  ['changed', 'changed'],
  ['becameZero', 'became zero'],
  ['wasZero', 'was zero'],
  ['moved', 'moved'],
] as const;

/** Show the memory of two guests: maps side by side, and a table of numbers. */
export function diffMemoryPanel({ blocks }: DiffData): Content[] {
  const legend = makeLegend([
    ['data', 'data'],
    ['zero', 'zeros'],
    ['resent', 'differs'],
    ['absent', 'not in the guest'],
  ]);
  const figures = makeElement('div', { class: 'pairs' });
  appendInSteps(figures, figures, blocks, 24, blockPair);
  const table = makeTable(
    'Blocks that differ',
    ['Block', 'Size of A', 'Size of B', ...KINDS.map(([, text]) => `Pages: ${text}`)],
    blocks,
    20,
    ({ name, usedLength, pages }) => [
      name,
      ...usedLength.map(formatLength),
      ...KINDS.map(([kind]) => formatNumber(pages[kind])),
    ],
  );
  return [legend, figures, table];
}

function formatLength(length: number | null): string {
  return length === null ? 'none' : formatSize(length);
}

/** Show the two maps of a block. */
function blockPair(block: BlockDifferenceData): HTMLElement {
  const { name, usedLength, cellBytes, cellsA, cellsB } = block;
  const length = Math.max(usedLength[0] ?? 0, usedLength[1] ?? 0);
  const labels = { resent: 'differ', absent: 'not in the guest' };
  const map = (side: string, cells: readonly number[]): HTMLElement => {
    const frame = makeElement('div', { class: 'map' });
    const view = { usedLength: length, cellBytes, cells, labels };
    new MemoryMap(frame, view, `Map of ${name} in ${side}.`);
    return makeElement('div', { class: 'side' }, makeElement('p', { class: 'quiet' }, side), frame);
  };
  const sizes = usedLength.map(formatLength).join(' → ');
  return makeElement(
    'figure',
    { class: 'block wide' },
    makeElement(
      'figcaption',
      {},
      makeElement('h3', {}, name),
      makeElement('span', {}, usedLength[0] === usedLength[1] ? formatSize(length) : sizes),
    ),
    makeElement('div', { class: 'pair' }, map('A', cellsA), map('B', cellsB)),
  );
}

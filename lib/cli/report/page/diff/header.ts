import { formatCount, formatNumber } from '../format.ts';
import { makeHead } from '../header.ts';
import type { DiffData } from '../model.ts';

/** Make the head of a page about two guests. */
export function makeDiffHeader({
  a,
  b,
  isSame,
  devices,
  moreDevices,
  blocks,
  sameBlocks,
}: DiffData): HTMLElement {
  const pages = blocks.reduce(
    (sum, { pages: { changed, becameZero, wasZero, moved } }) =>
      sum + changed + becameZero + wasZero + moved,
    0,
  );
  const title = isSame ? 'The guests are the same' : 'How two guests differ';
  return makeHead('Two migration streams', title, [
    ['A', a, ''],
    ['B', b, ''],
    ['Devices that differ', formatNumber(devices.length + moreDevices), ''],
    ['Pages that differ', formatNumber(pages), `in ${formatCount(blocks.length, 'block')}`],
    ['Blocks that do not', formatNumber(sameBlocks), ''],
  ]);
}

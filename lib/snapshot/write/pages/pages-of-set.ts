import type { PageRange } from '../../../migration/page-source/page-source.ts';
import { type PageRuns, PageRunsBuilder } from '../../format/page-runs.ts';

/**
 * Return the pages of a working set as runs that are stored anywhere.
 *
 * @param blocks - The blocks of the guest, with the numbers of their first pages.
 */
export function pagesOfSet(
  set: readonly PageRange[],
  blocks: readonly { readonly first: number }[],
): PageRuns {
  const ranges = set.map(({ block, page, count }) => {
    const first = (blocks[block]?.first ?? 0) + page;
    return { first, end: first + count };
  });
  ranges.sort((a, b) => a.first - b.first);
  const runs = new PageRunsBuilder();
  let next = 0;
  for (const { first, end } of ranges) {
    // Ranges may overlap.
    const from = Math.max(first, next);
    if (from < end) runs.add(from, end - from, from);
    next = Math.max(next, end);
  }
  return runs.finish();
}

import type { PageCounts, RamBlock } from '../format/events.ts';

/** Return counts that are all 0. */
export function noPages(): PageCounts {
  return { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 };
}

/** Return the sum of the counts of all blocks. */
export function totalPages(blocks: readonly RamBlock[]): PageCounts {
  const sum = noPages();
  for (const { pages } of blocks) {
    sum.zero += pages.zero;
    sum.normal += pages.normal;
    sum.xbzrle += pages.xbzrle;
    sum.compressed += pages.compressed;
    sum.multifd += pages.multifd;
  }
  return sum;
}

/** Return `now - earlier`, count by count. */
export function pagesSince(now: PageCounts, earlier: PageCounts): PageCounts {
  return {
    zero: now.zero - earlier.zero,
    normal: now.normal - earlier.normal,
    xbzrle: now.xbzrle - earlier.xbzrle,
    compressed: now.compressed - earlier.compressed,
    multifd: now.multifd - earlier.multifd,
  };
}

/** Return whether all counts are 0. */
export function hasNoPages(pages: PageCounts): boolean {
  return pages.zero + pages.normal + pages.xbzrle + pages.compressed + pages.multifd === 0;
}

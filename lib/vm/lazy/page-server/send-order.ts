import { type PageWindow, UNASKED_PAGES, WINDOW_PAGES } from './page-batch.ts';
import type { PageRange } from './page-server-types.ts';
import { type BlockPages, PAGE_STATE } from './page-states.ts';

/** Yield the pages of a recorded working set, in its order and in parts that are sent at once. */
export function* prefetchOrder(
  set: readonly PageRange[],
  blocks: readonly BlockPages[],
): Generator<PageWindow, void> {
  for (const { block, page, count } of set) {
    const pages = blocks[block];
    if (pages === undefined) continue;
    const end = Math.min(page + count, pages.pages);
    let from = page - (page % pages.hostPages);
    while (from < end) {
      const next = windowEnd(pages, from, UNASKED_PAGES);
      const to = pages.hostPages > 1 ? next : Math.min(next, end);
      yield { block, from, to, reason: 'prefetched' };
      from = next;
    }
  }
}

/** Yield the pages with data that were not sent, in the order of addresses and in parts that are sent at once. */
export function* backgroundOrder(blocks: readonly BlockPages[]): Generator<PageWindow, void> {
  for (const [block, pages] of blocks.entries()) {
    const { states, hostPages } = pages;
    let host = states.indexOf(PAGE_STATE.DATA);
    while (host !== -1) {
      const from = host * hostPages;
      const to = windowEnd(pages, from, UNASKED_PAGES);
      yield { block, from, to, reason: 'background' };
      host = states.indexOf(PAGE_STATE.DATA, Math.ceil(to / hostPages));
    }
  }
}

/** Return a requested host page. */
export function hostPage(
  block: number,
  { pages, hostPages }: BlockPages,
  host: number,
): PageWindow {
  const from = host * hostPages;
  return { block, from, to: Math.min(from + hostPages, pages), reason: 'requested' };
}

/** Return the aligned window that holds a host page. */
export function windowAround(block: number, pages: BlockPages, host: number): PageWindow {
  const page = host * pages.hostPages;
  const from = page - (page % Math.max(WINDOW_PAGES, pages.hostPages));
  return { block, from, to: windowEnd(pages, from, WINDOW_PAGES), reason: 'around' };
}

/** Return the end of the window that a page is in: the next multiple of the window, or the end of the host page. */
function windowEnd({ pages, hostPages }: BlockPages, page: number, window: number): number {
  const end = hostPages >= window ? page + hostPages : page + window - (page % window);
  return Math.min(end, pages);
}

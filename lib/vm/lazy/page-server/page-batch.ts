import type { PageReason } from './page-server-types.ts';
import { type BlockPages, PAGE_STATE } from './page-states.ts';

/** Target pages of the aligned window around a requested page. */
export const WINDOW_PAGES = 32;

/** Target pages that are sent together without a request. */
export const UNASKED_PAGES = 16;

/** Bytes of the word that a record begins with. */
export const WORD_BYTES = 8;

/** Most bytes of the block's name in the first record of a batch, and its length. */
const MAX_NAME_BYTES = 256;

const { ZERO, DATA } = PAGE_STATE;

/** Adjacent pages of a block that are to be sent for one reason. */
export interface PageWindow {
  readonly block: number;
  /** First target page, and the end. */
  readonly from: number;
  readonly to: number;
  readonly reason: PageReason;
}

/** Pages that are read together, and room for the records made of them. */
export interface PageBatch {
  block: number;
  /** First target page. */
  page: number;
  count: number;
  reason: PageReason;
  readonly pages: Buffer;
  readonly records: Buffer;
}

/** Batches whose buffers are used again and again. */
export class BatchPool {
  readonly #pageSize: number;
  readonly #free: PageBatch[] = [];

  constructor(pageSize: number) {
    this.#pageSize = pageSize;
  }

  take({ block, from, to, reason }: PageWindow): PageBatch {
    const count = to - from;
    const room = Math.max(WINDOW_PAGES, count);
    let batch = this.#free.pop();
    if (batch === undefined || batch.pages.length < room * this.#pageSize) {
      const pages = Buffer.allocUnsafeSlow(room * this.#pageSize);
      const recordBytes = room * (WORD_BYTES + this.#pageSize) + MAX_NAME_BYTES;
      const records = Buffer.allocUnsafeSlow(recordBytes);
      batch = { block, page: from, count, reason, pages, records };
    }
    batch.block = block;
    batch.page = from;
    batch.count = count;
    batch.reason = reason;
    return batch;
  }

  /** Return a batch that was written. */
  give(batch: PageBatch): void {
    this.#free.push(batch);
  }
}

/** Return whether a host page in this state is to be sent for this reason. */
export function isDue(state: number | undefined, reason: PageReason): boolean {
  // What was asked for once is asked for again, pages of zeros as well.
  return state === DATA || (state === ZERO && reason === 'prefetched');
}

/** Leave out host pages that are not to be sent at both ends of a batch. */
export function trimBatch(
  batch: PageBatch,
  { states, hostPages, pages }: BlockPages,
  isNeeded: (state: number | undefined, host: number) => boolean,
): void {
  let low = batch.page / hostPages;
  let high = Math.ceil((batch.page + batch.count) / hostPages) - 1;
  while (low <= high && !isNeeded(states[low], low)) low += 1;
  while (high >= low && !isNeeded(states[high], high)) high -= 1;
  batch.page = low * hostPages;
  batch.count = Math.max(0, Math.min((high + 1) * hostPages, pages) - batch.page);
}

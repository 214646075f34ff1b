import type { PageSource } from '../../../migration/page-source/page-source.ts';
import { isDue, type PageBatch } from './page-batch.ts';
import type { PageRange, PageReason } from './page-server-types.ts';
import { type BlockPages, PAGE_STATE, type PageStates } from './page-states.ts';
import type { RecordChannel } from './record-channel.ts';
import type { SendPace } from './send-pace.ts';

/** Most ranges of a recorded working set. */
const MAX_RECORDED_RANGES = 262_144;

const { DATA } = PAGE_STATE;

/** Makes records of host pages, counts the pages by reason, and records the working set. */
export class HostPageRecords {
  /** Pages with a record, by reason. */
  readonly counts: Record<PageReason, number> = {
    requested: 0,
    around: 0,
    prefetched: 0,
    background: 0,
    zero: 0,
  };
  readonly #states: PageStates;
  readonly #pace: SendPace;
  readonly #zeroPage: Buffer;
  readonly #recorded: PageRange[] = [];
  #dataPages = 0;

  constructor({ pageSize }: PageSource, states: PageStates, pace: SendPace) {
    this.#states = states;
    this.#pace = pace;
    this.#zeroPage = Buffer.alloc(pageSize);
  }

  /** Pages with a record in host pages with data. */
  get dataPages(): number {
    return this.#dataPages;
  }

  /** The pages put because of requests while the pace was recording, in the order in which they were put. */
  get workingSet(): readonly PageRange[] {
    return this.#recorded;
  }

  /** Claim and put the host pages of a batch that were not sent; return the end of the records. */
  putUnsent(channel: RecordChannel, batch: PageBatch): number {
    const { block, page, count, reason } = batch;
    const pages = this.#states.blocks[block] as BlockPages;
    const { states, hostPages } = pages;
    const end = Math.ceil((page + count) / hostPages);
    let length = 0;
    for (let host = page / hostPages; host < end; host++) {
      if (!isDue(states[host], reason)) continue;
      const hasData = this.#states.claim(pages, host) === DATA;
      length = this.put(channel, batch, length, host, hasData);
    }
    return length;
  }

  /**
   * Put the target pages of a host page that was claimed.
   *
   * @param at - Where in the records of the batch they begin.
   * @returns The end of the records.
   */
  put(
    channel: RecordChannel,
    batch: PageBatch,
    at: number,
    host: number,
    hasData: boolean,
  ): number {
    const { block } = batch;
    const { hostPages, pages } = this.#states.blocks[block] as BlockPages;
    const first = host * hostPages;
    const end = Math.min(first + hostPages, pages);
    let length = at;
    for (let page = first; page < end; page++) {
      // Single pages of zeros in the data are sent as they are: to look for them would cost more than it saves.
      const isZero = !hasData || (hostPages > 1 && this.#isZeroPage(batch, page));
      length = channel.put(batch, length, page, isZero);
    }
    const reason = !hasData && batch.reason === 'requested' ? 'zero' : batch.reason;
    this.counts[reason] += end - first;
    if (hasData) this.#dataPages += end - first;
    if (reason !== 'prefetched' && reason !== 'background') {
      this.#record(block, first, end - first);
    }
    return length;
  }

  #isZeroPage(batch: PageBatch, page: number): boolean {
    const { length } = this.#zeroPage;
    const start = (page - batch.page) * length;
    return batch.pages.compare(this.#zeroPage, 0, length, start, start + length) === 0;
  }

  #record(block: number, page: number, count: number): void {
    if (!this.#pace.isRecording) return;
    const recorded = this.#recorded;
    const last = recorded.at(-1);
    if (last !== undefined && last.block === block && last.page + last.count === page) {
      recorded[recorded.length - 1] = { block, page: last.page, count: last.count + count };
    } else if (recorded.length < MAX_RECORDED_RANGES) {
      recorded.push({ block, page, count });
    }
  }
}

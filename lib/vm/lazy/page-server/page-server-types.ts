import type { PageRange, PageSource } from '../../../migration/page-source/page-source.ts';

export type { PageRange };

/** Receives the RAM records of one channel, in order. */
export interface PageSink {
  /**
   * Write whole records.
   *
   * @param bytes - Records; not used any more once the promise has settled.
   * @returns Resolves once the transport has taken the bytes: until then they count as in flight.
   */
  write(bytes: Uint8Array): Promise<void>;
  /**
   * Write whole records, as `write`, but resolve only once the destination has loaded them. Default: `write`, for a
   * destination that cannot tell.
   */
  writeUntilLoaded?(bytes: Uint8Array): Promise<void>;
}

/** Why a page was sent. */
export type PageReason = 'requested' | 'around' | 'prefetched' | 'background' | 'zero';

/** Statistics of a page server. */
export interface PageServerStats {
  /** Requests, also for pages that were sent already or are under way. */
  readonly requests: number;
  /** Requests for pages that had not been sent. */
  readonly faults: number;
  /** Milliseconds from a request to its answer written, of faults. */
  readonly faultMs: { readonly p50: number; readonly p99: number; readonly max: number };
  /** Pages sent, by reason; `zero` are pages of zeros that were asked for. */
  readonly pages: Readonly<Record<PageReason, number>>;
  /** Bytes of pages with data in all blocks, and how many of them were sent. */
  readonly dataBytes: number;
  readonly sentBytes: number;
}

/** Options of a `PageServer`. */
export interface PageServerOptions {
  /** The guest's memory. Several servers may share it; the server does not close it. */
  readonly source: PageSource;
  /** The channel of all pages or, with `requestSink`, of the pages that were not requested. */
  readonly sink: PageSink;
  /** The channel of pages that were asked for (postcopy-preempt). Default: `sink`. */
  readonly requestSink?: PageSink | undefined;
  /**
   * Bytes of the destination's host pages, by block. All target pages of a host page are sent together. Default:
   * the source's `hostPageSize`, or the target page.
   */
  readonly hostPageSizes?: readonly number[] | undefined;
  /** Pages that the destination has already, by block: bit i of byte i/8 is page i. For a recovery. */
  readonly received?: readonly (Uint8Array | null)[] | undefined;
  /** Pages to send before the background, in this order: what an earlier run asked for. */
  readonly prefetch?: readonly PageRange[] | undefined;
  /** Whether to send the pages that are not requested. Default true. */
  readonly hasBackground?: boolean | undefined;
  /** Milliseconds from the start for which the background is held back, so that requests show the working set. Default 0. */
  readonly recordMs?: number | undefined;
  /** Milliseconds after a request for which the background is silent. Default 5. */
  readonly quietMs?: number | undefined;
  /**
   * Whether requests are answered after `finished` as well, over a `requestSink` that stays open: only pages of zeros
   * are left then. Default false.
   */
  readonly answersAfterEnd?: boolean | undefined;
  /** Most bytes per second of prefetch and background. Requests are never held back. Default: unlimited. */
  readonly maxBandwidth?: number | undefined;
}

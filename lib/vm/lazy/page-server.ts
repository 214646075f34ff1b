import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { PageSource } from '../../migration/memory/page-source.ts';
import { Fifo } from '../../util/fifo.ts';
import { hex } from '../../util/format.ts';
import { noop } from '../../util/noop.ts';
import { FaultTimes } from './fault-times.ts';
import type {
  PageRange,
  PageReason,
  PageServerOptions,
  PageServerStats,
} from './page-server-types.ts';
import { type BlockPages, isUnsent, PAGE_STATE, PageStates } from './page-states.ts';
import { MAX_RECORD_HEADER_BYTES, RecordChannel } from './record-channel.ts';

/*
 * Two senders run side by side. Requests are answered as they come, a few at a time. The unasked pages go out one
 * batch at a time, so that no more than a batch is in front of an answer; the next batch is read meanwhile. A page
 * is claimed when its request comes, or in the moment its batch is written, so each is sent once.
 */

/** Target pages that are sent together: the aligned window around a requested page, a batch of unasked ones. */
const WINDOW_PAGES = 32;

/** Requests that are answered at the same time. */
const MAX_ANSWERS = 8;

/** Default of `quietMs`. */
const QUIET_MS = 5;

/** Most ranges of a recorded working set. */
const MAX_RECORDED_RANGES = 262_144;

const { ZERO, DATA } = PAGE_STATE;

/** A request for a page that was not sent. */
interface Fault {
  readonly block: number;
  /** Number of the host page. */
  readonly host: number;
  /** Whether its pages have data. */
  readonly hasData: boolean;
  readonly startMs: number;
}

/** Adjacent pages of one block that are read together, and the records made of them. */
interface Batch {
  block: number;
  page: number;
  count: number;
  reason: PageReason;
  readonly pages: Buffer;
  readonly records: Buffer;
}

/**
 * Sends the pages of a saved guest to a destination that runs already: first what it asks for, then what lies around
 * that, then the pages that an earlier run asked for, then the rest. Each host page is sent once.
 */
export class PageServer {
  /**
   * Resolves when all pages with data were sent and the source is unchanged; rejects with the first failure: of the
   * source, with block and page, of a sink, or the error given to `stop`.
   */
  readonly finished: Promise<void>;
  readonly #options: PageServerOptions;
  readonly #source: PageSource;
  readonly #states: PageStates;
  readonly #requests: RecordChannel;
  readonly #unasked: RecordChannel;
  readonly #times = new FaultTimes();
  readonly #sent: Record<PageReason, number> = {
    requested: 0,
    around: 0,
    prefetched: 0,
    background: 0,
    zero: 0,
  };
  readonly #recorded: PageRange[] = [];
  readonly #queue = new Fifo<Fault>();
  readonly #free: Batch[] = [];
  readonly #zeroPage: Buffer;
  readonly #dataPages: number;
  #sentDataPages = 0;
  #requestCount = 0;
  #faultCount = 0;
  #answers = 0;
  #isSending = false;
  #lastRequestMs = Number.NEGATIVE_INFINITY;
  #recordUntilMs = Number.NEGATIVE_INFINITY;
  #budgetMs = 0;
  #error: QemuFileError | null = null;
  #isFinishing = false;
  #wake: () => void = noop;
  #onIdle: (() => void)[] = [];
  #resolve!: () => void;
  #reject!: (error: Error) => void;

  /** @throws {QemuFileError} `ENOTSUP` for host pages that are too large. */
  constructor(options: PageServerOptions) {
    const { source, sink, requestSink } = options;
    this.#options = options;
    this.#source = source;
    this.#states = new PageStates(source, options.hostPageSizes, options.received);
    this.#unasked = new RecordChannel(sink, source);
    this.#requests =
      requestSink === undefined ? this.#unasked : new RecordChannel(requestSink, source);
    this.#zeroPage = Buffer.alloc(source.pageSize);
    let dataPages = 0;
    for (const { states, hostPages } of this.#states.blocks) {
      for (const state of states) if (state === DATA) dataPages += hostPages;
    }
    this.#dataPages = dataPages;
    this.finished = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.finished.catch(noop);
  }

  /** Begin to send pages that nobody asked for: prefetch, then background. Call it once. */
  start(): void {
    const { recordMs = 0 } = this.#options;
    if (recordMs > 0) this.#recordUntilMs = performance.now() + recordMs;
    this.#isSending = true;
    this.#sendUnasked()
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        this.#isSending = false;
        this.#settle();
      });
  }

  /**
   * Answer a request for a host page. Returns at once.
   *
   * @param block - Number of the block.
   * @param offset - Offset in the block, in bytes, of any byte of the page.
   * @throws {QemuFileError} `EBADMSG` if there is no such block or page.
   */
  request(block: number, offset: number): void {
    const pages = this.#states.blocks[block];
    const page = Math.floor(offset / this.#source.pageSize);
    if (pages === undefined || !(page >= 0 && page < pages.pages)) {
      const reason = `a request for ${hex(offset)} of RAM block ${block}, which the guest does not have`;
      throw new QemuFileError('EBADMSG', reason, { operation: 'request' });
    }
    this.#requestCount += 1;
    const startMs = performance.now();
    this.#lastRequestMs = startMs;
    const host = Math.floor(page / pages.hostPages);
    if (this.#error !== null || !isUnsent(pages.states[host])) return;
    this.#faultCount += 1;
    const hasData = this.#states.claim(pages, host) === DATA;
    this.#queue.push({ block, host, hasData, startMs });
    this.#answerNext();
  }

  /** Stop sending; `finished` rejects. What is being written is written to its end. */
  stop(error: Error): void {
    this.#fail(error);
  }

  /** Resolve once no read and no write is running. */
  idle(): Promise<void> {
    if (this.#isIdle) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle.push(resolve);
    });
  }

  get stats(): PageServerStats {
    const { pageSize } = this.#source;
    return {
      requests: this.#requestCount,
      faults: this.#faultCount,
      faultMs: this.#times.quantiles,
      pages: { ...this.#sent },
      dataBytes: this.#dataPages * pageSize,
      sentBytes: this.#sentDataPages * pageSize,
    };
  }

  /** The pages sent because of requests in the first `recordMs` milliseconds, in the order in which they were sent. */
  get workingSet(): readonly PageRange[] {
    return this.#recorded;
  }

  get #isIdle(): boolean {
    return this.#answers === 0 && !this.#isSending;
  }

  #answerNext(): void {
    while (this.#answers < MAX_ANSWERS && this.#error === null) {
      const fault = this.#queue.shift();
      if (fault === undefined) return;
      this.#answers += 1;
      this.#answer(fault)
        .catch((error: unknown) => this.#fail(error))
        .finally(() => {
          this.#answers -= 1;
          this.#answerNext();
          this.#settle();
        });
    }
  }

  /** Send the requested page, and after it the pages with data around it. */
  async #answer({ block, host, hasData, startMs }: Fault): Promise<void> {
    const pages = this.#states.blocks[block] as BlockPages;
    const { hostPages } = pages;
    const page = host * hostPages;
    const first = page - (page % Math.max(WINDOW_PAGES, hostPages));
    const batch = this.#batch(block, first, windowEnd(pages, first), 'around');
    trim(batch, pages, (state, at) => state === DATA || (hasData && at === host));
    if (batch.count > 0) await this.#read(batch);
    if (this.#error !== null) return;
    let length = this.#putHostPage(this.#requests, batch, 0, host, hasData, true);
    length = this.#putUnsent(this.#requests, batch, length);
    await this.#requests.write(batch.records.subarray(0, length));
    this.#times.add(performance.now() - startMs);
    this.#free.push(batch);
  }

  async #sendUnasked(): Promise<void> {
    const batches = this.#unaskedBatches();
    let next = this.#readNext(batches);
    for (;;) {
      const batch = await next;
      if (batch === null) return;
      await this.#waitForTurn(batch.reason);
      if (this.#error !== null) return;
      const length = this.#putUnsent(this.#unasked, batch, 0);
      const writing =
        length > 0 ? this.#unasked.write(batch.records.subarray(0, length)) : undefined;
      this.#charge(length);
      next = this.#readNext(batches);
      next.catch(noop);
      await writing;
      this.#free.push(batch);
    }
  }

  async #readNext(batches: Iterator<Batch, void>): Promise<Batch | null> {
    const { value } = batches.next();
    if (!value) return null;
    const pages = this.#states.blocks[value.block] as BlockPages;
    trim(value, pages, (state) => isDue(state, value.reason));
    if (value.count > 0) await this.#read(value);
    return value;
  }

  /** Yield the batches of pages that nobody asked for, in the order in which to send them. */
  *#unaskedBatches(): Generator<Batch, void> {
    const { prefetch = [], hasBackground = true } = this.#options;
    for (const { block, page, count } of prefetch) {
      const pages = this.#states.blocks[block];
      if (pages === undefined) continue;
      const end = Math.min(page + count, pages.pages);
      let from = page - (page % pages.hostPages);
      while (from < end) {
        const to = windowEnd(pages, from);
        yield this.#batch(block, from, pages.hostPages > 1 ? to : Math.min(to, end), 'prefetched');
        from = to;
      }
    }
    if (!hasBackground) return;
    for (const [block, pages] of this.#states.blocks.entries()) {
      const { states, hostPages } = pages;
      let host = states.indexOf(DATA);
      while (host !== -1) {
        const from = host * hostPages;
        const to = windowEnd(pages, from);
        yield this.#batch(block, from, to, 'background');
        host = states.indexOf(DATA, Math.ceil(to / hostPages));
      }
    }
  }

  /** Wait until a batch may be sent: not right after a request, not faster than the bandwidth. */
  async #waitForTurn(reason: PageReason): Promise<void> {
    const { quietMs = QUIET_MS } = this.#options;
    for (;;) {
      const nowMs = performance.now();
      let untilMs = this.#budgetMs;
      if (reason === 'background') {
        untilMs = Math.max(untilMs, this.#recordUntilMs, this.#lastRequestMs + quietMs);
        if (this.#answers > 0) untilMs = Math.max(untilMs, nowMs + quietMs);
      }
      if (untilMs <= nowMs || this.#error !== null) return;
      await this.#sleep(untilMs - nowMs);
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, Math.ceil(ms));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Account for bytes that nobody asked for. */
  #charge(bytes: number): void {
    const { maxBandwidth } = this.#options;
    if (maxBandwidth === undefined) return;
    const fromMs = Math.max(this.#budgetMs, performance.now());
    this.#budgetMs = fromMs + (bytes / maxBandwidth) * 1000;
  }

  #batch(block: number, page: number, end: number, reason: PageReason): Batch {
    const count = end - page;
    const { pageSize } = this.#source;
    const most = Math.max(WINDOW_PAGES, count);
    let batch = this.#free.pop();
    if (batch === undefined || batch.pages.length < most * pageSize) {
      const pages = Buffer.allocUnsafeSlow(most * pageSize);
      const records = Buffer.allocUnsafeSlow(most * (8 + pageSize) + MAX_RECORD_HEADER_BYTES);
      batch = { block, page, count, reason, pages, records };
    }
    batch.block = block;
    batch.page = page;
    batch.count = count;
    batch.reason = reason;
    return batch;
  }

  #read({ block, page, count, pages }: Batch): Promise<void> | void {
    const { pageSize } = this.#source;
    return this.#source.read(block, page * pageSize, pages.subarray(0, count * pageSize));
  }

  /** Put the host pages of a batch that were not sent; return the end of the records. */
  #putUnsent(channel: RecordChannel, batch: Batch, at: number): number {
    const { block, page, count, reason } = batch;
    const pages = this.#states.blocks[block] as BlockPages;
    const { states, hostPages } = pages;
    const end = Math.ceil((page + count) / hostPages);
    let length = at;
    for (let host = page / hostPages; host < end; host++) {
      if (!isDue(states[host], reason)) continue;
      const hasData = this.#states.claim(pages, host) === DATA;
      length = this.#putHostPage(channel, batch, length, host, hasData, false);
    }
    return length;
  }

  /** Put the target pages of a host page that was claimed; return the end of the records. */
  #putHostPage(
    channel: RecordChannel,
    batch: Batch,
    at: number,
    host: number,
    hasData: boolean,
    isRequested: boolean,
  ): number {
    const { block, pages, records } = batch;
    const { pageSize } = this.#source;
    const blockPages = this.#states.blocks[block] as BlockPages;
    const { hostPages } = blockPages;
    const first = host * hostPages;
    const end = Math.min(first + hostPages, blockPages.pages);
    let length = at;
    for (let page = first; page < end; page++) {
      const start = (page - batch.page) * pageSize;
      // Single pages of zeros in the data are sent as they are: to look for them would cost more than it saves.
      const isZero = !hasData || (hostPages > 1 && this.#isZeroPage(pages, start));
      length = channel.put(records, length, block, page * pageSize, isZero ? null : pages, start);
    }
    const reason = isRequested ? (hasData ? 'requested' : 'zero') : batch.reason;
    this.#sent[reason] += end - first;
    if (hasData) this.#sentDataPages += end - first;
    if (batch.reason === 'around') this.#record(block, first, end - first);
    return length;
  }

  #isZeroPage(pages: Buffer, start: number): boolean {
    const { length } = this.#zeroPage;
    return pages.compare(this.#zeroPage, 0, length, start, start + length) === 0;
  }

  #record(block: number, page: number, count: number): void {
    if (this.#lastRequestMs > this.#recordUntilMs) return;
    const recorded = this.#recorded;
    const last = recorded.at(-1);
    if (last !== undefined && last.block === block && last.page + last.count === page) {
      recorded[recorded.length - 1] = { block, page: last.page, count: last.count + count };
    } else if (recorded.length < MAX_RECORDED_RANGES) {
      recorded.push({ block, page, count });
    }
  }

  #fail(error: unknown): void {
    if (this.#error !== null) return;
    this.#error = toQemuFileError(error, { operation: 'PageServer' });
    this.#queue.clear();
    this.#reject(this.#error);
    this.#wake();
  }

  /** Finish if there is nothing left to send. */
  #settle(): void {
    if (!this.#isIdle) return;
    for (const wake of this.#onIdle.splice(0)) wake();
    if (this.#error !== null || this.#isFinishing) return;
    if (this.#states.dataLeft > 0 || this.#queue.length > 0) return;
    this.#isFinishing = true;
    void this.#finish();
  }

  async #finish(): Promise<void> {
    try {
      await this.#source.checkUnchanged?.();
      this.#resolve();
    } catch (error) {
      this.#fail(error);
    }
  }
}

/** Return the end of the window that begins at a page: the next multiple of the window, or the host page. */
function windowEnd({ pages, hostPages }: BlockPages, page: number): number {
  if (hostPages >= WINDOW_PAGES) return Math.min(page + hostPages, pages);
  return Math.min(page + WINDOW_PAGES - (page % WINDOW_PAGES), pages);
}

/** Return whether a host page in this state is to be sent for this reason. */
function isDue(state: number | undefined, reason: PageReason): boolean {
  // What was asked for once is asked for again, pages of zeros as well.
  return state === DATA || (state === ZERO && reason === 'prefetched');
}

/** Leave out host pages that are not to be sent at both ends of a batch. */
function trim(
  batch: Batch,
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

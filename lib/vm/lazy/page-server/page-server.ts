import { QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import type { PageSource } from '../../../migration/page-source/page-source.ts';
import { Fifo } from '../../../util/fifo.ts';
import { hex } from '../../../util/format.ts';
import { noop } from '../../../util/noop.ts';
import { FaultTimes } from './fault-times.ts';
import { HostPageRecords } from './host-page-records.ts';
import { InFlight } from './in-flight.ts';
import { BatchPool, isDue, type PageBatch, type PageWindow, trimBatch } from './page-batch.ts';
import type { PageRange, PageServerOptions, PageServerStats } from './page-server-types.ts';
import { type BlockPages, isUnsent, PAGE_STATE, PageStates } from './page-states.ts';
import { RecordChannel } from './record-channel.ts';
import { backgroundOrder, hostPage, prefetchOrder, windowAround } from './send-order.ts';
import { SendPace } from './send-pace.ts';

/*
 * Two senders run side by side. Requests are answered as they come, a few at a time. The unasked pages go out in
 * batches, two of which the destination may not have loaded: so little is in front of an answer that it is written at
 * once. A page is claimed when its request comes, or in the moment its batch is written, so each is sent once.
 */

/** Requests that are answered at the same time. */
const MAX_ANSWERS = 8;

/**
 * Most bytes of unasked pages that the destination has not loaded: it loads one batch, and another one waits. With some
 * answers they fit into the buffer of a unix socket (208 KiB on Linux); once that is full, an answer waits until three
 * quarters of it have drained (bench/lazy-faults.ts).
 */
const MAX_IN_FLIGHT_BYTES = 131_072;

/** Default of `quietMs`. */
const QUIET_MS = 5;

const { DATA } = PAGE_STATE;

/** A request for a host page that was not sent. */
interface Fault {
  readonly block: number;
  readonly host: number;
  readonly hasData: boolean;
  readonly startMs: number;
}

/**
 * Sends the pages of a saved guest to a destination that runs already: first what it asks for, then what lies around
 * that, then the pages that an earlier run asked for, then the rest. Each host page is sent once.
 */
export class PageServer {
  /**
   * Resolves when all pages with data were sent and the source is unchanged: nothing is sent after that, except with
   * `answersAfterEnd`. Rejects with the first failure: of the source, with block and page, of a sink, or the error
   * given to `stop`.
   */
  readonly finished: Promise<void>;
  readonly #options: PageServerOptions;
  readonly #source: PageSource;
  readonly #states: PageStates;
  readonly #pace: SendPace;
  readonly #batches: BatchPool;
  readonly #requests: RecordChannel;
  readonly #unasked: RecordChannel;
  readonly #records: HostPageRecords;
  readonly #times = new FaultTimes();
  readonly #queue = new Fifo<Fault>();
  #requestCount = 0;
  #faultCount = 0;
  /** Requests that are being answered. */
  #answers = 0;
  /** Whether unasked pages are being sent. */
  #isSending = false;
  /** Whether all pages were sent. */
  #isDone = false;
  #error: QemuFileError | null = null;
  #onIdle: (() => void)[] = [];
  #resolve!: () => void;
  #reject!: (error: Error) => void;

  /** @throws {QemuFileError} `ENOTSUP` for host pages that are too large. */
  constructor(options: PageServerOptions) {
    const { source, sink, requestSink, hostPageSizes, received } = options;
    const { quietMs = QUIET_MS, recordMs = 0, maxBandwidth } = options;
    this.#options = options;
    this.#source = source;
    this.#states = new PageStates(source, hostPageSizes, received);
    this.#pace = new SendPace({ quietMs, recordMs, maxBandwidth });
    this.#batches = new BatchPool(source.pageSize);
    this.#records = new HostPageRecords(source, this.#states, this.#pace);
    this.#unasked = new RecordChannel(sink, source);
    this.#requests =
      requestSink === undefined ? this.#unasked : new RecordChannel(requestSink, source);
    this.finished = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.finished.catch(noop);
  }

  /**
   * Begin to send pages without a request: prefetch, then background. Call it once.
   *
   * @param hasLoaded - The background waits for it. Default: it begins at once.
   */
  start(hasLoaded: Promise<void> = Promise.resolve()): void {
    this.#pace.start();
    this.#isSending = true;
    this.#sendUnasked(hasLoaded)
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
    this.#pace.noteRequest(startMs);
    const host = Math.floor(page / pages.hostPages);
    if (this.#error !== null || !isUnsent(pages.states[host])) return;
    if (this.#isDone && this.#options.answersAfterEnd !== true) return;
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
      pages: { ...this.#records.counts },
      dataBytes: this.#states.dataPages * pageSize,
      sentBytes: this.#records.dataPages * pageSize,
    };
  }

  /** The pages sent because of requests in the first `recordMs` milliseconds, in the order in which they were sent. */
  get workingSet(): readonly PageRange[] {
    return this.#records.workingSet;
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

  /** Send the requested page as soon as it is read, and after it the pages with data around it. */
  async #answer({ block, host, hasData, startMs }: Fault): Promise<void> {
    const pages = this.#states.blocks[block] as BlockPages;
    const asked = this.#batches.take(hostPage(block, pages, host));
    if (hasData && !this.#readNow(asked)) await this.#read(asked);
    if (this.#error !== null) return;
    const askedLength = this.#records.put(this.#requests, asked, 0, host, hasData);
    await this.#requests.write(asked.records.subarray(0, askedLength));
    this.#times.add(performance.now() - startMs);
    this.#batches.give(asked);
    const around = this.#batches.take(windowAround(block, pages, host));
    trimBatch(around, pages, (state) => isDue(state, 'around'));
    await this.#read(around);
    if (this.#error !== null) return;
    const length = this.#records.putUnsent(this.#requests, around);
    if (length > 0) await this.#requests.write(around.records.subarray(0, length));
    this.#batches.give(around);
  }

  async #sendUnasked(hasLoaded: Promise<void>): Promise<void> {
    const mayGoOn = Promise.race([hasLoaded, this.finished]);
    mayGoOn.catch(noop);
    const windows = this.#unaskedWindows();
    const inFlight = new InFlight(MAX_IN_FLIGHT_BYTES);
    const isAnswering = (): boolean => this.#answers > 0;
    let next = this.#readNext(windows);
    for (;;) {
      const batch = await next;
      if (batch === null) break;
      if (batch.reason === 'background') await mayGoOn;
      const bytes = batch.count * this.#source.pageSize;
      await inFlight.room(bytes);
      await this.#pace.wait(batch.reason, isAnswering);
      if (this.#error !== null) return;
      const length = this.#records.putUnsent(this.#unasked, batch);
      if (length > 0) inFlight.add(this.#writeUnasked(batch, length), bytes);
      else this.#batches.give(batch);
      this.#pace.charge(length);
      next = this.#readNext(windows);
      next.catch(noop);
    }
    await inFlight.empty();
  }

  async #writeUnasked(batch: PageBatch, length: number): Promise<void> {
    const records = batch.records.subarray(0, length);
    // To wait for the destination costs a quarter of the speed: not while it asks for nothing.
    await (this.#pace.isCalm
      ? this.#unasked.write(records)
      : this.#unasked.writeUntilLoaded(records));
    this.#batches.give(batch);
  }

  *#unaskedWindows(): Generator<PageWindow, void> {
    const { prefetch = [], hasBackground = true } = this.#options;
    yield* prefetchOrder(prefetch, this.#states.blocks);
    if (hasBackground) yield* backgroundOrder(this.#states.blocks);
  }

  async #readNext(windows: Iterator<PageWindow, void>): Promise<PageBatch | null> {
    const { value: window } = windows.next();
    if (!window) return null;
    const batch = this.#batches.take(window);
    const pages = this.#states.blocks[window.block] as BlockPages;
    trimBatch(batch, pages, (state) => isDue(state, window.reason));
    await this.#read(batch);
    return batch;
  }

  #read({ block, page, count, pages }: PageBatch): Promise<void> | void {
    if (count === 0) return;
    const { pageSize } = this.#source;
    return this.#source.read(block, page * pageSize, pages.subarray(0, count * pageSize));
  }

  #readNow({ block, page, count, pages }: PageBatch): boolean {
    const { pageSize } = this.#source;
    const target = pages.subarray(0, count * pageSize);
    return this.#source.readNow?.(block, page * pageSize, target) ?? false;
  }

  #fail(error: unknown): void {
    if (this.#error !== null) return;
    this.#error = toQemuFileError(error, { operation: 'PageServer' });
    this.#queue.clear();
    this.#reject(this.#error);
    this.#pace.stop();
  }

  /** Finish if there is nothing left to send. */
  #settle(): void {
    if (!this.#isIdle) return;
    for (const wake of this.#onIdle.splice(0)) wake();
    if (this.#error !== null || this.#isDone) return;
    if (this.#states.dataLeft > 0 || this.#queue.length > 0) return;
    this.#isDone = true;
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

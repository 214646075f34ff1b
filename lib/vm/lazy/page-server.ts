import type { PageRange, PageServerOptions, PageServerStats } from './page-server-types.ts';

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

  constructor(options: PageServerOptions) {
    void options;
    this.finished = Promise.reject(new Error('not implemented'));
  }

  /** Begin to send pages that nobody asked for: prefetch, then background. */
  start(): void {}

  /**
   * Answer a request for a host page. Returns at once.
   *
   * @param block - Number of the block.
   * @param offset - Offset in the block, in bytes, of any byte of the page.
   * @throws {QemuFileError} `EBADMSG` if there is no such block or page.
   */
  request(block: number, offset: number): void {
    void block;
    void offset;
  }

  /** Stop sending. Batches that are being written are written to their end. */
  stop(error: Error): void {
    void error;
  }

  /** Resolve once no read and no write is running. */
  idle(): Promise<void> {
    return Promise.resolve();
  }

  get stats(): PageServerStats {
    throw new Error('not implemented');
  }

  /** The pages sent because of requests so far, in the order in which they were sent. */
  get workingSet(): readonly PageRange[] {
    return [];
  }
}

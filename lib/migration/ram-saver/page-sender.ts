import { RAM_SAVE_CONTROL_NOT_SUPP } from '../../contract/constants.ts';
import type { BytesSent } from '../../qemu-file/ram-hooks.ts';
import type { PageSource } from '../page-source/page-source.ts';
import type { MigrationWriter } from '../writer/migration-writer.ts';
import type { PageRun } from './page-run.ts';
import { SEND_PAGE, type XbzrleCache } from './xbzrle-cache.ts';

/** Numbers of pages by how they were sent. */
export interface SentPageCounts {
  /** Sent as they are. */
  readonly normal: number;
  /** Sent as zeros. */
  readonly zero: number;
  /** Sent as changes. */
  readonly xbzrle: number;
  /** Not sent, because they had not changed. */
  readonly unchanged: number;
}

/** Sends each page in the shortest form: by a hook of the file, as zeros, as changes, or as it is. */
export class PageSender {
  /** Number of the round, from 1 on. */
  round = 1;
  readonly #writer: MigrationWriter;
  readonly #run: PageRun;
  readonly #cache: XbzrleCache | null;
  readonly #pageSize: number;
  /** Number of the first page of each block, counted through all blocks. */
  readonly #firstPages: readonly number[];
  readonly #sent: BytesSent = { bytes: 0 };
  #normal = 0;
  #zero = 0;
  #xbzrle = 0;
  #unchanged = 0;

  /**
   * @param run - Holds the pages that `sendRun` sends.
   * @param cache - Null without XBZRLE.
   */
  constructor(
    writer: MigrationWriter,
    { pageSize, blocks }: PageSource,
    run: PageRun,
    cache: XbzrleCache | null,
  ) {
    this.#writer = writer;
    this.#run = run;
    this.#cache = cache;
    this.#pageSize = pageSize;
    let pages = 0;
    this.#firstPages = blocks.map(({ usedLength }) => {
      const first = pages;
      pages += usedLength / pageSize;
      return first;
    });
  }

  get pages(): SentPageCounts {
    return {
      normal: this.#normal,
      zero: this.#zero,
      xbzrle: this.#xbzrle,
      unchanged: this.#unchanged,
    };
  }

  /** Whether pages go through the XBZRLE cache: only those of later rounds have been sent before. */
  get usesCache(): boolean {
    return this.#cache !== null && this.round > 1;
  }

  /** Send pages that the run holds. */
  sendRun(block: number, first: number, count: number): void {
    const run = this.#run;
    let zeros = 0;
    for (let at = 0; at < count; at++) {
      const isSent = this.#isSentByHook(block, first + at);
      if (!isSent && run.isZero(at)) {
        zeros++;
        continue;
      }
      if (zeros > 0) this.#putZeros(block, first + at - zeros, zeros);
      zeros = 0;
      if (!isSent) this.#sendPage(block, first + at, at);
    }
    if (zeros > 0) this.#putZeros(block, first + count - zeros, zeros);
  }

  /** Send pages that are known to be zeros. */
  sendZeros(block: number, first: number, count: number): void {
    let zeros = 0;
    for (let at = 0; at < count; at++) {
      if (!this.#isSentByHook(block, first + at)) {
        zeros++;
        continue;
      }
      if (zeros > 0) this.#putZeros(block, first + at - zeros, zeros);
      zeros = 0;
    }
    if (zeros > 0) this.#putZeros(block, first + count - zeros, zeros);
  }

  /** Return whether a hook of the file sent a page by its own means. @see QEMU `control_save_page` */
  #isSentByHook(block: number, page: number): boolean {
    const pageSize = this.#pageSize;
    const firstPage = this.#firstPages[block] as number;
    const sent = this.#sent;
    sent.bytes = 0;
    const { file } = this.#writer;
    const answer = file.ramControlSavePage(firstPage * pageSize, page * pageSize, pageSize, sent);
    if (answer === RAM_SAVE_CONTROL_NOT_SUPP) return false;
    this.#cache?.forget(firstPage + page);
    return true;
  }

  #putZeros(block: number, first: number, count: number): void {
    this.#writer.ram.zero(block, first * this.#pageSize, count);
    this.#zero += count;
    const cache = this.#cache;
    if (cache === null) return;
    const number = (this.#firstPages[block] as number) + first;
    for (let at = 0; at < count; at++) cache.zero(number + at, this.round);
  }

  /** Send a page, which is number `at` of the run. */
  #sendPage(block: number, page: number, at: number): void {
    const pageSize = this.#pageSize;
    const { ram } = this.#writer;
    const offset = page * pageSize;
    if (this.#cache !== null && this.usesCache) {
      const number = (this.#firstPages[block] as number) + page;
      const length = this.#cache.encode(number, this.#run.copiedPage(at), this.round);
      if (length === 0) {
        this.#unchanged++;
        return;
      }
      if (length !== SEND_PAGE) {
        ram.xbzrle(block, offset, this.#cache.encoding);
        this.#xbzrle++;
        return;
      }
    }
    ram.page(block, offset, this.#run.page(at));
    this.#normal++;
  }
}

import { ZeroPage } from '../page-source/zero-page.ts';
import type { PageTarget } from './page-target.ts';

/** Writes adjacent pages to a target in runs: pages of zeros, and pages with data. */
export class ZeroRunSplitter {
  readonly #target: PageTarget;
  readonly #pageSize: number;
  readonly #zeroPage: ZeroPage;

  constructor(target: PageTarget, pageSize: number) {
    this.#target = target;
    this.#pageSize = pageSize;
    this.#zeroPage = new ZeroPage(pageSize);
  }

  /** Write adjacent pages. */
  write(block: number, offset: number, bytes: Buffer): void {
    const target = this.#target;
    const zeroPage = this.#zeroPage;
    const pageSize = this.#pageSize;
    const { length } = bytes;
    let from = 0;
    let isZero = zeroPage.isAt(bytes, 0);
    while (from < length) {
      const wasZero = isZero;
      let end = from;
      do {
        end += pageSize;
        if (end < length) isZero = zeroPage.isAt(bytes, end);
      } while (end < length && isZero === wasZero);
      if (wasZero) target.zero(block, offset + from, (end - from) / pageSize);
      else if (end - from === length) target.page(block, offset, bytes);
      else target.page(block, offset + from, bytes.subarray(from, end));
      from = end;
    }
  }
}

/**
 * The runs of pages of a guest that have contents, in ascending order, and where those are: stored pages are
 * numbered through all packs of a map. 12 bytes of memory for each run.
 */
export class PageRuns {
  /** Number of the first page of each run, counted through all blocks. */
  readonly pages: Uint32Array;
  readonly counts: Uint32Array;
  /** Number of the stored page that has the contents of the run's first page. */
  readonly stored: Uint32Array;
  readonly length: number;
  #last = 0;

  constructor(pages: Uint32Array, counts: Uint32Array, stored: Uint32Array) {
    this.pages = pages;
    this.counts = counts;
    this.stored = stored;
    this.length = pages.length;
  }

  /** Return the index of the last run that begins at or before a page; -1 if there is none. */
  find(page: number): number {
    const { pages, length } = this;
    const last = this.#last;
    if (last < length && (pages[last] as number) <= page) {
      if (last + 1 === length || (pages[last + 1] as number) > page) return last;
      if (last + 2 === length || (pages[last + 2] as number) > page) {
        this.#last = last + 1;
        return last + 1;
      }
    }
    let low = 0;
    let high = length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((pages[middle] as number) <= page) low = middle + 1;
      else high = middle;
    }
    if (low > 0) this.#last = low - 1;
    return low - 1;
  }

  /** Return the number of the stored page with the contents of a page; -1 if it is zeros. */
  storedAt(page: number): number {
    const run = this.find(page);
    if (run < 0) return -1;
    const distance = page - (this.pages[run] as number);
    return distance < (this.counts[run] as number) ? (this.stored[run] as number) + distance : -1;
  }

  /** Return the number of pages with contents. */
  total(): number {
    let total = 0;
    for (const count of this.counts) total += count;
    return total;
  }
}

/** Collects the pages of a guest in ascending order. */
export class PageRunsBuilder {
  #pages = new Uint32Array(1024);
  #counts = new Uint32Array(1024);
  #stored = new Uint32Array(1024);
  #length = 0;

  /** Add a run; it continues the last one if page and stored page do. */
  add(page: number, count: number, stored: number): void {
    const last = this.#length - 1;
    if (last >= 0) {
      const lastCount = this.#counts[last] as number;
      const isNext = (this.#pages[last] as number) + lastCount === page;
      if (isNext && (this.#stored[last] as number) + lastCount === stored) {
        this.#counts[last] = lastCount + count;
        return;
      }
    }
    if (this.#length === this.#pages.length) this.#grow();
    this.#pages[this.#length] = page;
    this.#counts[this.#length] = count;
    this.#stored[this.#length] = stored;
    this.#length += 1;
  }

  finish(): PageRuns {
    const end = this.#length;
    return new PageRuns(
      this.#pages.slice(0, end),
      this.#counts.slice(0, end),
      this.#stored.slice(0, end),
    );
  }

  #grow(): void {
    const size = this.#length * 2;
    this.#pages = resized(this.#pages, size);
    this.#counts = resized(this.#counts, size);
    this.#stored = resized(this.#stored, size);
  }
}

function resized(values: Uint32Array, size: number): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(size);
  larger.set(values);
  return larger;
}

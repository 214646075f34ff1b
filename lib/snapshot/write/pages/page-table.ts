/** Pages covered by one chunk: 32 KiB. */
const CHUNK_PAGES = 8192;

/** A number for each page of a guest, 0 until it is set: 4 bytes for each page near a page that was set. */
export class PageTable {
  readonly #chunks = new Map<number, Uint32Array>();
  // Pages arrive in order, so the next access nearly always hits the same chunk.
  #lastKey = -1;
  #last: Uint32Array | undefined;

  get(page: number): number {
    const key = Math.floor(page / CHUNK_PAGES);
    const chunk = this.#chunk(key);
    return chunk === undefined ? 0 : (chunk[page - key * CHUNK_PAGES] as number);
  }

  set(page: number, value: number): void {
    const key = Math.floor(page / CHUNK_PAGES);
    const chunk = this.#chunk(key) ?? (value === 0 ? undefined : this.#grow(key));
    if (chunk !== undefined) chunk[page - key * CHUNK_PAGES] = value;
  }

  /** Set the pages from `first` up to, not including, `end` to 0. */
  clear(first: number, end: number): void {
    for (let at = first; at < end; ) {
      const key = Math.floor(at / CHUNK_PAGES);
      const stop = Math.min(end, (key + 1) * CHUNK_PAGES);
      this.#chunk(key)?.fill(0, at - key * CHUNK_PAGES, stop - key * CHUNK_PAGES);
      at = stop;
    }
  }

  /** Call a function with each page that is not 0 and its number, in ascending order. */
  forEach(visit: (page: number, value: number) => void): void {
    for (const key of [...this.#chunks.keys()].sort((a, b) => a - b)) {
      const chunk = this.#chunks.get(key) as Uint32Array;
      for (let at = 0; at < CHUNK_PAGES; at++) {
        const value = chunk[at] as number;
        if (value !== 0) visit(key * CHUNK_PAGES + at, value);
      }
    }
  }

  #chunk(key: number): Uint32Array | undefined {
    if (key !== this.#lastKey) {
      this.#last = this.#chunks.get(key);
      this.#lastKey = key;
    }
    return this.#last;
  }

  #grow(key: number): Uint32Array {
    const chunk = new Uint32Array(CHUNK_PAGES);
    this.#chunks.set(key, chunk);
    this.#last = chunk;
    this.#lastKey = key;
    return chunk;
  }
}

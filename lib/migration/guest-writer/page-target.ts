/** Where pages are written: records of a stream, or places in a file. */
export interface PageTarget {
  /** Write adjacent pages, copied: the caller may use their memory again. */
  page(block: number, offset: number, bytes: Uint8Array): void;
  /** Write a run of pages of zeros. */
  zero(block: number, offset: number, count: number): void;
  /** Wait until there is room for more. */
  ready(): void | Promise<void>;
}

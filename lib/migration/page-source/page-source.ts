import type { Extent } from '../memory/ram-image.ts';

/** A RAM block whose contents a `PageSource` can read. */
export interface PageSourceBlock {
  readonly name: string;
  /** Bytes in use; a multiple of the target page size. */
  readonly usedLength: number;
  /** Bytes of the host's pages that back the block; null if the stream does not say. */
  readonly hostPageSize: number | null;
  /** Guest-physical address; null if the stream does not say. */
  readonly address: bigint | null;
}

/** A run of adjacent pages of a block. */
export interface PageRange {
  /** Number of the block in the source. */
  readonly block: number;
  /** First page of the range: its offset in the block divided by the page size. */
  readonly page: number;
  /** Number of pages. */
  readonly count: number;
}

/**
 * Random access to guest memory: the RAM of a saved guest, of a snapshot, or a caller's own. Blocks are
 * numbered by their place in `blocks`.
 */
export interface PageSource {
  /** Bytes of a target page. */
  readonly pageSize: number;
  readonly blocks: readonly PageSourceBlock[];
  /**
   * Yield the runs of pages of a block that may hold data, in ascending order and without overlap, as
   * multiples of the page size. Every byte outside them is zero.
   */
  extents(block: number): Iterable<Extent>;
  /**
   * Fill `target` with the contents of a block.
   *
   * @param offset - Offset in the block, in bytes; a multiple of the page size.
   * @param target - Buffer to fill; its length is a multiple of the page size. Pages outside the extents
   *   are filled with zeros.
   * @returns A promise where the contents have to be fetched; nothing where they are at hand.
   * @throws {QemuFileError} (or rejects) if the contents cannot be read or are not the right ones; the reason names
   *   block and page.
   */
  read(block: number, offset: number, target: Uint8Array): void | Promise<void>;
  /**
   * Fill `target` as `read` does, without waiting: for a page that is needed at once. Absent from sources that
   * cannot do more than `read`.
   *
   * @returns False, with nothing read, if the contents are likely to take longer: call `read` then.
   * @throws {QemuFileError} as `read`.
   */
  readNow?(block: number, offset: number, target: Uint8Array): boolean;
  /**
   * Return the memory that holds contents of a block; null where `read` has to copy or fetch them. The caller
   * does not write to it, and uses it before its next `await`. Absent from sources that always copy.
   *
   * @param offset - Offset in the block, in bytes; a multiple of the page size.
   * @param length - Number of bytes, inside the block; a multiple of the page size.
   */
  view?(block: number, offset: number, length: number): Uint8Array | null;
  /**
   * Start to fetch pages that will be read soon, as far as there is room for them. What cannot be fetched is reported
   * when it is read.
   */
  readAhead?(ranges: readonly PageRange[]): void;
  /**
   * Check that the pages are still the ones that the source was opened with: the file below was not written to.
   *
   * @throws {QemuFileError} (or rejects) `EIO` if it was.
   */
  checkUnchanged?(): void | Promise<void>;
  /** Release the source: descriptors, caches. */
  close?(): void | Promise<void>;
}

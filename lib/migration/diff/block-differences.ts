import { MigrationStreamError } from '../format/stream-error.ts';
import type { PageSource } from '../page-source/page-source.ts';
import { findMovedPages } from './moved-pages.ts';
import { PageChecksums } from './page-checksums.ts';
import { type PageKindCounts, PageKinds, type PageRange } from './page-kinds.ts';
import { WINDOW_BYTES, type Window, windowsOf } from './page-windows.ts';
import { type CompareOptions, type SharedBlock, shareBlocks, Turns } from './shared-blocks.ts';

/** A RAM block of two guests, as they differ. */
export interface BlockDifference {
  readonly name: string;
  /** Bytes in use; null for the guest without the block. */
  readonly usedLength: readonly [a: number | null, b: number | null];
  /** Pages that differ, of those that both blocks have. */
  readonly pages: PageKindCounts;
  /** Whether the blocks differ in length or in a page. */
  readonly isDifferent: boolean;
  /** Yield the runs of pages that differ, in ascending order. */
  readonly ranges: () => Generator<PageRange>;
}

/**
 * Compare the memory of two guests, blocks of the same name with each other. Bytes past the end of the shorter
 * block are not compared.
 *
 * @returns All blocks, those of the first guest first.
 * @throws {MigrationStreamError} (rejects) `unsupported` if the page sizes differ. {QemuFileError} `ECANCELED`
 *   if aborted; the errors of the sources.
 */
export async function compareBlocks(
  a: PageSource,
  b: PageSource,
  options: CompareOptions = {},
): Promise<BlockDifference[]> {
  const shared = shareBlocks(a, b);
  if (shared.length > 0 && a.pageSize !== b.pageSize) {
    const reason = `the guests cannot be compared: one has pages of ${a.pageSize} bytes, the other of ${b.pageSize} bytes`;
    throw new MigrationStreamError('unsupported', reason, {});
  }
  const kinds = new PageKinds();
  const checksums = new PageChecksums();
  const comparison = new Comparison(a, b, kinds, checksums, options);
  for (const block of shared) await comparison.compare(block);
  await findMovedPages({ a, b, blocks: shared, checksums }, kinds, options);
  const byName = new Map(shared.map((block) => [block.name, block]));
  const differences = a.blocks.map(({ name, usedLength }) => {
    const block = byName.get(name);
    if (block === undefined) return lonelyBlock(name, [usedLength, null]);
    const otherLength = b.blocks[block.b]?.usedLength ?? 0;
    return sharedBlock(block, [usedLength, otherLength], kinds, a.pageSize);
  });
  for (const { name, usedLength } of b.blocks) {
    if (!byName.has(name)) differences.push(lonelyBlock(name, [null, usedLength]));
  }
  return differences;
}

function lonelyBlock(name: string, usedLength: BlockDifference['usedLength']): BlockDifference {
  const pages = { changed: 0, becameZero: 0, wasZero: 0, moved: 0 };
  return { name, usedLength, pages, isDifferent: true, *ranges() {} };
}

function sharedBlock(
  { name, length, first }: SharedBlock,
  usedLength: readonly [number, number],
  kinds: PageKinds,
  pageSize: number,
): BlockDifference {
  const end = first + length / pageSize;
  const pages = kinds.count(first, end);
  const sum = pages.changed + pages.becameZero + pages.wasZero + pages.moved;
  return {
    name,
    usedLength,
    pages,
    isDifferent: sum > 0 || usedLength[0] !== usedLength[1],
    *ranges() {
      for (const run of kinds.allRuns(first, end)) {
        const offset = (run.first - first) * pageSize;
        yield { offset, length: (run.end - run.first) * pageSize, kind: run.kind };
      }
    },
  };
}

/** Compares blocks page by page at the same address. */
class Comparison {
  readonly #a: PageSource;
  readonly #b: PageSource;
  readonly #kinds: PageKinds;
  readonly #checksums: PageChecksums;
  readonly #turns: Turns;
  readonly #bufferA: Buffer = Buffer.alloc(WINDOW_BYTES);
  readonly #bufferB: Buffer = Buffer.alloc(WINDOW_BYTES);
  readonly #zeros: Buffer = Buffer.alloc(WINDOW_BYTES);

  constructor(
    a: PageSource,
    b: PageSource,
    kinds: PageKinds,
    checksums: PageChecksums,
    options: CompareOptions,
  ) {
    this.#a = a;
    this.#b = b;
    this.#kinds = kinds;
    this.#checksums = checksums;
    this.#turns = new Turns(options);
  }

  async compare(block: SharedBlock): Promise<void> {
    const extentsA = this.#a.extents(block.a);
    const extentsB = this.#b.extents(block.b);
    for (const window of windowsOf(extentsA, extentsB, block.length)) {
      await this.#compareWindow(block, window);
      const turn = this.#turns.count(window.length);
      if (turn !== undefined) await turn;
    }
  }

  async #compareWindow(block: SharedBlock, window: Window): Promise<void> {
    const { at, length, hasA, hasB } = window;
    const bytesA = (hasA ? this.#bufferA : this.#zeros).subarray(0, length);
    const bytesB = (hasB ? this.#bufferB : this.#zeros).subarray(0, length);
    const readA = hasA ? this.#a.read(block.a, at, bytesA) : undefined;
    const readB = hasB ? this.#b.read(block.b, at, bytesB) : undefined;
    if (readA !== undefined || readB !== undefined) await Promise.all([readA, readB]);
    const { pageSize } = this.#a;
    if (hasA) this.#checksums.add(block.a, at, bytesA, pageSize);
    if (bytesA.equals(bytesB)) return;
    const first = block.first + at / pageSize;
    for (let start = 0; start < length; start += pageSize) {
      const end = start + pageSize;
      if (bytesA.compare(bytesB, start, end, start, end) === 0) continue;
      const page = first + start / pageSize;
      if (this.#isZero(bytesB, start, end)) this.#kinds.add(page, 'becameZero');
      else if (this.#isZero(bytesA, start, end)) this.#kinds.add(page, 'wasZero');
      else this.#kinds.add(page, 'changed');
    }
  }

  #isZero(bytes: Buffer, start: number, end: number): boolean {
    return bytes.compare(this.#zeros, 0, end - start, start, end) === 0;
  }
}

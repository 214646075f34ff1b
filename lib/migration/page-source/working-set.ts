import { quote } from '../../util/format.ts';
import type { PageRange, PageSource } from './page-source.ts';

/*
 * A working set as JSON:
 *
 *   {"format": "qemu-file working set", "version": 1, "pageSize": 4096,
 *    "blocks": [{"name": "pc.ram", "usedLength": 1073741824}], "ranges": [[0, 256, 32]]}
 *
 * A range is the index of a block in `blocks`, the first page and the number of pages.
 */

const FORMAT = 'qemu-file working set';
const VERSION = 1;

/** Longest file that is decoded. */
export const MAX_WORKING_SET_BYTES = 16_777_216;

/** The guest memory that a working set names pages of. */
export interface WorkingSetMemory extends Pick<PageSource, 'pageSize'> {
  readonly blocks: readonly Pick<PageSource['blocks'][number], 'name' | 'usedLength'>[];
}

/** Encode a working set for a file. */
export function encodeWorkingSet(set: readonly PageRange[], source: WorkingSetMemory): string {
  const { pageSize } = source;
  const blocks = source.blocks.map(({ name, usedLength }) => ({ name, usedLength }));
  const ranges = set.map(({ block, page, count }) => [block, page, count]);
  return `${JSON.stringify({ format: FORMAT, version: VERSION, pageSize, blocks, ranges })}\n`;
}

/**
 * Decode a working set of a file.
 *
 * @param text - The file's contents, of which nothing is trusted.
 * @param source - The memory that the set is to be used with.
 * @returns The set, with the block numbers of `source`; or, if it does not fit, the reason as a clause.
 */
export function decodeWorkingSet(text: string, source: WorkingSetMemory): PageRange[] | string {
  if (text.length > MAX_WORKING_SET_BYTES) {
    return `it has more than ${MAX_WORKING_SET_BYTES} bytes`;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return 'it is not a working set';
  }
  const { format, version, pageSize, blocks, ranges } = isObject(value) ? value : {};
  if (format !== FORMAT) return 'it is not a working set';
  if (version !== VERSION) return `it has version ${JSON.stringify(version)}, not ${VERSION}`;
  if (!Array.isArray(blocks) || !Array.isArray(ranges)) return 'it has no blocks or no ranges';
  if (pageSize !== source.pageSize) return `its pages do not have ${source.pageSize} bytes`;
  const numbers = blockNumbers(blocks, source);
  if (typeof numbers === 'string') return numbers;
  const set: PageRange[] = [];
  let pagesLeft = source.blocks.reduce((sum, { usedLength }) => sum + usedLength / pageSize, 0);
  for (const range of ranges as unknown[]) {
    const [index, page, count] = Array.isArray(range) ? (range as unknown[]) : [];
    const block = isCount(index) ? numbers[index] : undefined;
    const { usedLength } = source.blocks[block ?? -1] ?? { usedLength: 0 };
    if (block === undefined || !isCount(page) || !isCount(count) || count === 0) {
      return 'it has a range that is not one';
    }
    if ((page + count) * source.pageSize > usedLength) return 'it has a range beyond its block';
    pagesLeft -= count;
    if (pagesLeft < 0) return 'it names more pages than the guest has';
    set.push({ block, page, count });
  }
  return set;
}

/** Return the number in `source` of each listed block. */
function blockNumbers(blocks: readonly unknown[], source: WorkingSetMemory): number[] | string {
  const numbers: number[] = [];
  for (const listed of blocks) {
    const { name, usedLength } = isObject(listed) ? listed : {};
    const found = source.blocks.findIndex((block) => block.name === name);
    if (found === -1) return `the guest has no RAM block ${quote(String(name))}`;
    if (source.blocks[found]?.usedLength !== usedLength) {
      return `RAM block ${quote(String(name))} had another size`;
    }
    numbers.push(found);
  }
  return numbers;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

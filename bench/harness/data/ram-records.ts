/** RAM records as QEMU sends them: a be64 (offset and flags), then a page. */

export const PAGE: number = 4096;
export const RECORD: number = 8 + PAGE;
const FLAG_PAGE = 0x08;
const COUNT = 4096;

const memory = Buffer.alloc(COUNT * PAGE, 0xa5);

/** Pages of one guest, prepared in advance. */
export const PAGES: readonly Uint8Array[] = Array.from({ length: COUNT }, (_, i) =>
  memory.subarray(i * PAGE, (i + 1) * PAGE),
);

/** Return the word before page `i`. */
export function wordOf(i: number): number {
  return (i % COUNT) * PAGE + FLAG_PAGE;
}

/** Return page `i`. */
export function pageOf(i: number): Uint8Array {
  return PAGES[i % COUNT] as Uint8Array;
}

/** Return a block of as many whole records as fit in `size` bytes. */
export function recordsIn(size: number): Buffer {
  const records = Math.floor(size / RECORD);
  const block = Buffer.alloc(records * RECORD, 0xa5);
  for (let i = 0; i < records; i++) block.writeBigUInt64BE(BigInt(wordOf(i)), i * RECORD);
  return block;
}

/*
 * XBZRLE: what changed in a page, as runs of bytes that stayed and bytes that are new.
 *
 *   page    = (kept changed)+         what follows the last run stayed
 *   kept    = length                  0 only in the first pair
 *   changed = length bytes{length}    never 0
 *   length  = 0xxxxxxx | 1xxxxxxx 0yyyyyyy        low 7 bits first
 *
 * @see QEMU `xbzrle_decode_buffer`
 */

/** Fewest bytes of a run: a length and one more, be it a length or a new byte. */
const MIN_RUN = 2;

/** Fewest bytes of an encoding. */
const LEAST = 3;

/**
 * Tells what is wrong with an encoding.
 *
 * @param encoded - All of it.
 * @param pageSize - In bytes.
 * @returns A clause with the number of the run, from 1 on, and its offset in the encoding; null for one
 *   that `applyXbzrle` may be given.
 */
export function xbzrleFault(encoded: Uint8Array, pageSize: number): string | null {
  const end = encoded.length;
  if (end < LEAST || end > pageSize) return `${end} bytes are not ${LEAST}…${pageSize}`;
  let at = 0;
  let filled = 0;
  for (let run = 1; at < end || run % 2 === 0; run++) {
    const from = at;
    if (end - at < MIN_RUN) return faultOf(run, from, 'is cut off');
    let length = encoded[at++] as number;
    if (length >= 0x80) {
      const high = encoded[at++] as number;
      if (high >= 0x80) return faultOf(run, from, 'has a length of more than 2 bytes');
      length += high * 0x80 - 0x80;
    }
    if (length === 0 && run > 1) return faultOf(run, from, 'is empty');
    filled += length;
    if (filled > pageSize) {
      return faultOf(run, from, `ends at byte ${filled} of a page of ${pageSize}`);
    }
    if (run % 2 === 0) {
      at += length;
      if (at > end) return faultOf(run, from, `lacks ${at - end} of its ${length} bytes`);
    }
  }
  return null;
}

function faultOf(run: number, at: number, what: string): string {
  return `run ${run} (${run % 2 === 0 ? 'changed' : 'kept'} bytes) at offset ${at} ${what}`;
}

/**
 * Makes the changes in a page.
 *
 * @param page - Its content before, which is changed.
 * @param encoded - What `xbzrleFault` finds nothing wrong with; from any other the page is garbage.
 */
export function applyXbzrle(page: Uint8Array, encoded: Uint8Array): void {
  const end = encoded.length;
  let at = 0;
  let filled = 0;
  while (at < end) {
    let kept = encoded[at++] as number;
    if (kept >= 0x80) kept += (encoded[at++] as number) * 0x80 - 0x80;
    filled += kept;
    let changed = encoded[at++] as number;
    if (changed >= 0x80) changed += (encoded[at++] as number) * 0x80 - 0x80;
    for (const last = at + changed; at < last; ) page[filled++] = encoded[at++] as number;
  }
}

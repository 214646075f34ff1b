/*
 * XBZRLE encodes the changes of a page as alternating runs of unchanged and changed bytes.
 *
 *   page    = (kept changed)+         the bytes after the last run are unchanged
 *   kept    = length                  0 only in the first pair
 *   changed = length bytes{length}    never 0
 *   length  = 0xxxxxxx | 1xxxxxxx 0yyyyyyy        low 7 bits first
 *
 * @see QEMU `xbzrle_decode_buffer` in migration/xbzrle.c
 */

/** Fewest bytes of a run: its length, and another length or a changed byte. */
const MIN_RUN_BYTES = 2;

/** Fewest bytes of an encoding: two lengths and a changed byte. */
const MIN_ENCODED_BYTES = 3;

/**
 * Check an encoded page.
 *
 * @param encoded - The whole encoding.
 * @param pageSize - Bytes of a page.
 * @returns null if the encoding is valid, so that `applyXbzrle` can apply it. Otherwise its fault, as a
 *   clause with the number of the run, from 1 on, and its offset in the encoding.
 */
export function xbzrleFault(encoded: Uint8Array, pageSize: number): string | null {
  const end = encoded.length;
  if (end < MIN_ENCODED_BYTES || end > pageSize)
    return `${end} encoded bytes, not ${MIN_ENCODED_BYTES} to ${pageSize}`;
  let at = 0;
  let filled = 0;
  for (let run = 1; at < end || run % 2 === 0; run++) {
    const from = at;
    if (end - at < MIN_RUN_BYTES) return faultOf(run, from, 'is truncated');
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
 * Apply an encoded page.
 *
 * @param page - The previous content of the page; it is changed in place.
 * @param encoded - An encoding that `xbzrleFault` has accepted. Any other leaves garbage in the page.
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

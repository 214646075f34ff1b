/*
 * The counted strings that were read last, found by their bytes: a stream names the same RAM blocks and devices again and
 * again, and making a string takes several times as long as comparing its bytes (bench/typed-gets.ts).
 *
 * A slot holds the bytes as they are in the stream, with the length first, and beside them the text. A string is kept when
 * it comes for the second time in a row to its slot, because keeping it costs as much as making it.
 */

const SLOT_BITS = 9;
const SLOT_BYTES = 64;
/** Least number of bytes that are compared: one word. */
const MIN_BYTES = 4;
/** Spreads a sum over the upper bits: 2^32 divided by the golden ratio. */
const SPREAD = 0x9e37_79b1;

const keptBytes = new DataView(new ArrayBuffer(SLOT_BYTES << SLOT_BITS));
const keptTexts = new Array<string>(1 << SLOT_BITS).fill('');
/** Hash of the last string that came to a slot. */
const lastHashes = new Int32Array(1 << SLOT_BITS);

/**
 * Return whether a counted string can be kept, by its size.
 *
 * @param size - Number of bytes, with the length byte.
 */
export function isKeepable(size: number): boolean {
  return size >= MIN_BYTES && size <= SLOT_BYTES;
}

/**
 * Return the hash of a counted string that can be kept.
 *
 * @param from - Offset of the length byte in `view`.
 * @param to - Offset after the last byte.
 */
export function textHash(view: DataView, from: number, to: number): number {
  // The last word overlaps the one before it where the size is not a multiple of its size.
  const last = to - 4;
  let sum = view.getInt32(last, true);
  for (let at = from; at < last; at += 4) sum = (Math.imul(sum, 31) + view.getInt32(at, true)) | 0;
  return Math.imul(sum, SPREAD);
}

/** Return the text of a counted string if it is kept; undefined if it has to be decoded. */
export function keptText(
  view: DataView,
  from: number,
  to: number,
  hash: number,
): string | undefined {
  const slot = hash >>> (32 - SLOT_BITS);
  const last = to - 4;
  let kept = slot * SLOT_BYTES;
  if (view.getInt32(last, true) !== keptBytes.getInt32(kept + last - from, true)) return undefined;
  for (let at = from; at < last; at += 4) {
    if (view.getInt32(at, true) !== keptBytes.getInt32(kept, true)) return undefined;
    kept += 4;
  }
  return keptTexts[slot];
}

/** Keep the text of a counted string for `keptText()`, if it came before. */
export function keepText(
  view: DataView,
  from: number,
  to: number,
  hash: number,
  text: string,
): void {
  const slot = hash >>> (32 - SLOT_BITS);
  if (lastHashes[slot] !== hash) {
    lastHashes[slot] = hash;
    return;
  }
  const kept = slot * SLOT_BYTES - from;
  for (let at = from; at < to; at++) keptBytes.setUint8(kept + at, view.getUint8(at));
  keptTexts[slot] = text;
}

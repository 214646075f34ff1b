import { Buffer } from 'node:buffer';

/** Longest run that two length bytes can express. */
const MAX_RUN = 0x3fff;

/** The contents of two pages are the same: there is nothing to send. */
export const SAME = 0;
/** The encoding would be longer than its target: the page has to be sent as it is. */
export const TOO_LONG = -1;

/** A page as bytes and as words, over the same memory. */
export interface PageView {
  readonly bytes: Buffer;
  readonly words: Int32Array;
}

/** Return views of a page; `at` and `length` are multiples of 4. */
export function pageView(memory: ArrayBuffer, at: number, length: number): PageView {
  return { bytes: Buffer.from(memory, at, length), words: new Int32Array(memory, at, length / 4) };
}

/**
 * Encode the changes of a page; `applyXbzrle` has the format.
 *
 * @param old - The page as it was last sent.
 * @param page - The page as it is; of the same length.
 * @param target - Receives the encoding.
 * @returns Bytes of the encoding; `SAME`; `TOO_LONG`.
 * @see QEMU `xbzrle_encode_buffer`
 */
export function encodeXbzrle(
  { bytes: old, words: oldWords }: PageView,
  { bytes: page, words }: PageView,
  target: Uint8Array,
): number {
  const end = page.length;
  const room = target.length;
  let length = 0;
  let at = 0;
  while (at < end) {
    const kept = at;
    while (at % 4 !== 0 && old[at] === page[at]) at++;
    if (at % 4 === 0) {
      let word = at >>> 2;
      while (word < words.length && oldWords[word] === words[word]) word++;
      at = word << 2;
    }
    while (at < end && old[at] === page[at]) at++;
    // The bytes after the last change are not sent.
    if (at === end) return length;
    const changed = at;
    while (at < end && old[at] !== page[at]) at++;
    if (changed - kept > MAX_RUN || at - changed > MAX_RUN) return TOO_LONG;
    if (length + 4 + at - changed > room) return TOO_LONG;
    length = putLength(target, length, changed - kept);
    length = putLength(target, length, at - changed);
    for (let from = changed; from < at; from++) target[length++] = page[from] as number;
  }
  return length;
}

function putLength(target: Uint8Array, at: number, value: number): number {
  if (value < 0x80) {
    target[at] = value;
    return at + 1;
  }
  target[at] = (value & 0x7f) | 0x80;
  target[at + 1] = value >>> 7;
  return at + 2;
}

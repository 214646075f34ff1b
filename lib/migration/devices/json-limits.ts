import { LIMIT } from '../format/wire.ts';

/*
 * A check of JSON text before `JSON.parse`: a few bytes of text such as `{},` become many bytes of memory,
 * and the text comes from the stream.
 */

/** Levels of brackets; a structure in a description takes three: `{"struct": {"fields": [`. */
const MAX_DEPTH: number = 4 * LIMIT.NESTING;

/** Brackets and commas in one text. QEMU writes one in 13 bytes or more, so this is enough for 50 MiB. */
const MAX_PARTS = 4_194_304;

const QUOTE = 0x22;
const COMMA = 0x2c;
const BACKSLASH = 0x5c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/**
 * Return where and how a text exceeds the limits of a description; null if it does not. Takes time linear in
 * the length and no memory. Does not check whether the text is JSON.
 */
export function checkJsonLimits(text: Uint8Array): { at: number; what: string } | null {
  let depth = 0;
  let parts = 0;
  let isQuoted = false;
  for (let at = 0; at < text.length; at++) {
    const byte = text[at];
    if (isQuoted) {
      if (byte === BACKSLASH) at++;
      else if (byte === QUOTE) isQuoted = false;
      continue;
    }
    if (byte === QUOTE) {
      isQuoted = true;
    } else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      depth++;
      parts++;
      if (depth > MAX_DEPTH) return { at, what: `nests deeper than ${MAX_DEPTH} levels` };
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      depth--;
    } else if (byte === COMMA) {
      parts++;
    }
    if (parts > MAX_PARTS) return { at, what: `has more than ${MAX_PARTS} parts` };
  }
  return null;
}

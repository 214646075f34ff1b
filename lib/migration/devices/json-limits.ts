import { LIMIT } from '../format/wire.ts';

/*
 * A look at JSON text before `JSON.parse` builds it: a few bytes of text such as `{},` become many of
 * memory, and a description comes from whoever wrote the stream.
 */

/** Levels of brackets: a structure in a description takes three, `{"struct": {"fields": [`. */
const DEEPEST: number = 4 * LIMIT.NESTING;

/** Brackets and commas in one text. QEMU writes one per 13 bytes or more: enough for 50 MiB of its own. */
const MAX_PARTS = 4_194_304;

const QUOTE = 0x22;
const COMMA = 0x2c;
const BACKSLASH = 0x5c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/**
 * Says in what a text is more than a description can be; null if in nothing. Takes time linear in its
 * length and no memory. Whether it is JSON at all remains to be seen.
 */
export function checkJsonLimits(text: Uint8Array): { at: number; what: string } | null {
  let depth = 0;
  let parts = 0;
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const byte = text[at];
    if (quoted) {
      if (byte === BACKSLASH) at++;
      else if (byte === QUOTE) quoted = false;
      continue;
    }
    if (byte === QUOTE) {
      quoted = true;
    } else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      depth++;
      parts++;
      if (depth > DEEPEST) return { at, what: `nests deeper than ${DEEPEST} levels` };
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      depth--;
    } else if (byte === COMMA) {
      parts++;
    }
    if (parts > MAX_PARTS) return { at, what: `has more than ${MAX_PARTS} parts` };
  }
  return null;
}

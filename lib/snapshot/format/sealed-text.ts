import { sha256Hex } from './digest.ts';

/** Return the bytes of a line of text, and of a line with its SHA-256. */
export function sealText(text: string): Buffer {
  return Buffer.from(`${text}\n${sha256Hex(Buffer.from(text))}\n`);
}

/**
 * Return the text of such bytes.
 *
 * @param fail - Makes the error for bytes that are damaged, from a clause.
 */
export function unsealText(bytes: Uint8Array, fail: (reason: string) => Error): string {
  const [text, digest, ...rest] = Buffer.from(bytes).toString().split('\n');
  if (text === undefined || rest.length !== 1 || rest[0] !== '') {
    throw fail('it does not consist of two lines');
  }
  if (sha256Hex(Buffer.from(text)) !== digest) throw fail('its SHA-256 is not the one it states');
  return text;
}

/** Return text from an untrusted source with everything but printable ASCII escaped, fit for a terminal. */
export function printable(text: string): string {
  return text.replace(
    /[^\x20-\x7e]/gu,
    (char) => `\\u{${(char.codePointAt(0) as number).toString(16)}}`,
  );
}

/** Return untrusted text in double quotes, fit for a terminal. */
export function quote(text: string): string {
  return `"${printable(text)}"`;
}

/** Return a number in hexadecimal with its prefix, padded with zeros to `digits`. */
export function hex(value: bigint | number, digits = 0): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}

/** Characters that are invisible, change the direction of text, or control a terminal. */
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}]/u;
const ALL_INVISIBLE = new RegExp(INVISIBLE, 'gu');

/** Return untrusted text fit for a terminal, with letters of all scripts as they are. */
export function visible(text: string): string {
  return text.replace(ALL_INVISIBLE, printable);
}

/** Return untrusted text as one word of a shell's command line, fit for a terminal. */
export function shellWord(text: string): string {
  if (/^[\p{L}\p{M}\p{N}_@%+=:,./-]+$/u.test(text)) return text;
  if (!INVISIBLE.test(text)) return `'${text.replaceAll("'", "'\\''")}'`;
  const escaped = text
    .replace(/[\\']/g, '\\$&')
    .replace(ALL_INVISIBLE, (char) =>
      [...Buffer.from(char)].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join(''),
    );
  return `$'${escaped}'`;
}

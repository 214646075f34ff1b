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

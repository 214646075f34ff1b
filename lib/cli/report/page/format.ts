/*
 * Numbers and text as the page shows them.
 */

/** Write out invisible characters and those that change the direction of text: a stream may contain any. */
export function escapeInvisible(text: string): string {
  return text.replace(
    /[\p{C}\p{Zl}\p{Zp}]/gu,
    (char) => `\\u{${(char.codePointAt(0) as number).toString(16)}}`,
  );
}

/** Return a number with its digits in groups. */
export function formatNumber(value: number): string {
  return value.toLocaleString('en-US');
}

/** Return a number of things: `1 page`, `2 pages`. */
export function formatCount(value: number, thing: string): string {
  return `${formatNumber(value)} ${thing}${value === 1 ? '' : 's'}`;
}

/** Return a number of bytes in the unit that suits it. */
export function formatSize(bytes: number): string {
  const units = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 'B';
  while (value >= 1024 && units.length > 0) {
    value /= 1024;
    unit = units.shift() as string;
  }
  return `${unit === 'B' ? value : Number(value.toPrecision(value >= 1000 ? 4 : 3))} ${unit}`;
}

/** Return a share of a whole in percent. Only nothing is `0 %`, and only the whole is `100 %`. */
export function formatShare(part: number, whole: number): string {
  const percent = whole === 0 ? 0 : (100 * part) / whole;
  if (percent > 0 && percent < 0.1) return '<0.1 %';
  if (percent < 100 && percent > 99.9) return '>99.9 %';
  return `${percent.toFixed(percent > 0 && percent < 10 ? 1 : 0)} %`;
}

/** Return a number in hexadecimal. */
export function formatHex(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}

import bytes from 'bytes';
import { filesize } from 'filesize';

/**
 * Parse a number of bytes as people write it: `1048576`, `100MiB`, `100MB`, `100M`, `1.5g`, `64 KiB/s`.
 * All units are powers of 1024, as in QEMU.
 *
 * @returns Bytes, a safe integer; `undefined` if `text` is not a size.
 */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*(?:([kmgt])i?)?b?(?:\/s)?$/i.exec(text.trim());
  if (match === null) return undefined;
  const [, digits, unit = ''] = match;
  const size = bytes.parse(unit === '' ? Number(digits) : `${digits}${unit}b`);
  return size !== null && Number.isSafeInteger(Math.floor(size)) ? Math.floor(size) : undefined;
}

/** Format a number of bytes: `1.5 MiB`. */
export function showSize(size: number): string {
  return filesize(size, { standard: 'iec' });
}

/** Format a number of bytes exactly, and in a larger unit where there is one: `1.5 MiB (1572864 bytes)`. */
export function showExactSize(size: number): string {
  const exact = size === 1 ? '1 byte' : `${size} bytes`;
  return size < 1024 ? exact : `${showSize(size)} (${exact})`;
}

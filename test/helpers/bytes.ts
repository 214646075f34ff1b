/** Bytes written out as hexadecimal digits; blanks are for the reader. */
export function hex(digits: string): Buffer {
  const packed = digits.replaceAll(/\s/g, '');
  const bytes = Buffer.from(packed, 'hex');
  if (bytes.length * 2 !== packed.length) throw new Error(`not hexadecimal: ${digits}`);
  return bytes;
}

/** Bytes 0, 1, 2, … 250, 0, 1, …: no two places within a block of any usual size look alike. */
export function pattern(length: number, from = 0): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 1) bytes[at] = (from + at) % 251;
  return bytes;
}

/** Cuts bytes at the given offsets, or into pieces of one size. */
export function cutAt(bytes: Uint8Array, offsets: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let from = 0;
  for (const to of [...offsets, bytes.length]) {
    if (to > from) pieces.push(bytes.subarray(from, to));
    from = Math.max(from, to);
  }
  return pieces;
}

/** Cuts bytes into pieces of one size. */
export function piecesOf(bytes: Uint8Array, size: number): Uint8Array[] {
  const offsets: number[] = [];
  for (let at = size; at < bytes.length; at += size) offsets.push(at);
  return cutAt(bytes, offsets);
}

/** One turn of the event loop: every tick, promise and immediate that is due has run afterwards. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A value that breaks the type on purpose, as a caller in plain JavaScript may give it. */
export function wrongly<T>(value: unknown): T {
  return value as T;
}

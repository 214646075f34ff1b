/** Return the bytes of hexadecimal digits; blanks are ignored. */
export function hex(digits: string): Buffer {
  const packed = digits.replaceAll(/\s/g, '');
  const bytes = Buffer.from(packed, 'hex');
  if (bytes.length * 2 !== packed.length) throw new Error(`not hexadecimal: ${digits}`);
  return bytes;
}

/** Return bytes 0, 1, 2, … 250, 0, 1, …, whose period divides no usual block size. */
export function pattern(length: number, from = 0): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 1) bytes[at] = (from + at) % 251;
  return bytes;
}

/** Cut bytes at the given offsets, or into pieces of one size. */
export function cutAt(bytes: Uint8Array, offsets: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let from = 0;
  for (const to of [...offsets, bytes.length]) {
    if (to > from) pieces.push(bytes.subarray(from, to));
    from = Math.max(from, to);
  }
  return pieces;
}

/** Cut bytes into pieces of one size. */
export function piecesOf(bytes: Uint8Array, size: number): Uint8Array[] {
  const offsets: number[] = [];
  for (let at = size; at < bytes.length; at += size) offsets.push(at);
  return cutAt(bytes, offsets);
}

/** Wait one turn of the event loop: every tick, promise and immediate that is due has then run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Return a value as another type on purpose, as a caller in plain JavaScript may pass it. */
export function wrongly<T>(value: unknown): T {
  return value as T;
}

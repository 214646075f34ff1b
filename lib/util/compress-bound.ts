/**
 * Return the largest size in bytes that zlib's deflate can produce from `length` bytes.
 *
 * @see compressBound() of zlib
 */
export function compressBound(length: number): number {
  return length + (length >>> 12) + (length >>> 14) + (length >>> 25) + 13;
}

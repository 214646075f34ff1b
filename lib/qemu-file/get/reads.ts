import { checkAttached } from '../check-attached.ts';
import type { GetHalf } from './get-half.ts';

/*
 * Waits for bytes of any number, which are consumed as they come.
 */

/** Wait until the target is full; return its length. */
export function readInto(
  half: GetHalf,
  target: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<number> {
  try {
    checkAttached(target, 'readBuffer');
  } catch (error) {
    return Promise.reject(error);
  }
  let copied = 0;
  const refill = (): number => {
    copied += half.copySome(target.subarray(copied));
    return Math.min(target.length - copied, half.chunkLimit);
  };
  const size = Math.min(target.length, half.chunkLimit);
  return half.wait({ size, operation: 'readBuffer', refill, take: () => copied }, signal);
}

/** Wait for a length byte and that many bytes; return what `take` makes of them. */
export function readCounted<T>(
  half: GetHalf,
  take: () => T,
  signal: AbortSignal | undefined,
): Promise<T> {
  const refill = (): number => {
    const size = 1 + (half.peek(1, 0)[0] as number);
    return half.lookAhead.available >= size ? 0 : size;
  };
  return half.wait({ size: 1, operation: 'readCountedString', refill, take }, signal);
}

/** Wait for bytes and drop them. */
export function readSkip(
  half: GetHalf,
  size: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (!(Number.isSafeInteger(size) && size >= 0)) {
    return Promise.reject(new RangeError(`readSkip: ${size} is not a number of bytes`));
  }
  let left = size;
  const refill = (): number => {
    left -= half.dropSome(left);
    return Math.min(left, half.chunkLimit);
  };
  const first = Math.min(left, half.chunkLimit);
  return half.wait({ size: first, operation: 'readSkip', refill, take: () => {} }, signal);
}

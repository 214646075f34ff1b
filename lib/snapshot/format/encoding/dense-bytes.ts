/** Bits of information in a byte from which on codes for single bytes save less than 1/20. */
const DENSE_BITS = 7.6;

/** One run of bytes is counted in each interval, at another place of each. */
const INTERVAL_BYTES = 1024;
const RUN_BYTES = 128;

const counts = new Uint32Array(256);

/** Return whether the values in a sample of bytes are so even that codes for single bytes hardly save any. */
export function isDense(bytes: Uint8Array): boolean {
  counts.fill(0);
  let sampled = 0;
  let shift = 0;
  for (let start = 0; start + INTERVAL_BYTES <= bytes.length; start += INTERVAL_BYTES) {
    const end = start + shift + RUN_BYTES;
    for (let at = start + shift; at < end; at++) {
      const value = bytes[at] as number;
      counts[value] = (counts[value] as number) + 1;
    }
    sampled += RUN_BYTES;
    shift = (shift + RUN_BYTES) % INTERVAL_BYTES;
  }
  // A small sample says nothing.
  if (sampled < 4 * counts.length) return false;
  let bits = 0;
  for (const count of counts) {
    if (count > 0) bits += count * Math.log2(sampled / count);
  }
  return bits > DENSE_BITS * sampled;
}

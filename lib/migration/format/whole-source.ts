/*
 * QEMU's source with a return path waits for an answer and keeps its connection open, so a reader stops after the VM
 * description. Compressed data has no way back: its source ends, and only its last bytes show whether it is damaged.
 */

const wholeSources = new WeakSet<object>();

/** Note that a source ends by itself, and fails at its end if its bytes were damaged. */
export function markWhole(source: object): void {
  wholeSources.add(source);
}

/** Return whether a source has to be read to its end. */
export function isWhole(source: object): boolean {
  return wholeSources.has(source);
}

/** Mark `reading`, which yields the bytes of `source`, as one that ends as the source does. */
export function endsAs(reading: object, source: object): void {
  if (isWhole(source)) markWhole(reading);
}

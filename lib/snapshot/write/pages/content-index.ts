import { FINGERPRINT_BYTES } from '../../format/limits.ts';

/** Most contents that are remembered: 20 bytes of memory for each. */
const MAX_SLOTS = 524_288;
const MIN_SLOTS = 16_384;

/**
 * Finds the stored page with a content by its fingerprint, among those that were stored last. It forgets contents
 * where two need the same place, so its memory does not grow with the guest.
 */
export class ContentIndex {
  readonly #mask: number;
  readonly #fingerprints: Buffer;
  /** Number of the stored page plus 1; 0 for an empty slot. */
  readonly #stored: Uint32Array;

  /** @param pages - Number of pages of the guest. */
  constructor(pages: number) {
    let slots = MIN_SLOTS;
    while (slots < 2 * pages && slots < MAX_SLOTS) slots *= 2;
    this.#mask = slots - 1;
    this.#fingerprints = Buffer.alloc(slots * FINGERPRINT_BYTES);
    this.#stored = new Uint32Array(slots);
  }

  /**
   * Return the number of the stored page with a content; -1 if none is known.
   *
   * @param fingerprints - Holds the fingerprint of the content.
   * @param at - Offset of that.
   */
  find(fingerprints: Buffer, at: number): number {
    const slot = fingerprints.readUInt32LE(at) & this.#mask;
    if (this.#has(slot, fingerprints, at)) return (this.#stored[slot] as number) - 1;
    if (this.#has(slot ^ 1, fingerprints, at)) return (this.#stored[slot ^ 1] as number) - 1;
    return -1;
  }

  /** Remember the content of a stored page. */
  add(fingerprints: Buffer, at: number, stored: number): void {
    let slot = fingerprints.readUInt32LE(at) & this.#mask;
    if (this.#stored[slot] !== 0 && this.#stored[slot ^ 1] === 0) slot ^= 1;
    fingerprints.copy(this.#fingerprints, slot * FINGERPRINT_BYTES, at, at + FINGERPRINT_BYTES);
    this.#stored[slot] = stored + 1;
  }

  #has(slot: number, fingerprints: Buffer, at: number): boolean {
    if (this.#stored[slot] === 0) return false;
    const own = slot * FINGERPRINT_BYTES;
    return (
      fingerprints.compare(
        this.#fingerprints,
        own,
        own + FINGERPRINT_BYTES,
        at,
        at + FINGERPRINT_BYTES,
      ) === 0
    );
  }
}

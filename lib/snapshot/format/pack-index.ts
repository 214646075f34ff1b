/** Where the stored pages of a map are: they are numbered through all its packs. */
export class PackIndex {
  /** Number of the first stored page of each pack, and of the page after the last. */
  readonly #bases: Uint32Array;
  #last = 0;

  constructor(packs: readonly { readonly pages: number }[]) {
    this.#bases = new Uint32Array(packs.length + 1);
    for (const [index, { pages }] of packs.entries()) {
      this.#bases[index + 1] = this.baseOf(index) + pages;
    }
  }

  /** Number of all stored pages. */
  get pages(): number {
    return this.#bases[this.#bases.length - 1] as number;
  }

  /** Return the number of the first stored page of a pack. */
  baseOf(pack: number): number {
    return this.#bases[pack] as number;
  }

  /** Return the index of the pack that has a stored page. */
  packOf(stored: number): number {
    const bases = this.#bases;
    const last = this.#last;
    if (stored >= (bases[last] as number) && stored < (bases[last + 1] as number)) return last;
    let low = 0;
    let high = bases.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((bases[middle] as number) <= stored) low = middle;
      else high = middle;
    }
    this.#last = low;
    return low;
  }
}

import type { PageSource } from '../../migration/page-source/page-source.ts';
import type { DestinationBlock } from '../preflight/destination-facts.ts';

/** A RAM block of the guest, as the destination has it. */
export interface LazyBlock {
  readonly name: string;
  /** Bytes in use. */
  readonly usedLength: number;
  /** Bytes of the destination's pages that back the block; each is sent whole. */
  readonly hostPageSize: number;
}

/** The guest's memory as a destination has it: the blocks of the stream, in its order. */
export class DestinationMemory {
  /** Bytes of a target page. */
  readonly pageSize: number;
  readonly blocks: readonly LazyBlock[];
  readonly #indexes: ReadonlyMap<string, number>;

  constructor(pageSize: number, blocks: readonly LazyBlock[]) {
    this.pageSize = pageSize;
    this.blocks = blocks;
    this.#indexes = new Map(blocks.map(({ name }, index) => [name, index]));
  }

  /**
   * Combine the blocks of a guest with those of the destination.
   *
   * @throws RangeError if the destination does not have one of them; `checkLazy` reports that before.
   */
  static of(pages: PageSource, destination: readonly DestinationBlock[]): DestinationMemory {
    const sizes = new Map(destination.map(({ name, hostPageSize }) => [name, hostPageSize]));
    const blocks = pages.blocks.map(({ name, usedLength }) => {
      const hostPageSize = sizes.get(name);
      if (hostPageSize === undefined) throw new RangeError(`no RAM block "${name}"`);
      return { name, usedLength, hostPageSize };
    });
    return new DestinationMemory(pages.pageSize, blocks);
  }

  /** Return the number of a block that exists. */
  indexOf(name: string): number {
    return this.#indexes.get(name) as number;
  }
}

import { abortError } from '../../contract/errors.ts';
import type { PageSource } from '../page-source/page-source.ts';

/** Bytes compared after which the event loop gets a turn. */
const YIELD_INTERVAL_BYTES = 67_108_864;

/** A block that both guests have. */
export interface SharedBlock {
  readonly name: string;
  /** Index in the first source, and in the second. */
  readonly a: number;
  readonly b: number;
  /** Bytes that both have. */
  readonly length: number;
  /** Number of the block's first page, counted through all shared blocks. */
  readonly first: number;
}

/** How a comparison of memory is followed and ended. */
export interface CompareOptions {
  /** Called with the number of bytes that were compared since the last call. */
  readonly onProgress?: ((bytes: number) => void) | undefined;
  /** Ends the comparison with `ECANCELED`. */
  readonly signal?: AbortSignal | undefined;
}

/** Return the blocks that have the same name in both sources, in the order of the first. */
export function shareBlocks(a: PageSource, b: PageSource): SharedBlock[] {
  const indices = new Map(b.blocks.map(({ name }, index) => [name, index]));
  const shared: SharedBlock[] = [];
  let first = 0;
  for (const [index, { name, usedLength }] of a.blocks.entries()) {
    const other = indices.get(name);
    const otherLength = other === undefined ? undefined : b.blocks[other]?.usedLength;
    if (other === undefined || otherLength === undefined) continue;
    const length = Math.min(usedLength, otherLength);
    shared.push({ name, a: index, b: other, length, first });
    first += length / a.pageSize;
  }
  return shared;
}

/** Lets other work of the process run between long stretches of work. */
export class Turns {
  readonly #options: CompareOptions;
  #sinceTurn = 0;

  constructor(options: CompareOptions) {
    this.#options = options;
  }

  /**
   * Count bytes of work.
   *
   * @returns A promise to wait for where a turn is due; it is rejected if the signal is aborted.
   */
  count(bytes: number): Promise<void> | undefined {
    this.#sinceTurn += bytes;
    return this.#sinceTurn < YIELD_INTERVAL_BYTES ? undefined : this.#give();
  }

  async #give(): Promise<void> {
    const { onProgress, signal } = this.#options;
    onProgress?.(this.#sinceTurn);
    this.#sinceTurn = 0;
    await new Promise(setImmediate);
    if (signal?.aborted) throw abortError(signal, 'diff');
  }
}

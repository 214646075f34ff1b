import type { RamBlock } from '../migration/format/events.ts';
import { type PageStore, SpillingStore, shareStore } from '../migration/memory/page-store.ts';
import { temporarySparseFile } from './sparse-file.ts';

/** Keeps the RAM of a stream: in memory up to 64 MiB, beyond that in a temporary file. */
export interface ScratchStore extends Disposable {
  /** Return the store of a block, as the option `store` of `RamImage` expects it. */
  readonly store: (block: RamBlock) => PageStore;
}

/**
 * Open a place for the RAM of a stream. Nothing of it is left after it is disposed of or the process ends.
 *
 * @param directory - Directory of the temporary file. Default: `os.tmpdir()`.
 * @returns A disposable store; its `store` function fits the options of `RamImage` and `verifyStream`.
 * @example
 * ```js
 * using scratch = openScratchStore();
 * const image = new RamImage({ store: scratch.store });
 * ```
 */
export function openScratchStore(directory?: string): ScratchStore {
  const spilling = new SpillingStore(() => temporarySparseFile(directory));
  return { store: shareStore(spilling), [Symbol.dispose]: () => spilling.close() };
}

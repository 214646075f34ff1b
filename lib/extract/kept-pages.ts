import { temporarySparseFile } from '../../adapters/index.ts';
import type { RamBlock } from '../migration/format/events.ts';
import { type PageStore, SpillingStore, shareStore } from '../migration/memory/page-store.ts';

/** Where the RAM of a stream is kept: in memory up to 64 MiB, beyond that in a temporary file. */
export interface ScratchStore extends Disposable {
  /** Gives each block its place. */
  readonly store: (block: RamBlock) => PageStore;
}

/**
 * Makes a place for a stream's RAM, of which nothing is left when it is disposed of, or the process ends.
 *
 * @param directory - Where the temporary file takes room. Default: the system's directory of such.
 */
export function openScratchStore(directory?: string): ScratchStore {
  const kept = new SpillingStore(() => temporarySparseFile(directory));
  return { store: shareStore(kept), [Symbol.dispose]: () => kept.close() };
}

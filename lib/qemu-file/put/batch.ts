import type { StagingBlock } from './staging.ts';

/** The buffers that leave together in one `writevBuffer` call. */
export interface Batch {
  /** The buffers, in stream order. */
  entries: Uint8Array[];
  /** Sum of their lengths when they were put; more than now if one was detached since. */
  bytes: number;
  /** Functions to call once the backend took the batch, or failed. */
  releases: (() => void)[];
  /** The staging block that some entries point into, to be recycled; null if there is none. */
  block: StagingBlock | null;
}

/** Split the first `bytes` off a batch. The releases and the staging block stay with the rest. */
export function splitOff(batch: Batch, bytes: number): Batch {
  const head: Batch = { entries: [], bytes, releases: [], block: null };
  let left = bytes;
  let whole = 0;
  for (const entry of batch.entries) {
    if (entry.length > left) break;
    head.entries.push(entry);
    left -= entry.length;
    whole += 1;
  }
  batch.entries.splice(0, whole);
  const cut = batch.entries[0];
  if (left > 0 && cut !== undefined) {
    head.entries.push(cut.subarray(0, left));
    batch.entries[0] = cut.subarray(left);
  }
  batch.bytes -= bytes;
  return head;
}

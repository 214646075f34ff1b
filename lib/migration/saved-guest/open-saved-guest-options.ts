import type { FoundDescription } from '../devices/find-vm-description.ts';
import type { MigrationStreamError } from '../format/stream-error.ts';

/** Options of `openSavedGuest`. */
export interface OpenSavedGuestOptions {
  /** Bytes that may be the VM description, if it was looked up at the end of the file; as for `MigrationReader`. */
  description?: FoundDescription | undefined;
  /** Called with each fault after which the stream can still be read. Default: the first one is thrown. */
  onFault?: ((fault: MigrationStreamError) => void) | undefined;
  /**
   * Contents of the stream's page index, as `PageIndexBuilder` made it: no pass over the stream is needed, and all that
   * is read of it is checked with the index's digests. Device states are not decoded, so `onFault` is not called.
   */
  index?: Uint8Array | undefined;
  /** Ends the pass over the stream. */
  signal?: AbortSignal | undefined;
}

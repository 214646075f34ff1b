import type { Batch } from './batch.ts';
import type { Staging, StagingHost } from './staging.ts';

/*
 * The gather list: the bytes that were put and not yet cut into a batch, as buffers in stream order.
 *
 *   entries: [staged run] [page by reference] [staged run] [page by reference] …
 *
 * Adjacent staged values share one entry, the open run. It becomes a view only when a by-reference buffer
 * follows or the batch is cut.
 */

/** The owner of the gather list. */
export interface GatherHost extends StagingHost {
  /** Return whether one more buffer may be queued by reference; false if puts have stopped. */
  canQueue(): boolean;
  /** Run the release of a buffer that was not queued. */
  notQueued(onRelease: () => void): void;
}

export class GatherList {
  readonly #staging: Staging;
  readonly #maxEntries: number;
  /** By-reference buffers up to this size are copied. */
  readonly #copyLimit: number;
  readonly #host: GatherHost;

  /** Where the open run begins in the staging block. */
  #runStart = 0;
  #referencedBytes = 0;
  #entries: Uint8Array[] = [];
  #releases: (() => void)[] = [];
  /** The last entry, if it is by reference and may grow. */
  #growing: Uint8Array | null = null;
  /** Whether the growing entry has releases: only other buffers with a release extend it, as in QEMU. */
  #growingHasReleases = false;

  constructor(staging: Staging, maxEntries: number, copyLimit: number, host: GatherHost) {
    this.#staging = staging;
    this.#maxEntries = maxEntries;
    this.#copyLimit = copyLimit;
    this.#host = host;
  }

  /** Bytes put since the last cut. */
  get bytes(): number {
    return this.#staging.staged + this.#referencedBytes;
  }

  /** Whether there is anything to cut: bytes, or only a release. */
  get isCuttable(): boolean {
    return this.bytes > 0 || this.#releases.length > 0;
  }

  /**
   * Queue bytes by reference, or copy them where that is cheaper. `onRelease` runs once, after the backend
   * took the batch that holds the bytes, or failed.
   */
  reference(bytes: Uint8Array, onRelease?: () => void): void {
    const length = bytes.length;
    if (length <= this.#copyLimit && length > 0) {
      // In one piece, so that one batch holds all bytes and releases them.
      if (!this.#staging.fit(length)) {
        if (onRelease !== undefined) this.#host.notQueued(onRelease);
        return;
      }
      if (onRelease !== undefined) this.#releases.push(onRelease);
      this.#staging.copy(bytes);
      return;
    }
    if (length > 0) {
      this.#closeRun();
      // The staged bytes before this buffer may have taken the last entry of the list.
      if (this.#entries.length >= this.#maxEntries) this.#host.cutFull();
    }
    if (!this.#host.canQueue()) {
      if (onRelease !== undefined) this.#host.notQueued(onRelease);
      return;
    }
    if (onRelease !== undefined) this.#releases.push(onRelease);
    if (length === 0) return;
    this.#referencedBytes += length;
    const hasRelease = onRelease !== undefined;
    if (hasRelease !== this.#growingHasReleases || !this.#grow(bytes)) {
      this.#growing = bytes;
      this.#growingHasReleases = hasRelease;
      this.#entries.push(bytes);
      if (this.#entries.length >= this.#maxEntries) this.#host.cutFull();
    }
  }

  /** Take everything gathered as one batch and start an empty one. The next put must make room again. */
  cut(): Batch {
    this.#closeRun();
    const batch: Batch = {
      entries: this.#entries,
      bytes: this.bytes,
      releases: this.#releases,
      block: this.#staging.takeBlock(),
    };
    this.#runStart = 0;
    this.#entries = [];
    this.#releases = [];
    this.#growing = null;
    this.#referencedBytes = 0;
    return batch;
  }

  #closeRun(): void {
    const { staged } = this.#staging;
    if (staged > this.#runStart) {
      this.#entries.push(this.#staging.viewFrom(this.#runStart));
      this.#runStart = staged;
      this.#growing = null;
    }
  }

  /** Extend the last entry over a buffer that begins exactly where it ends. */
  #grow(bytes: Uint8Array): boolean {
    const last = this.#growing;
    if (
      last === null ||
      last.buffer !== bytes.buffer ||
      last.byteOffset + last.byteLength !== bytes.byteOffset
    ) {
      return false;
    }
    const grown = new Uint8Array(last.buffer, last.byteOffset, last.byteLength + bytes.byteLength);
    this.#entries[this.#entries.length - 1] = grown;
    this.#growing = grown;
    return true;
  }
}

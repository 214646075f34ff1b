import { FINGERPRINT_BYTES } from '../../format/limits.ts';

/** Bytes of the pages of one batch. */
const BATCH_BYTES = 1_048_576;

/** Batches that wait to be stored, before the source has to wait. */
const MAX_WAITING = 6;

/** Pages on their way from the visitor, which cannot wait, to the packs, which have to. */
export class PageBatch {
  readonly bytes: Buffer;
  /** Number of each page. */
  readonly pages: Uint32Array;
  /** Number of each arrival, by which a page that came again is recognised. */
  readonly tickets: Uint32Array;
  /** Room for the fingerprint of each page. */
  readonly fingerprints: Buffer;
  /** Changes that must be applied to older contents first; by place, mostly empty. */
  readonly changes: Map<number, PageChange> = new Map();
  count = 0;

  constructor(pageSize: number) {
    const capacity = Math.max(1, BATCH_BYTES / pageSize);
    // Threads see shared memory without a copy.
    const memory = new SharedArrayBuffer(capacity * (pageSize + FINGERPRINT_BYTES));
    this.bytes = Buffer.from(memory, 0, capacity * pageSize);
    this.fingerprints = Buffer.from(memory, this.bytes.length);
    this.pages = new Uint32Array(capacity);
    this.tickets = new Uint32Array(capacity);
  }

  get isFull(): boolean {
    return this.count === this.pages.length;
  }
}

/** A page that came as changes of older contents. */
export interface PageChange {
  /** Number of the stored page plus 1, 0 for zeros, or another change, whose result is changed. */
  readonly base: number | PageChange;
  /** The changes, encoded as XBZRLE. */
  readonly encoded: Uint8Array;
  /** The contents; null until they are known. */
  result: Uint8Array | null;
}

/** The batches that wait. */
export class PageQueue {
  readonly #waiting: PageBatch[] = [];
  readonly #free: PageBatch[] = [];
  readonly #taken: PageBatch[] = [];
  #pageSize = 0;
  #open: PageBatch | null = null;
  #wakeReader: (() => void) | null = null;
  #wakeWriter: (() => void) | null = null;
  #isEnded = false;

  /** Set the size of a page; batches of another size must be gone. */
  setPageSize(pageSize: number): void {
    if (pageSize === this.#pageSize) return;
    this.#pageSize = pageSize;
    this.#free.length = 0;
    this.#open = null;
  }

  /** Return the batch that takes the next page. */
  batch(): PageBatch {
    if (this.#open !== null && !this.#open.isFull) return this.#open;
    this.#push();
    this.#open = this.#free.pop() ?? new PageBatch(this.#pageSize);
    return this.#open;
  }

  /** Return the place of an arrival in a batch that was not taken yet; null if there is none. */
  locate(ticket: number): { batch: PageBatch; place: number } | null {
    const batches = this.#open === null ? this.#waiting : [...this.#waiting, this.#open];
    for (const batch of batches) {
      for (let place = batch.count - 1; place >= 0; place--) {
        if (batch.tickets[place] === ticket) return { batch, place };
      }
    }
    return null;
  }

  /** The batches that were taken and are not recycled yet, in order. */
  get taken(): readonly PageBatch[] {
    return this.#taken;
  }

  /** Whether the source should wait. */
  get isFull(): boolean {
    return this.#waiting.length >= MAX_WAITING;
  }

  /** Wait until the queue has room, or was closed. */
  async room(): Promise<void> {
    while (this.isFull && !this.#isEnded) {
      await new Promise<void>((resolve) => {
        this.#wakeWriter = resolve;
      });
    }
  }

  /** Take the next batch; null after the last. */
  async take(): Promise<PageBatch | null> {
    for (;;) {
      const batch = this.#waiting.shift();
      if (batch !== undefined) {
        this.#taken.push(batch);
        if (!this.isFull) this.#wakeWriter?.();
        return batch;
      }
      if (this.#isEnded) return null;
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  /** Let the batch that was taken first be used again. */
  recycle(): void {
    const batch = this.#taken.shift();
    if (batch === undefined) return;
    batch.count = 0;
    batch.changes.clear();
    this.#free.push(batch);
  }

  /** No page will come any more. */
  end(): void {
    this.#push();
    this.#isEnded = true;
    this.#wakeReader?.();
    this.#wakeWriter?.();
  }

  #push(): void {
    if (this.#open === null || this.#open.count === 0) return;
    this.#waiting.push(this.#open);
    this.#open = null;
    this.#wakeReader?.();
  }
}

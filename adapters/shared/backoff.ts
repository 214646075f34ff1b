/** First wait between attempts, in milliseconds; each further one is twice as long. */
const FIRST_MS = 1;
/** Longest wait between attempts, in milliseconds: what a ready transport may lose at most. */
const LAST_MS = 50;

/** The waits between attempts at something that is not ready yet. */
export class Backoff {
  readonly #first: number;
  readonly #last: number;
  #next: number;

  /**
   * @param first - First wait in milliseconds. Default 1.
   * @param last - Longest wait in milliseconds. Default 50.
   */
  constructor(first: number = FIRST_MS, last: number = LAST_MS) {
    this.#first = first;
    this.#last = last;
    this.#next = first;
  }

  /** Gives the next wait in milliseconds, and doubles the one after it. */
  next(): number {
    const wait = this.#next;
    this.#next = Math.min(wait * 2, this.#last);
    return wait;
  }

  /** Starts again from the first wait. */
  reset(): void {
    this.#next = this.#first;
  }
}

/** True for an error that says no more than "not now". */
export function isTransient(error: unknown): boolean {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return code === 'EAGAIN' || code === 'EWOULDBLOCK' || code === 'EINTR';
}

const never = new Int32Array(new SharedArrayBuffer(4));

/** Stops the whole thread for some milliseconds. */
export function sleepSync(ms: number): void {
  Atomics.wait(never, 0, 0, ms);
}

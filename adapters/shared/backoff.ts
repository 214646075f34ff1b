/** First delay between attempts, in milliseconds; each further one is twice as long. */
const FIRST_MS = 1;
/** Longest delay between attempts, in milliseconds: the time that a ready transport can lose. */
const LAST_MS = 50;

/** Delays between attempts at an operation that is not ready yet. */
export class Backoff {
  readonly #first: number;
  readonly #last: number;
  #next: number;

  /**
   * @param first - First delay in milliseconds. Default 1.
   * @param last - Longest delay in milliseconds. Default 50.
   */
  constructor(first: number = FIRST_MS, last: number = LAST_MS) {
    this.#first = first;
    this.#last = last;
    this.#next = first;
  }

  /** Return the next delay in milliseconds, and double the one after it. */
  next(): number {
    const wait = this.#next;
    this.#next = Math.min(wait * 2, this.#last);
    return wait;
  }

  /** Start again from the first delay. */
  reset(): void {
    this.#next = this.#first;
  }
}

/** Return whether an error only means that the operation has to be tried again. */
export function isTransient(error: unknown): boolean {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return code === 'EAGAIN' || code === 'EWOULDBLOCK' || code === 'EINTR';
}

const never = new Int32Array(new SharedArrayBuffer(4));

/** Block the thread for some milliseconds. */
export function sleepSync(ms: number): void {
  Atomics.wait(never, 0, 0, ms);
}

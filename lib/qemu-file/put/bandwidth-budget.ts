import { RATE_LIMIT_WINDOW_MS } from '../../contract/constants.ts';
import { MAX_TIMER_MS } from '../../contract/wait-for.ts';
import { Fifo } from '../../util/fifo.ts';

/*
 * A token bucket for a limit in bytes per second, and the queue of files that wait for tokens. Files that
 * share a budget are served in the order in which they began to wait, whatever sizes they want to send.
 */

/**
 * Milliseconds whose unused budget can be caught up. This bounds how far one second can exceed the limit; a
 * timer that is later than this plus one slice loses budget (bench/limiter.ts).
 */
const BURST_MS = 15;
/** Milliseconds whose budget is worth a write of its own, because each wake-up costs time (bench/limiter.ts). */
const SLICE_MS = 10;

/** A file that waits for budget. */
export interface BudgetWaiter {
  /** Bytes that it wants to send. */
  readonly wanted: number;
  /** Called when budget may be available: ask again. */
  wake(): void;
}

/**
 * A limit in bytes per second, for one file or for several together: an idle file leaves its share to the
 * others. Pass it to each file as the option `budget`.
 *
 * @example
 * ```js
 * const budget = new BandwidthBudget(100 * 2 ** 20);
 * const first = new QemuFile(socketOps(one), { budget });
 * const second = new QemuFile(socketOps(another), { budget });
 * budget.maxBandwidth = 50 * 2 ** 20; // both together, from now on
 * ```
 */
export class BandwidthBudget {
  readonly #now: () => number;
  #bandwidth = 0;
  #window = 0;
  #tokens = 0;
  #refilledAt = 0;
  readonly #queue: Fifo<BudgetWaiter> = new Fifo();
  /** Whether a waiter is being woken, which goes first, and whether it has sent anything. */
  #isTurn = false;
  #isUsed = false;
  #timer: NodeJS.Timeout | null = null;
  #heldSince = -1;
  #heldMs = 0;

  /**
   * @param maxBandwidth - Bytes per second; 0, the default, means no limit.
   * @param now - A monotonic clock in milliseconds.
   * @throws RangeError for a number that is negative or not finite.
   */
  constructor(maxBandwidth: number = 0, now: () => number = () => performance.now()) {
    this.#now = now;
    this.maxBandwidth = maxBandwidth;
  }

  /** Bytes per second; 0 means no limit. May be set at any time. */
  get maxBandwidth(): number {
    return this.#bandwidth;
  }

  set maxBandwidth(bytesPerSecond: number) {
    if (!(bytesPerSecond >= 0 && bytesPerSecond < Number.POSITIVE_INFINITY)) {
      throw new RangeError(`maxBandwidth: ${bytesPerSecond} is not a number of bytes per second`);
    }
    if (this.#bandwidth === 0) {
      this.#tokens = (bytesPerSecond * BURST_MS) / 1000;
      this.#refilledAt = this.#now();
    } else {
      this.#refill();
    }
    this.#bandwidth = bytesPerSecond;
    this.#tokens = Math.min(this.#tokens, this.#burst);
    this.#window = Math.ceil((bytesPerSecond * RATE_LIMIT_WINDOW_MS) / 1000);
    // The time that the first waiter has to wait has changed.
    this.#arm();
  }

  /** Milliseconds during which the bytes of at least one file waited for the budget alone. */
  get limitedMs(): number {
    return this.#heldMs + (this.#heldSince < 0 ? 0 : this.#now() - this.#heldSince);
  }

  /** @internal Bytes of one window of 100 ms; 0 means no limit. */
  get window(): number {
    return this.#window;
  }

  /** @internal Return the bytes that may be sent now: `wanted` without a limit, 0 if the caller should `wait()`. */
  allowance(wanted: number): number {
    if (this.#bandwidth === 0) return wanted;
    if (this.#queue.length > 0 && !this.#isTurn) return 0;
    this.#refill();
    return this.#tokens >= this.#minTokens(wanted) ? Math.min(wanted, Math.floor(this.#tokens)) : 0;
  }

  /** @internal Return the milliseconds, at least 1, until there are tokens for `wanted` bytes. */
  waitMs(wanted: number): number {
    const ms = Math.ceil(((this.#minTokens(wanted) - this.#tokens) * 1000) / this.#bandwidth);
    return Math.min(Math.max(1, ms), MAX_TIMER_MS);
  }

  /** @internal Take bytes out of the budget. */
  spend(bytes: number): void {
    if (this.#bandwidth === 0) return;
    this.#tokens -= bytes;
    this.#isUsed = true;
  }

  /** @internal Wake a waiter, once, when it is first and there are tokens for it. */
  wait(waiter: BudgetWaiter): void {
    // A waiter that was woken a moment too early keeps its place.
    if (this.#isTurn && !this.#isUsed) this.#queue.unshift([waiter]);
    else this.#queue.push(waiter);
    if (this.#heldSince < 0) this.#heldSince = this.#now();
    if (this.#timer === null) this.#arm();
  }

  /** @internal Remove a waiter. */
  leave(waiter: BudgetWaiter): void {
    const isFirst = this.#queue.first === waiter;
    if (!this.#queue.remove(waiter) || !isFirst) return;
    // So that the next waiter does not wait again for tokens earned in the meantime.
    this.#refill();
    this.#arm();
  }

  /** Set the timer for the first waiter, and account for the time during which there is one. */
  #arm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const { first } = this.#queue;
    if (first !== undefined) {
      const ms = this.#bandwidth === 0 ? 0 : this.waitMs(first.wanted);
      this.#timer = setTimeout(this.#onTimer, ms);
    } else if (this.#heldSince >= 0) {
      this.#heldMs += this.#now() - this.#heldSince;
      this.#heldSince = -1;
    }
  }

  readonly #onTimer = (): void => {
    this.#timer = null;
    try {
      this.#wakeFirst();
      // Without a limit no file has to wait for another.
      while (this.#bandwidth === 0 && this.#queue.length > 0) this.#wakeFirst();
    } finally {
      // An error that a waiter throws must not leave the others asleep.
      if (this.#timer === null) this.#arm();
    }
  };

  #wakeFirst(): void {
    const waiter = this.#queue.shift() as BudgetWaiter;
    this.#isTurn = true;
    this.#isUsed = false;
    try {
      waiter.wake();
    } finally {
      this.#isTurn = false;
    }
  }

  /** Return the number of tokens from which a write is worth its cost. */
  #minTokens(wanted: number): number {
    return Math.max(1, Math.min(wanted, (this.#bandwidth * SLICE_MS) / 1000));
  }

  get #burst(): number {
    return Math.max(1, (this.#bandwidth * BURST_MS) / 1000);
  }

  #refill(): void {
    const now = this.#now();
    const earned = ((now - this.#refilledAt) * this.#bandwidth) / 1000;
    this.#tokens = Math.min(this.#tokens + earned, this.#burst);
    this.#refilledAt = now;
  }
}

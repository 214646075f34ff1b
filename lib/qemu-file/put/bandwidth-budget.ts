import { RATE_LIMIT_WINDOW_MS } from '../../contract/constants.ts';

/*
 * The tokens of a limit in bytes per second, and the queue of those who wait for some: files that share
 * a budget get their turns in the order in which they began to wait, whatever sizes they want to send.
 */

/**
 * Longest stretch whose unused budget may be caught up: it bounds how far one second can go over, and a
 * timer that is later than this and the slice allow loses budget (bench/limiter.ts).
 */
const BURST_MS = 15;
/** Shortest stretch whose budget is worth a write of its own: waking up is what waiting costs (bench/limiter.ts). */
const SLICE_MS = 10;
/** Longest wait that a timer can keep. */
const MAX_WAIT_MS = 2 ** 31 - 1;

/** Someone who is held back: what he asks to have when he is woken, and how. */
export interface BudgetWaiter {
  /** Bytes that he would send if he could. */
  readonly wanted: number;
  /** He shall ask again. */
  wake(): void;
}

/**
 * A limit in bytes per second, for one file or for several together: an idle one leaves its share to the
 * others. Give it to each as the option `budget`.
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
  readonly #queue: BudgetWaiter[] = [];
  /** Somebody was woken, and is before all who wait; and whether he has sent something. */
  #isTurn = false;
  #isUsed = false;
  #timer: NodeJS.Timeout | null = null;
  #heldSince = -1;
  #heldMs = 0;

  /**
   * @param maxBandwidth - Bytes per second; 0, the default, is no limit.
   * @param now - A monotonic clock in milliseconds.
   * @throws RangeError for a negative number, or none.
   */
  constructor(maxBandwidth: number = 0, now: () => number = () => performance.now()) {
    this.#now = now;
    this.maxBandwidth = maxBandwidth;
  }

  /** Bytes per second; 0 is no limit. May be set at any time, and holds from then on. */
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
    // How long anybody has to wait is another matter now.
    this.#arm();
  }

  /** Milliseconds during which somebody's bytes waited for the budget alone. */
  get limitedMs(): number {
    return this.#heldMs + (this.#heldSince < 0 ? 0 : this.#now() - this.#heldSince);
  }

  /** @internal Bytes of one window of 100 ms; 0 is no limit. */
  get window(): number {
    return this.#window;
  }

  /** @internal Bytes that may leave now: `wanted` if nothing limits, 0 if it is better to `wait()`. */
  allowance(wanted: number): number {
    if (this.#bandwidth === 0) return wanted;
    if (this.#queue.length > 0 && !this.#isTurn) return 0;
    this.#refill();
    return this.#tokens >= this.#leastOf(wanted) ? Math.min(wanted, Math.floor(this.#tokens)) : 0;
  }

  /** @internal Milliseconds, at least 1, until there are tokens for who wants that much. */
  waitMs(wanted: number): number {
    const ms = Math.ceil(((this.#leastOf(wanted) - this.#tokens) * 1000) / this.#bandwidth);
    return Math.min(Math.max(1, ms), MAX_WAIT_MS);
  }

  /** @internal Takes bytes out of the budget. */
  spend(bytes: number): void {
    if (this.#bandwidth === 0) return;
    this.#tokens -= bytes;
    this.#isUsed = true;
  }

  /** @internal Has a waiter woken, once, when there are tokens for it and it is its turn. */
  wait(waiter: BudgetWaiter): void {
    // Who was woken a moment too early does not lose its place.
    if (this.#isTurn && !this.#isUsed) this.#queue.unshift(waiter);
    else this.#queue.push(waiter);
    if (this.#heldSince < 0) this.#heldSince = this.#now();
    if (this.#timer === null) this.#arm();
  }

  /** @internal The waiter no longer waits. */
  leave(waiter: BudgetWaiter): void {
    const place = this.#queue.indexOf(waiter);
    if (place < 0) return;
    this.#queue.splice(place, 1);
    if (place !== 0) return;
    // Lest the next one wait anew for what was earned meanwhile.
    this.#refill();
    this.#arm();
  }

  /** Sets the timer for the first in the queue, and takes note of whether there is any. */
  #arm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const [first] = this.#queue;
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
      // Without a limit nobody has to wait for another.
      while (this.#bandwidth === 0 && this.#queue.length > 0) this.#wakeFirst();
    } finally {
      // What somebody's callback throws must not leave the others asleep.
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

  /** Tokens without which it is not worth to begin. */
  #leastOf(wanted: number): number {
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

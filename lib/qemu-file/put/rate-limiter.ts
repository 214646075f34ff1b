import { RATE_LIMIT_WINDOW_MS } from '../../contract/constants.ts';
import type { BandwidthBudget } from './bandwidth-budget.ts';

/*
 * The budget gate, and the meter of the transport's bandwidth.
 *
 * If the caller runs the windows, as in QEMU, bytes queued since the last reset are compared with the limit
 * of a window, which binds only producers that ask. If the file runs them (`bandwidth` > 0), bytes are sent at
 * the rate of a budget, in slices, and the gate is shut while more than the bytes of one window wait.
 */

/** Milliseconds over which throughput is averaged, at least. */
const SAMPLE_MS = 100;
/** Weight of the newest sample in the measured bandwidth. */
const SAMPLE_WEIGHT = 0.3;

export class RateLimiter {
  readonly #now: () => number;
  /** The limit per second, of this file or of several together. */
  readonly budget: BandwidthBudget;
  #limit = 0;
  #windowStart = 0;
  #waitingSince = -1;
  #waitedMs = 0;

  #busySince = 0;
  #sampleBytes = 0;
  #sampleMs = 0;
  #measured = 0;

  /** @param now - A monotonic clock in milliseconds. */
  constructor(budget: BandwidthBudget, now: () => number = () => performance.now()) {
    this.budget = budget;
    this.#now = now;
  }

  /** Bytes per window; 0 or less means no limit. */
  get limit(): number {
    return this.bandwidth > 0 ? this.budget.window : this.#limit;
  }

  /** Set bytes per window; this changes `bandwidth` if it is set. */
  set limit(bytes: number) {
    if (this.bandwidth > 0) {
      this.setBandwidth(Math.max(0, (bytes * 1000) / RATE_LIMIT_WINDOW_MS), this.#windowStart);
    } else {
      this.#limit = bytes;
    }
  }

  /** Bytes per second at which the file sends; 0 if the caller runs the windows. */
  get bandwidth(): number {
    return this.budget.maxBandwidth;
  }

  /**
   * Change the rate at which the file sends.
   *
   * @param bytesPerSecond - Of all files that share the budget; 0 removes the limit.
   * @param queued - Stream position of the newest queued byte.
   */
  setBandwidth(bytesPerSecond: number, queued: number): void {
    this.budget.maxBandwidth = bytesPerSecond;
    this.#limit = 0;
    this.#windowStart = queued;
  }

  /** Start a new window at a queued position. */
  reset(queued: number): void {
    this.#windowStart = queued;
  }

  /** Do not count `bytes` that were queued; a negative number counts bytes that were never queued. */
  discount(bytes: number): void {
    this.#windowStart += bytes;
  }

  /**
   * Return whether the budget gate is shut.
   *
   * @param queued - Stream position of the newest queued byte.
   * @param pending - Bytes queued and not yet taken by the backend.
   */
  exceeded(queued: number, pending: number): boolean {
    const { window } = this.budget;
    if (window > 0) return pending > window;
    return this.#limit > 0 && queued - this.#windowStart > this.#limit;
  }

  /** Account for the time during which bytes wait for the budget alone. */
  noteWaiting(isWaiting: boolean): void {
    if (isWaiting === this.#waitingSince >= 0) return;
    if (isWaiting) {
      this.#waitingSince = this.#now();
    } else {
      this.#waitedMs += this.#now() - this.#waitingSince;
      this.#waitingSince = -1;
    }
  }

  /** Milliseconds during which bytes waited for the budget alone. */
  get limitedMs(): number {
    return this.#waitedMs + (this.#waitingSince < 0 ? 0 : this.#now() - this.#waitingSince);
  }

  /** Take bytes that the backend is given out of the budget. The transport is busy from now on. */
  spend(bytes: number): void {
    this.budget.spend(bytes);
    this.#busySince = this.#now();
  }

  /** Account for bytes that the backend took. Time during which it had none does not count. */
  taken(bytes: number): void {
    this.#sampleBytes += bytes;
    this.#sampleMs += this.#now() - this.#busySince;
    if (this.#sampleMs >= SAMPLE_MS) {
      const sample = (this.#sampleBytes * 1000) / this.#sampleMs;
      this.#measured += (sample - this.#measured) * (this.#measured === 0 ? 1 : SAMPLE_WEIGHT);
      this.#sampleBytes = 0;
      this.#sampleMs = 0;
    }
  }

  /** Bytes per second that the transport took while bytes waited for it; 0 before the first byte. */
  get measured(): number {
    if (this.#measured > 0) return this.#measured;
    return this.#sampleMs > 0 ? (this.#sampleBytes * 1000) / this.#sampleMs : 0;
  }
}

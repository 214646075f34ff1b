import { RATE_LIMIT_WINDOW_MS } from '../../contract/constants.ts';
import type { BandwidthBudget } from './bandwidth-budget.ts';

/*
 * The budget gate and the meter.
 *
 * Run by the caller, as in QEMU: bytes queued since the last reset are compared with the limit of a
 * window, and nobody is held back but who asks. Run by the file (`bandwidth` > 0): bytes leave at the rate
 * of a budget, in slices, and the gate is shut while more than one window's worth waits.
 */

/** Least time over which throughput is averaged. */
const SAMPLE_MS = 100;
/** Weight of the newest sample in the measured bandwidth. */
const SAMPLE_WEIGHT = 0.3;

export class RateLimiter {
  readonly #now: () => number;
  /** What limits by the second, this file or several together. */
  readonly budget: BandwidthBudget;
  #limit = 0;
  #windowStart = 0;
  #heldSince = -1;
  #heldMs = 0;

  #busySince = 0;
  #sampleBytes = 0;
  #sampleMs = 0;
  #measured = 0;

  /** @param now - A monotonic clock in milliseconds. */
  constructor(budget: BandwidthBudget, now: () => number = () => performance.now()) {
    this.budget = budget;
    this.#now = now;
  }

  /** Bytes per window; 0 or less is no limit. */
  get limit(): number {
    return this.bandwidth > 0 ? this.budget.window : this.#limit;
  }

  /** Sets bytes per window; changes the self-run rate if there is one. */
  set limit(bytes: number) {
    if (this.bandwidth > 0) {
      this.setBandwidth(Math.max(0, (bytes * 1000) / RATE_LIMIT_WINDOW_MS), this.#windowStart);
    } else {
      this.#limit = bytes;
    }
  }

  /** Bytes per second at which the file itself lets bytes leave; 0 where the caller runs the windows. */
  get bandwidth(): number {
    return this.budget.maxBandwidth;
  }

  /**
   * Changes the self-run rate, from now on.
   *
   * @param bytesPerSecond - Of all who share the budget; 0 ends self-running and the limit.
   * @param queued - Stream position of the newest queued byte.
   */
  setBandwidth(bytesPerSecond: number, queued: number): void {
    this.budget.maxBandwidth = bytesPerSecond;
    this.#limit = 0;
    this.#windowStart = queued;
  }

  /** Starts a new window at a queued position. */
  reset(queued: number): void {
    this.#windowStart = queued;
  }

  /** Leaves `bytes` queued ones out of the budget; negative counts bytes that were never queued. */
  discount(bytes: number): void {
    this.#windowStart += bytes;
  }

  /**
   * The budget gate.
   *
   * @param queued - Stream position of the newest queued byte.
   * @param pending - Bytes queued and not yet taken by the backend.
   */
  exceeded(queued: number, pending: number): boolean {
    const { window } = this.budget;
    if (window > 0) return pending > window;
    return this.#limit > 0 && queued - this.#windowStart > this.#limit;
  }

  /** Notes whether bytes wait for the budget alone from now on. */
  held(isHeld: boolean): void {
    if (isHeld === this.#heldSince >= 0) return;
    if (isHeld) {
      this.#heldSince = this.#now();
    } else {
      this.#heldMs += this.#now() - this.#heldSince;
      this.#heldSince = -1;
    }
  }

  /** Milliseconds during which bytes waited for the budget alone. */
  get limitedMs(): number {
    return this.#heldMs + (this.#heldSince < 0 ? 0 : this.#now() - this.#heldSince);
  }

  /** Takes bytes out of the budget as they are handed to the backend: the transport is busy from now on. */
  spend(bytes: number): void {
    this.budget.spend(bytes);
    this.#busySince = this.#now();
  }

  /** Notes that the backend took bytes. Time in which it had none does not count against the transport. */
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

  /** Bytes per second that the transport really took while something waited for it; 0 before the first byte. */
  get measured(): number {
    if (this.#measured > 0) return this.#measured;
    return this.#sampleMs > 0 ? (this.#sampleBytes * 1000) / this.#sampleMs : 0;
  }
}

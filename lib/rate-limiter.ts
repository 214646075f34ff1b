import { RATE_LIMIT_WINDOW_MS } from './constants.ts';

/*
 * The budget gate and the meter.
 *
 * Run by the caller, as in QEMU: bytes queued since the last reset are compared with the limit of a
 * window, and nobody is held back but who asks. Run by the file (`bandwidth` > 0): bytes leave at that
 * rate, in slices, and the gate is shut while more than one window's worth waits.
 */

/**
 * Longest stretch whose unused budget may be caught up: it bounds how far one second can go over, and a
 * timer that is later than this and the slice allow loses budget (bench/limiter.ts).
 */
const BURST_MS = 15;
/** Shortest stretch whose budget is worth a write of its own: waking up is what waiting costs (bench/limiter.ts). */
const SLICE_MS = 10;
/** Least time over which throughput is averaged. */
const SAMPLE_MS = 100;
/** Longest wait that a timer can keep. */
const MAX_WAIT_MS = 2 ** 31 - 1;
/** Weight of the newest sample in the measured bandwidth. */
const SAMPLE_WEIGHT = 0.3;

export class RateLimiter {
  readonly #now: () => number;
  #limit = 0;
  #windowStart = 0;
  #bandwidth = 0;
  #tokens = 0;
  #refilledAt = 0;
  #heldSince = -1;
  #heldMs = 0;

  #busySince = 0;
  #sampleBytes = 0;
  #sampleMs = 0;
  #measured = 0;

  /** @param now - A monotonic clock in milliseconds. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Bytes per window; 0 or less is no limit. */
  get limit(): number {
    return this.#limit;
  }

  /** Sets bytes per window; changes the self-run rate if there is one. */
  set limit(bytes: number) {
    if (this.#bandwidth > 0) {
      this.setBandwidth(Math.max(0, (bytes * 1000) / RATE_LIMIT_WINDOW_MS), this.#windowStart);
    } else {
      this.#limit = bytes;
    }
  }

  /** Bytes per second at which the file itself lets bytes leave; 0 where the caller runs the windows. */
  get bandwidth(): number {
    return this.#bandwidth;
  }

  /**
   * Changes the self-run rate, from now on.
   *
   * @param bytesPerSecond - 0 ends self-running and the limit.
   * @param queued - Stream position of the newest queued byte.
   */
  setBandwidth(bytesPerSecond: number, queued: number): void {
    if (this.#bandwidth === 0) {
      this.#tokens = (bytesPerSecond * BURST_MS) / 1000;
      this.#refilledAt = this.#now();
    } else {
      this.#refill();
    }
    this.#bandwidth = bytesPerSecond;
    this.#tokens = Math.min(this.#tokens, this.#burst);
    this.#limit = Math.ceil((bytesPerSecond * RATE_LIMIT_WINDOW_MS) / 1000);
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
    if (this.#limit <= 0) return false;
    return (this.#bandwidth > 0 ? pending : queued - this.#windowStart) > this.#limit;
  }

  /** Bytes that may leave now: `wanted` if nothing limits, 0 if it is better to wait `waitMs()`. */
  allowance(wanted: number): number {
    if (this.#bandwidth === 0) return wanted;
    this.#refill();
    const least = Math.max(1, Math.min(wanted, (this.#bandwidth * SLICE_MS) / 1000));
    return this.#tokens >= least ? Math.min(wanted, Math.floor(this.#tokens)) : 0;
  }

  /** Milliseconds, at least 1, until `allowance(wanted)` is more than 0 again. */
  waitMs(wanted: number): number {
    const least = Math.max(1, Math.min(wanted, (this.#bandwidth * SLICE_MS) / 1000));
    const ms = Math.ceil(((least - this.#tokens) * 1000) / this.#bandwidth);
    return Math.min(Math.max(1, ms), MAX_WAIT_MS);
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
    if (this.#bandwidth > 0) this.#tokens -= bytes;
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

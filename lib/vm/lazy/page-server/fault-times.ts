/** Steps of a doubling: a step is 4.4 %. */
const STEPS = 16;
/** Times from 1 microsecond to 2^32 microseconds, which is an hour. */
const BUCKETS = 32 * STEPS;

/** Collects times in constant memory. Quantiles are exact to 5 %. */
export class FaultTimes {
  readonly #buckets = new Float64Array(BUCKETS);
  #count = 0;
  #maxMs = 0;

  /** @param ms - Milliseconds. */
  add(ms: number): void {
    const step = Math.ceil(Math.log2(Math.max(ms * 1000, 1)) * STEPS);
    const bucket = Math.min(step, BUCKETS - 1);
    this.#buckets[bucket] = (this.#buckets[bucket] as number) + 1;
    this.#count += 1;
    if (ms > this.#maxMs) this.#maxMs = ms;
  }

  /** The median, the 99th percentile and the greatest time in milliseconds; zeros without any time. */
  get quantiles(): { p50: number; p99: number; max: number } {
    return { p50: this.#quantile(0.5), p99: this.#quantile(0.99), max: this.#maxMs };
  }

  #quantile(fraction: number): number {
    let left = Math.ceil(this.#count * fraction);
    if (left === 0) return 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      left -= this.#buckets[bucket] as number;
      if (left <= 0) return Math.min(2 ** (bucket / STEPS) / 1000, this.#maxMs);
    }
    return this.#maxMs;
  }
}

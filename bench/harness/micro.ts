import { measure } from 'mitata';
import type { Contender, Mode } from './row.ts';

/** Operations per measured call: enough for mitata to time each call by itself. */
export const OPS = 100_000;

/**
 * Return a contender whose value is nanoseconds per operation, measured by mitata.
 *
 * @param name - Name of the contender.
 * @param body - Performs `OPS` operations.
 * @param mode - How thoroughly to measure.
 */
export function nanosecondsPerOp(name: string, body: () => unknown, mode: Mode): Contender {
  const time = (mode.quick ? 3 : 100) * 1e6;
  return {
    name,
    run: async () => {
      const stats = await measure(body, { min_cpu_time: time, min_samples: 5, warmup_samples: 3 });
      return stats.p50 / OPS;
    },
  };
}

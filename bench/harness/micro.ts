import { measure } from 'mitata';
import type { Contender, Mode } from './row.ts';

/** Operations per call of what is measured: so many that mitata times each call on its own. */
export const OPS = 100_000;

/**
 * A contender that reports nanoseconds per operation, as mitata finds them.
 *
 * @param name - Its name.
 * @param body - Does `OPS` operations.
 * @param mode - How long to look.
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

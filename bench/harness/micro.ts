import { measure } from 'mitata';
import type { Contender, Figure, Mode } from './row.ts';

/**
 * Operations per measured call: enough for mitata to time each call by itself. A bench has a constant of its own: one that
 * is imported is loaded in each round of a loop, which takes as long as storing a byte.
 */
export const OPS_PER_CALL = 100_000;

/**
 * Return the figure of QEMU 7.2's migration/qemu-file.c for one operation, compiled with gcc -O2 and measured once beside
 * qemu-file on a machine of the same kind, for the table.
 */
export function ofC(nanoseconds: number): Figure[] {
  return [{ name: 'C, recorded', value: nanoseconds }];
}

/** Rounds of micro rows: the median of three does not change with one noisy moment. */
export function microRounds({ quick }: Mode): number {
  return quick ? 3 : 5;
}

/**
 * Return a contender whose value is nanoseconds per operation, measured by mitata.
 *
 * @param name - Name of the contender.
 * @param body - Performs `OPS_PER_CALL` operations.
 * @param mode - How thoroughly to measure.
 */
export function nanosecondsPerOp(name: string, body: () => unknown, mode: Mode): Contender {
  const time = (mode.quick ? 20 : 100) * 1e6;
  return {
    name,
    run: async () => {
      const stats = await measure(body, { min_cpu_time: time, min_samples: 5, warmup_samples: 10 });
      return stats.p50 / OPS_PER_CALL;
    },
  };
}

// Comparison of rows with those of an earlier run.
import type { Row } from './row.ts';

/** Units of which less is better; of all others, more is. */
const LESS_IS_BETTER = /^(ns|ms|s|s\/GB|%|MiB|bytes|functions|.* per GiB)$/;

/** Change below which a row counts as unchanged, however small its spread is. */
const MIN_NOISE = 0.05;

/** A row that became slower. */
export interface Slower {
  name: string;
  /** How many times as slow, or as large, as before: above 1. */
  factor: number;
}

/**
 * Return the rows that became slower than in an earlier run.
 *
 * Ratios to the floor are compared where both runs have them, because they do not depend on the machine;
 * rows without a floor are compared by their values.
 *
 * @param tolerance - Greatest allowed factor; without it, the spread of both rows.
 */
export function slowerRows(
  before: readonly Row[],
  now: readonly Row[],
  tolerance?: number,
): Slower[] {
  const earlier = new Map(before.map((row) => [row.name, row]));
  return now.flatMap((row) => {
    const then = earlier.get(row.name);
    if (then === undefined) return [];
    const hasRatio = row.ratio !== null && then.ratio !== null;
    // A value without a floor says nothing about another machine.
    if (!hasRatio && tolerance !== undefined) return [];
    const [a, b] = hasRatio ? [then.ratio, row.ratio] : [then.value, row.value];
    if (!a || !b) return [];
    const factor = LESS_IS_BETTER.test(row.unit) ? b / a : a / b;
    const limit = tolerance ?? 1 + Math.max(MIN_NOISE, 2 * (row.spread + then.spread));
    return factor > limit ? [{ name: row.name, factor }] : [];
  });
}

/** Value of one contender; null where its program is missing. */
export interface Figure {
  name: string;
  value: number | null;
}

/** One line of the table. */
export interface Row {
  name: string;
  /** Median of our rounds. */
  value: number;
  unit: string;
  /** Medians of the floor and the peers, measured in the same rounds. */
  against: Figure[];
  /** Ours divided by the first of `against`: the median of the ratios of the rounds. */
  ratio: number | null;
  /** Half the interquartile range of our rounds, as a fraction of the median. */
  spread: number;
  /** The demand, in words; empty where the row only informs. */
  mustReach: string;
  /** Whether the demand is met; null where a contender is missing or nothing is demanded. */
  ok: boolean | null;
}

/** How thoroughly to measure. */
export interface Mode {
  /** All benches within a minute: enough to see that they work. */
  quick: boolean;
}

/** A bench file's default export. */
export interface Bench {
  /** The question that the file answers, in one line. */
  question: string;
  /** Yield rows as soon as they are measured. */
  run(mode: Mode): AsyncIterable<Row>;
}

/** A participant of each round. */
export interface Contender {
  name: string;
  /** Measure once; null means that the contender cannot run on this machine. */
  run: () => Promise<number | null>;
}

/** Values of all rounds by contender; null for one that cannot run on this machine. */
export type Rounds = Map<string, number[] | null>;

export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

function quantile(values: readonly number[], fraction: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * fraction;
  const low = sorted[Math.floor(at)] as number;
  const high = sorted[Math.ceil(at)] as number;
  return low + (high - low) * (at - Math.floor(at));
}

function spreadOf(values: readonly number[]): number {
  return (quantile(values, 0.75) - quantile(values, 0.25)) / 2 / Math.abs(median(values) || 1);
}

/** Run all contenders in turn, round after round, so that noise affects all of them equally. */
export async function alternate(contenders: readonly Contender[], rounds: number): Promise<Rounds> {
  const results: Rounds = new Map(contenders.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const { name, run } of contenders) {
      const values = results.get(name);
      if (values === null || values === undefined) continue;
      const value = await run();
      if (value === null) results.set(name, null);
      else values.push(value);
    }
  }
  return results;
}

/** Return the median of a contender; null if it is missing. */
export function figure(rounds: Rounds, name: string): number | null {
  const values = rounds.get(name);
  return values ? median(values) : null;
}

/** Return the median of the ratios of two contenders per round; null if one is missing. */
export function ratio(rounds: Rounds, name: string, to: string): number | null {
  const values = rounds.get(name);
  const others = rounds.get(to);
  if (!values || !others) return null;
  return median(values.map((value, round) => value / (others[round] as number)));
}

/** How to make a row from rounds. */
export interface RowOf {
  name: string;
  unit: string;
  /** Name of our contender. */
  ours: string;
  /** Names of the others; the first one is the base of `ratio`. */
  against: readonly string[];
  /** Figures of programs that do not run here, for the table only. */
  recorded?: readonly Figure[];
  mustReach?: string;
  /** Return whether the demand is met; null where that is unknown. */
  reached?(value: number): boolean | null;
}

/** Return a row made from rounds. */
export function rowOf(rounds: Rounds, row: RowOf): Row {
  const values = rounds.get(row.ours) ?? [];
  const value = median(values);
  const first = row.against[0];
  return {
    name: row.name,
    value,
    unit: row.unit,
    against: [
      ...row.against.map((name) => ({ name, value: figure(rounds, name) })),
      ...(row.recorded ?? []),
    ],
    ratio: first === undefined ? null : ratio(rounds, row.ours, first),
    spread: spreadOf(values),
    mustReach: row.mustReach ?? '',
    ok: row.reached?.(value) ?? null,
  };
}

/** Combine demands: false if one fails, else null if one is unknown, else true. */
export function allOf(...demands: (boolean | null)[]): boolean | null {
  if (demands.includes(false)) return false;
  return demands.includes(null) ? null : true;
}

/** Return whether a ratio is at least `least`; null for a missing ratio. */
export function atLeast(value: number | null, least: number): boolean | null {
  return value === null ? null : value >= least;
}

/** Return whether a ratio is at most `most`; null for a missing ratio. */
export function atMost(value: number | null, most: number): boolean | null {
  return value === null ? null : value <= most;
}

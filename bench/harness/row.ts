/** What was measured for one contender; null where its program is missing. */
export interface Figure {
  name: string;
  value: number | null;
}

/** One line of the table. */
export interface Row {
  name: string;
  /** Ours: the median of all rounds. */
  value: number;
  unit: string;
  /** The floor and the peers, measured in the same rounds. */
  against: Figure[];
  /** Ours to the first of `against`: the median of the rounds' ratios. */
  ratio: number | null;
  /** Half the distance between the quartiles of our rounds, as a fraction of the median. */
  spread: number;
  /** What is demanded, in words; empty where the row only informs. */
  mustReach: string;
  /** Whether it is reached; null where a contender is missing or nothing is demanded. */
  ok: boolean | null;
}

/** How thoroughly to measure. */
export interface Mode {
  /** All benches together within a minute: enough to see that they work. */
  quick: boolean;
}

/** A bench file's default export. */
export interface Bench {
  /** The question that the file answers, in one line. */
  question: string;
  /** Gives rows as they are known. */
  run(mode: Mode): AsyncIterable<Row>;
}

/** Somebody who takes part in each round. */
export interface Contender {
  name: string;
  /** Measures once. Null: it cannot be run here. */
  run: () => Promise<number | null>;
}

/** What all rounds gave: per contender one value a round; null for one that cannot be run here. */
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

/** Lets all contenders run in turn, round after round, so that a noisy moment hits all alike. */
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

/** The median of a contender; null if it is missing. */
export function figure(rounds: Rounds, name: string): number | null {
  const values = rounds.get(name);
  return values ? median(values) : null;
}

/** The median of the rounds' ratios of two contenders; null if one is missing. */
export function ratio(rounds: Rounds, name: string, to: string): number | null {
  const values = rounds.get(name);
  const others = rounds.get(to);
  if (!values || !others) return null;
  return median(values.map((value, round) => value / (others[round] as number)));
}

/** What makes a row of the rounds. */
export interface RowOf {
  name: string;
  unit: string;
  /** The contender that is ours. */
  ours: string;
  /** The others, the one that counts for `ratio` first. */
  against: readonly string[];
  mustReach?: string;
  /** Says whether it is reached; null where that cannot be told. */
  reached?(value: number): boolean | null;
}

/** Makes a row of what the rounds gave. */
export function rowOf(rounds: Rounds, row: RowOf): Row {
  const values = rounds.get(row.ours) ?? [];
  const value = median(values);
  const first = row.against[0];
  return {
    name: row.name,
    value,
    unit: row.unit,
    against: row.against.map((name) => ({ name, value: figure(rounds, name) })),
    ratio: first === undefined ? null : ratio(rounds, row.ours, first),
    spread: spreadOf(values),
    mustReach: row.mustReach ?? '',
    ok: row.reached?.(value) ?? null,
  };
}

/** All of the demands, where each may be untellable: null if one is, and none fails. */
export function allOf(...demands: (boolean | null)[]): boolean | null {
  if (demands.includes(false)) return false;
  return demands.includes(null) ? null : true;
}

/** Whether a ratio is at least so much; null for a missing one. */
export function atLeast(value: number | null, least: number): boolean | null {
  return value === null ? null : value >= least;
}

/** Whether a ratio is at most so much; null for a missing one. */
export function atMost(value: number | null, most: number): boolean | null {
  return value === null ? null : value <= most;
}

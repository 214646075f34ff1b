/** A repeatable source of random numbers from 0 up to, not including, 1. */
export type Chance = () => number;

/** Return a source of random numbers for a 32-bit seed. */
export function chanceOf(seed: number): Chance {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 0x1_0000_0000;
  };
}

/** Return an integer from 0 up to, not including, `end`. */
export function below(end: number, chance: Chance): number {
  return Math.floor(chance() * end);
}

/** Return an element of a list. */
export function oneOf<T>(list: readonly T[], chance: Chance): T {
  return list[below(list.length, chance)] as T;
}

/** Values at which readers of integers tend to fail. */
const EDGES: readonly bigint[] = [
  0n,
  1n,
  2n,
  0x10n,
  0x22n,
  0x28n,
  0x7en,
  0x7fn,
  0x80n,
  0xffn,
  0x100n,
  0x1000n,
  0xffffn,
  0x1_0000n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  (1n << 50n) + 4n,
  1n << 53n,
  1n << 63n,
  (1n << 64n) - 1n,
];

type Mutation = (bytes: Buffer, at: number, chance: Chance) => Buffer;

/** Longest run of bytes that is moved. */
const MAX_RUN = 64;

const MUTATIONS: readonly Mutation[] = [
  (bytes, at, chance) => {
    bytes[at] = (bytes[at] as number) ^ (1 << below(8, chance));
    return bytes;
  },
  (bytes, at, chance) => {
    bytes[at] = below(256, chance);
    return bytes;
  },
  (bytes, at, chance) => {
    const value = oneOf(EDGES, chance);
    const size = oneOf([1, 2, 4, 8], chance);
    for (let index = 0; index < size && at + index < bytes.length; index++) {
      bytes[at + index] = Number((value >> BigInt(8 * (size - 1 - index))) & 0xffn);
    }
    return bytes;
  },
  // Remove a run.
  (bytes, at, chance) => {
    const end = at + 1 + below(MAX_RUN, chance);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)]);
  },
  // Insert a piece of the same stream.
  (bytes, at, chance) => {
    const from = below(bytes.length, chance);
    const run = bytes.subarray(from, from + 1 + below(MAX_RUN, chance));
    return Buffer.concat([bytes.subarray(0, at), run, bytes.subarray(at)]);
  },
  // Overwrite with another run.
  (bytes, at, chance) => {
    const from = below(bytes.length, chance);
    bytes.copy(bytes, at, from, Math.min(bytes.length, from + 1 + below(MAX_RUN, chance)));
    return bytes;
  },
  (bytes, at) => bytes.subarray(0, at),
];

/**
 * Return bytes damaged in one to four places.
 *
 * @param places - Offsets where damage is likely to matter; half of the damage is near them.
 */
export function mutate(bytes: Uint8Array, chance: Chance, places: readonly number[] = []): Buffer {
  let mutated: Buffer = Buffer.from(bytes);
  const times = 1 + below(4, chance);
  for (let time = 0; time < times && mutated.length > 0; time++) {
    const near = places.length > 0 && chance() < 0.5;
    const wanted = near ? oneOf(places, chance) + below(16, chance) : Infinity;
    const at = wanted < mutated.length ? wanted : below(mutated.length, chance);
    mutated = oneOf(MUTATIONS, chance)(mutated, at, chance);
  }
  return mutated;
}

/** Cut bytes at up to `most` places. */
export function partAtRandom(bytes: Uint8Array, most: number, chance: Chance): Uint8Array[] {
  const places = Array.from({ length: below(most + 1, chance) }, () =>
    below(bytes.length + 1, chance),
  ).sort((a, b) => a - b);
  return [0, ...places].map((from, index) => bytes.subarray(from, places[index]));
}

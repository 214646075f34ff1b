import xxhash from 'fast-xxhash';

const api = await xxhash();

/** Return XXH64 (seed 0) as 16 hexadecimal digits, independently of the library's code. */
export function xxh64(bytes: Uint8Array): string {
  return api.create64().update(bytes).digest().toString(16).padStart(16, '0');
}

const MASK = (1n << 64n) - 1n;
const PRIME_1 = 0x9e3779b185ebca87n;
const PRIME_2 = 0xc2b2ae3d27d4eb4fn;

/** Return the inverse of an odd number modulo 2^64. */
function inverse(odd: bigint): bigint {
  let result = odd;
  for (let step = 0; step < 6; step++) result = (result * (2n - odd * result)) & MASK;
  return result;
}

/** One step of a lane of XXH64. */
function round(lane: bigint, input: bigint): bigint {
  const sum = (lane + input * PRIME_2) & MASK;
  return ((((sum << 31n) | (sum >> 33n)) & MASK) * PRIME_1) & MASK;
}

/** Return two pages with different bytes and the same XXH64: the second word undoes what the first one changed. */
export function collidingPages(size: number): [Buffer, Buffer] {
  const a = Buffer.alloc(size, 0x5a);
  const b = Buffer.from(a);
  const start = (PRIME_1 + PRIME_2) & MASK;
  b.writeBigUInt64LE(0x1234_5678_9abc_def0n, 0);
  const [laneA, laneB] = [a, b].map((page) => round(start, page.readBigUInt64LE(0))) as [
    bigint,
    bigint,
  ];
  const difference = ((laneA - laneB) * inverse(PRIME_2)) & MASK;
  b.writeBigUInt64LE((a.readBigUInt64LE(32) + difference) & MASK, 32);
  if (xxh64(a) !== xxh64(b)) throw new Error('the pages do not collide');
  return [a, b];
}

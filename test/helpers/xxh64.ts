import xxhash from 'fast-xxhash';

const api = await xxhash();

/** Return XXH64 (seed 0) as 16 hexadecimal digits, independently of the library's code. */
export function xxh64(bytes: Uint8Array): string {
  return api.create64().update(bytes).digest().toString(16).padStart(16, '0');
}

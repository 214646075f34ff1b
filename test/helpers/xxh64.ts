import xxhash from 'fast-xxhash';

const api = await xxhash();

/** XXH64 (seed 0) of bytes as 16 hexadecimal digits, without the library's own code. */
export function xxh64(bytes: Uint8Array): string {
  return api.create64().update(bytes).digest().toString(16).padStart(16, '0');
}

import xxhash, { type XXHash, type XXHashAPI } from 'fast-xxhash';

let api: XXHashAPI | undefined;
let loading: Promise<void> | undefined;

/** Loads the hash's WebAssembly once per process; until then no digest can be made. */
export function loadDigest(): Promise<void> {
  loading ??= xxhash().then((loaded) => {
    api = loaded;
  });
  return loading;
}

/** True once `loadDigest` has done its work. */
export function digestLoaded(): boolean {
  return api !== undefined;
}

/** A running XXH64 (seed 0) over any number of buffers. */
export class Digest {
  readonly #state: XXHash<bigint>;

  /** @throws Error if `loadDigest` has not finished. */
  constructor() {
    if (api === undefined) throw new Error('await loadDigest() before making a Digest');
    this.#state = api.create64();
  }

  /** Adds the bytes of one buffer. */
  update(bytes: Uint8Array): void {
    this.#state.update(bytes);
  }

  /** Gives the digest of all bytes so far as 16 hexadecimal digits, as `xxhsum -H1` prints it. */
  hex(): string {
    return this.#state.digest().toString(16).padStart(16, '0');
  }
}

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

/**
 * Bytes are copied into the memory of the WebAssembly, which grows to what it is given at once and never
 * shrinks; pieces of this size stay in the processor's cache (bench/digest.ts).
 */
const PIECE = 65_536;

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
    if (bytes.length <= PIECE) {
      this.#state.update(bytes);
      return;
    }
    for (let at = 0; at < bytes.length; at += PIECE) {
      this.#state.update(bytes.subarray(at, at + PIECE));
    }
  }

  /** Gives the digest of all bytes so far as 16 hexadecimal digits, as `xxhsum -H1` prints it. */
  hex(): string {
    return this.#state.digest().toString(16).padStart(16, '0');
  }
}

/** XXH64 of no bytes. */
const OF_NOTHING = 'ef46db3751d8e999';

/** The digest of one half of a file, if it shall have one; its first byte waits for the hash to load. */
export class HalfDigest {
  readonly #wanted: boolean;
  #digest: Digest | null = null;

  constructor(wanted: boolean) {
    this.#wanted = wanted;
  }

  /** 16 hexadecimal digits, or null if none is kept. */
  get hex(): string | null {
    return this.#wanted ? (this.#digest?.hex() ?? OF_NOTHING) : null;
  }

  /** True if bytes may flow; if not, one of the two is called once that is known. */
  ready(resume: () => void, fail: (error: unknown) => void): boolean {
    if (!this.#wanted || this.#digest !== null) return true;
    if (api === undefined) {
      loadDigest().then(resume, fail);
      return false;
    }
    this.#digest = new Digest();
    return true;
  }

  /** Adds bytes, if a digest is kept. */
  update(bytes: Uint8Array): void {
    this.#digest?.update(bytes);
  }
}

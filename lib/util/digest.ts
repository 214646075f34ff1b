import xxhash, { type XXHash, type XXHashAPI } from 'fast-xxhash';

let api: XXHashAPI | undefined;
let loading: Promise<void> | undefined;

/** Load the WebAssembly of the hash, once per process. A `Digest` can be made after that. */
export function loadDigest(): Promise<void> {
  loading ??= xxhash().then((loaded) => {
    api = loaded;
  });
  return loading;
}

/**
 * Bytes are copied into the memory of the WebAssembly, which grows to the size of one update and never
 * shrinks. Chunks of this size stay in the processor's cache (bench/digest.ts).
 */
const UPDATE_CHUNK_BYTES = 65_536;

/** Return the XXH64 (seed 0) of a few bytes, such as a page. Requires `loadDigest` to have finished. */
export function xxh64(bytes: Uint8Array): bigint {
  if (api === undefined) throw new Error('await loadDigest() before calling xxh64()');
  return api.h64Raw(bytes);
}

/** A running XXH64 (seed 0) over any number of buffers. */
export class Digest {
  readonly #state: XXHash<bigint>;

  /** @throws Error if `loadDigest` has not finished. */
  constructor() {
    if (api === undefined) throw new Error('await loadDigest() before making a Digest');
    this.#state = api.create64();
  }

  /** Add the bytes of one buffer. */
  update(bytes: Uint8Array): void {
    if (bytes.length <= UPDATE_CHUNK_BYTES) {
      this.#state.update(bytes);
      return;
    }
    for (let at = 0; at < bytes.length; at += UPDATE_CHUNK_BYTES) {
      this.#state.update(bytes.subarray(at, at + UPDATE_CHUNK_BYTES));
    }
  }

  /** Return the digest of all bytes so far as 16 hexadecimal digits, as `xxhsum -H1` prints it. */
  hex(): string {
    return this.#state.digest().toString(16).padStart(16, '0');
  }
}

/** XXH64 of no bytes. */
const EMPTY_DIGEST = 'ef46db3751d8e999';

/** The optional digest of one half of a file. The first byte waits for the hash to load. */
export class HalfDigest {
  /** Whether the digest was asked for. */
  readonly isEnabled: boolean;
  #digest: Digest | null = null;

  constructor(isEnabled: boolean) {
    this.isEnabled = isEnabled;
  }

  /** 16 hexadecimal digits, or null if the digest is not enabled. */
  get hex(): string | null {
    return this.isEnabled ? (this.#digest?.hex() ?? EMPTY_DIGEST) : null;
  }

  /** Return whether bytes may flow; if not, call one of the two once the hash has loaded or failed to. */
  ready(resume: () => void, fail: (error: unknown) => void): boolean {
    if (!this.isEnabled || this.#digest !== null) return true;
    if (api === undefined) {
      loadDigest().then(resume, fail);
      return false;
    }
    this.#digest = new Digest();
    return true;
  }

  /** Add bytes, if the digest is enabled. */
  update(bytes: Uint8Array): void {
    this.#digest?.update(bytes);
  }
}

/** An object in storage. */
export interface StoredObject {
  /** Name of the object: words of `[A-Za-z0-9._-]`, separated by slashes. */
  readonly key: string;
  readonly bytes: number;
  /** Time of the last change by the storage's clock, in milliseconds since 1970. */
  readonly modifiedMs: number;
}

/** Options of an operation on object storage. */
export interface StorageOptions {
  readonly signal?: AbortSignal | undefined;
}

/** Options of `removeLeftovers`. */
export interface LeftoverOptions extends StorageOptions {
  /**
   * The time by the clock of the storage, in milliseconds since 1970: leftovers have their times by it. Default: by the
   * clock of this host.
   */
  readonly nowMs?: number | undefined;
}

/**
 * Storage of whole objects under keys: a directory, or a bucket. An object becomes visible under its key
 * only when all of it is durable. Methods may run at the same time, in this process and on other hosts.
 *
 * All methods reject with a `QemuFileError`: `ENOENT` (no such object, bucket or directory), `EACCES`,
 * `ENOSPC`, `EIO`, `ETIMEDOUT`, `ECANCELED` (aborted).
 */
export interface ObjectStorage {
  /** The storage in messages, such as `/srv/vm` or `s3://bucket/prefix`. */
  readonly name: string;
  /**
   * Write an object, replacing one of the same key.
   *
   * @param parts - Buffers that make up the object, in order; not changed by the caller until the call ends.
   * @param options - `ifAbsent`: reject with `EEXIST` if the key exists already. Two writers of one key: at
   *   most one succeeds where the storage can decide that; `canPutIfAbsent` says so.
   */
  put(
    key: string,
    parts: readonly Uint8Array[],
    options?: StorageOptions & { readonly ifAbsent?: boolean | undefined },
  ): Promise<void>;
  /**
   * Whether `put` with `ifAbsent` is atomic; null while that is unknown. A directory knows after its first `put`, S3
   * storage after the first one with `ifAbsent`.
   */
  readonly canPutIfAbsent: boolean | null;
  /**
   * Read an object whole.
   *
   * @param maxBytes - Largest object to accept; a larger one rejects with `EFBIG` before it is read.
   */
  get(key: string, maxBytes: number, options?: StorageOptions): Promise<Buffer>;
  /**
   * Read exactly `length` bytes from `offset`; rejects with `ENODATA` if the object ends before. The caller owns the
   * buffer, and may hand its memory to a thread.
   */
  getRange(key: string, offset: number, length: number, options?: StorageOptions): Promise<Buffer>;
  /**
   * Do work with a descriptor from which an object can be read at any offset, in this thread or another one. Absent
   * where objects have none.
   *
   * @param work - Receives the descriptor, which may be closed when `work` has settled.
   * @returns The result of `work`.
   */
  withDescriptor?<T>(
    key: string,
    work: (fd: number) => Promise<T>,
    options?: StorageOptions,
  ): Promise<T>;
  /** Return size and time of an object, or null if there is none. */
  stat(key: string, options?: StorageOptions): Promise<StoredObject | null>;
  /** Yield the objects whose keys begin with `prefix`, in any order. Leftovers of writers are not listed. */
  list(prefix: string, options?: StorageOptions): AsyncIterable<StoredObject>;
  /** Remove an object. Removing one that does not exist succeeds. */
  remove(key: string, options?: StorageOptions): Promise<void>;
  /**
   * Remove what interrupted writers left: temporary files, multipart uploads.
   *
   * @param olderThanMs - Age that a leftover must have, in milliseconds.
   * @returns Number of leftovers removed.
   */
  removeLeftovers(olderThanMs: number, options?: LeftoverOptions): Promise<number>;
  close(): Promise<void>;
}

import fs from 'node:fs';

/** Most objects that stay open between reads: a snapshot with many ancestors is read from a pack of each. */
const MAX_OPEN_OBJECTS = 64;

/** Time without a read, in milliseconds, after which all objects are closed. */
const IDLE_MS = 1000;

/**
 * The descriptors of the objects that were read last: a caller that reads an object range by range opens it once.
 *
 * All are closed after a second without a read, because callers may drop storage without a `close`.
 */
export class OpenObjects {
  /** By key; the one that was read last is at the end. */
  readonly #objects = new Map<string, OpenObject>();
  #timer: NodeJS.Timeout | null = null;

  /**
   * Read from an object, which stays open while `work` runs.
   *
   * @param open - Opens the object and returns its descriptor; called if the object is not open.
   * @returns The result of `work`.
   */
  async read<T>(
    key: string,
    open: () => Promise<number>,
    work: (fd: number) => Promise<T>,
  ): Promise<T> {
    const object = this.#objects.get(key) ?? new OpenObject(open);
    object.readers += 1;
    this.#keep(key, object);
    try {
      await object.opened;
      return await work(object.fd);
    } catch (error) {
      // An NFS server may have forgotten the file, and a failed open is tried again.
      if (this.#objects.get(key) === object) this.forget(key);
      throw error;
    } finally {
      object.readers -= 1;
      object.closeUnread();
    }
  }

  /** Open an object anew for the next read. Those that read it now finish. */
  forget(key: string): void {
    const object = this.#objects.get(key);
    if (object === undefined) return;
    this.#objects.delete(key);
    object.isForgotten = true;
    object.closeUnread();
    if (this.#objects.size > 0 || this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Close all objects; those that are read now, after that. */
  close(): void {
    for (const key of [...this.#objects.keys()]) this.forget(key);
  }

  #keep(key: string, object: OpenObject): void {
    this.#objects.delete(key);
    this.#objects.set(key, object);
    if (this.#objects.size > MAX_OPEN_OBJECTS) {
      const [oldest] = this.#objects.keys();
      this.forget(oldest as string);
    }
    if (this.#timer === null) this.#timer = setTimeout(() => this.close(), IDLE_MS).unref();
    else this.#timer.refresh();
  }
}

class OpenObject {
  /** Settles before `readers` becomes 0: each reader waits for it. */
  readonly opened: Promise<void>;
  fd = -1;
  readers = 0;
  isForgotten = false;

  constructor(open: () => Promise<number>) {
    this.opened = open().then((fd) => {
      this.fd = fd;
    });
  }

  /** Close the descriptor if the object was forgotten and is not being read. */
  closeUnread(): void {
    if (!this.isForgotten || this.readers > 0 || this.fd === -1) return;
    try {
      fs.closeSync(this.fd);
    } catch {
      // The file was only read, so no data is lost.
    }
    this.fd = -1;
  }
}

import { syncDirectory } from '../file/partial/partial-file.ts';

/** Makes names in directories durable. Callers that wait at the same time share one fsync(2). */
export class SharedSync {
  /** By directory: the sync that runs, and the one that begins after it. */
  readonly #running = new Map<string, Promise<void>>();
  readonly #next = new Map<string, Promise<void>>();

  /** Make all names durable that are in a directory at the time of the call. */
  sync(directory: string): Promise<void> {
    const running = this.#running.get(directory);
    if (running === undefined) return this.#start(directory);
    // The one that runs may have begun before the caller's name was there.
    let next = this.#next.get(directory);
    if (next === undefined) {
      const start = (): Promise<void> => {
        this.#next.delete(directory);
        return this.#start(directory);
      };
      next = running.then(start, start);
      this.#next.set(directory, next);
    }
    return next;
  }

  #start(directory: string): Promise<void> {
    const sync = syncDirectory(directory).finally(() => {
      if (this.#running.get(directory) === sync) this.#running.delete(directory);
    });
    this.#running.set(directory, sync);
    return sync;
  }
}

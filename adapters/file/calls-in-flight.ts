/**
 * Counts the calls on a descriptor that the thread pool is working on, since a descriptor must not be
 * closed under one: its number could by then belong to something else.
 */
export class CallsInFlight {
  #running = 0;
  #waiting: (() => void)[] = [];

  begin(): void {
    this.#running += 1;
  }

  end(): void {
    this.#running -= 1;
    if (this.#running > 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** True while no call runs. */
  get isIdle(): boolean {
    return this.#running === 0;
  }

  /** Waits until no call runs. */
  idle(): Promise<void> {
    if (this.isIdle) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }
}

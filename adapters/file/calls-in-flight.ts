/**
 * Counts the system calls on a descriptor that are running in the thread pool. A descriptor must not be
 * closed during one, because by the time the call uses its number, the number may mean another file.
 */
export class CallsInFlight {
  #running = 0;
  #waiting: (() => void)[] = [];

  /** Count a call that starts. */
  begin(): void {
    this.#running += 1;
  }

  /** Count a call that has returned. */
  end(): void {
    this.#running -= 1;
    if (this.#running > 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** True while no call is running. */
  get isIdle(): boolean {
    return this.#running === 0;
  }

  /** Wait until no call is running. */
  idle(): Promise<void> {
    if (this.isIdle) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }
}

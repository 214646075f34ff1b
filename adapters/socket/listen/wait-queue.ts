import type { QemuFileError } from '../../../lib/contract/errors.ts';
import { waitFor } from '../../../lib/contract/wait-for.ts';

/** A caller that waits for a value. Either method ends its wait, synchronously. */
export interface Waiter<T> {
  give(value: T): void;
  fail(error: QemuFileError): void;
}

/** Callers of `accept()` that wait for a connection, in the order of their calls. */
export class WaitQueue<T, C = undefined> {
  readonly #waiters = new Map<Waiter<T>, C>();

  /**
   * Wait for a value, after all callers that wait already.
   *
   * @param condition - Describes the values that this caller takes besides the usual ones.
   * @param signal - Ends the wait with `ECANCELED`.
   */
  wait(condition: C, signal: AbortSignal | undefined): Promise<T> {
    return waitFor<T>(
      (give, fail) => {
        const waiter: Waiter<T> = { give, fail };
        this.#waiters.set(waiter, condition);
        return () => this.#waiters.delete(waiter);
      },
      { signal, operation: 'accept' },
    );
  }

  /** Return the caller that has waited longest, of those whose condition `matches` accepts. */
  first(matches: (condition: C) => boolean = () => true): Waiter<T> | undefined {
    for (const [waiter, condition] of this.#waiters) if (matches(condition)) return waiter;
    return undefined;
  }

  failAll(error: QemuFileError): void {
    for (const waiter of this.#waiters.keys()) waiter.fail(error);
  }
}

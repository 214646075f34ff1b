import { noop } from '../util/noop.ts';
import { abortError, QemuFileError } from './errors.ts';

/** Limits of a wait. */
export interface WaitLimits {
  /** Ends the wait with `ECANCELED`. */
  signal?: AbortSignal | undefined;
  /** Milliseconds until the wait ends with `ETIMEDOUT`; 0 means no limit. */
  timeoutMs?: number | undefined;
}

/** Limits of a wait, and what its errors say. */
export interface WaitOptions extends WaitLimits {
  /** Public name of the operation that waits. */
  operation: string;
  /** Returns what did not happen in time, as a clause. */
  timeoutReason?: (() => string) | undefined;
}

/** Longest delay of a Node timer in milliseconds, about 24 days; Node turns longer delays into 1 ms. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;

/**
 * Wait for an event that `start` subscribes to, within limits.
 *
 * @param start - Called once, synchronously, unless the signal is already aborted. It settles the wait
 *   through its arguments and returns a function that unsubscribes. That function runs exactly once, when
 *   the wait has ended for any reason, so nothing stays registered after an abort or a timeout.
 * @param options - The limits, and the operation that errors name.
 * @throws {QemuFileError} (rejects) `ECANCELED` when the signal aborts, `ETIMEDOUT` after `timeoutMs`, or
 *   the error that `start` rejects with.
 */
export function waitFor<T>(
  start: (resolve: (value: T) => void, reject: (error: unknown) => void) => (() => void) | void,
  { signal, timeoutMs = 0, operation, timeoutReason }: WaitOptions,
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    if (signal?.aborted) return reject(abortError(signal, operation));
    let isSettled = false;
    let unsubscribe: (() => void) | void | null = null;
    const settle = (): boolean => {
      if (isSettled) return false;
      isSettled = true;
      clearTimeout(timer);
      stopFollowing();
      unsubscribe?.();
      return true;
    };
    const fail = (error: unknown): void => {
      if (settle()) reject(error);
    };
    const timer =
      timeoutMs > 0
        ? setTimeout(
            () => {
              const reason = timeoutReason?.() ?? `timed out after ${timeoutMs} ms`;
              fail(new QemuFileError('ETIMEDOUT', reason, { operation }));
            },
            Math.min(timeoutMs, MAX_TIMER_MS),
          )
        : undefined;
    const stopFollowing = onAbort(signal, () => fail(abortError(signal as AbortSignal, operation)));
    try {
      unsubscribe = start((value) => {
        if (settle()) resolve(value);
      }, fail);
    } catch (error) {
      fail(error);
    }
    // `start` may settle before it returns its unsubscriber.
    if (isSettled) unsubscribe?.();
  });
}

/**
 * Wait for a promise within limits. Its result is dropped when the wait has ended earlier.
 *
 * @throws {QemuFileError} (rejects) `ECANCELED`, `ETIMEDOUT`, or the error that `promise` rejects with.
 */
export function waitForPromise<T>(promise: Promise<T>, options: WaitOptions): Promise<T> {
  promise.catch(noop);
  return waitFor<T>((resolve, reject) => void promise.then(resolve, reject), options);
}

/**
 * Call `listener` once when a signal aborts.
 *
 * @param signal - Without a signal, nothing happens. The listener of an aborted signal is not called: check
 *   `signal.aborted` first.
 * @returns A function that removes the listener.
 */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal === undefined) return noop;
  signal.addEventListener('abort', listener, { once: true });
  return () => signal.removeEventListener('abort', listener);
}

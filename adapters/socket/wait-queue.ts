import { abortError, type QemuFileError } from '../../lib/contract/errors.ts';

/** Somebody who waits for a connection; what is given or failed waits no longer. */
export interface Waiter<T, W> {
  /** What it must be like. */
  readonly wish: W;
  give(value: T): void;
  fail(error: QemuFileError): void;
}

/**
 * Waits, as the last of those who do.
 *
 * @param waiters - They are in here as long as they wait.
 * @param wish - What is waited for.
 * @param signal - Ends the wait with `ECANCELED`.
 */
export function waitAmong<T, W>(
  waiters: Set<Waiter<T, W>>,
  wish: W,
  signal: AbortSignal | undefined,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => waiter.fail(abortError(signal as AbortSignal, 'accept'));
    const settle = () => {
      waiters.delete(waiter);
      signal?.removeEventListener('abort', onAbort);
    };
    const waiter: Waiter<T, W> = {
      wish,
      give: (value) => {
        settle();
        resolve(value);
      },
      fail: (error) => {
        settle();
        reject(error);
      },
    };
    waiters.add(waiter);
    signal?.addEventListener('abort', onAbort);
  });
}

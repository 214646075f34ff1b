import { abortError, QemuFileError } from '../../contract/errors.ts';
import { noop } from '../../util/noop.ts';

/** How long something is waited for. */
export interface WaitLimits {
  /** Ends the wait with `ECANCELED`. */
  signal?: AbortSignal | undefined;
  /** Milliseconds until `ETIMEDOUT`; 0 is no limit. */
  timeoutMs?: number | undefined;
}

/** Longest that a timer of Node's waits, some 24 days; it takes what is longer for nothing at all. */
export const MAX_MS: number = 2 ** 31 - 1;

/** Who waits, and what for, as errors say it. */
export interface WaitContext {
  operation: string;
  /** Says what did not come, as a clause. */
  tooLate: () => string;
}

/**
 * Waits for a promise, but not for ever; whatever came of the promise afterwards is dropped.
 *
 * @throws {QemuFileError} (rejects) `ECANCELED` by the signal, `ETIMEDOUT`, or what the promise rejects with.
 */
export async function withTimeout<T>(
  work: Promise<T>,
  { signal, timeoutMs = 0 }: WaitLimits,
  { operation, tooLate }: WaitContext,
): Promise<T> {
  work.catch(noop);
  if (signal?.aborted) throw abortError(signal, operation);
  let stop = noop;
  const givenUp = new Promise<never>((_resolve, reject) => {
    const onAbort = (): void => reject(abortError(signal as AbortSignal, operation));
    const onTimeout = (): void => reject(new QemuFileError('ETIMEDOUT', tooLate(), { operation }));
    const timer = timeoutMs > 0 ? setTimeout(onTimeout, Math.min(timeoutMs, MAX_MS)) : undefined;
    signal?.addEventListener('abort', onAbort);
    stop = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
  });
  try {
    return await Promise.race([work, givenUp]);
  } finally {
    stop();
  }
}

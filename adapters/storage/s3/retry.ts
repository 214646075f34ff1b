import { setTimeout as sleep } from 'node:timers/promises';
import { abortError } from '../../../lib/contract/errors.ts';
import { Backoff } from '../../shared/backoff.ts';
import { isTransientError } from './s3-error.ts';

/** First and longest delay between attempts, in milliseconds. */
const FIRST_DELAY_MS = 100;
const LAST_DELAY_MS = 5_000;

/** Limits of the attempts at one request. */
export interface RetryOptions {
  readonly signal?: AbortSignal | undefined;
  readonly operation: string;
  /** At least 1. */
  readonly maxAttempts: number;
}

/**
 * Make a request until it succeeds, fails for good, or has been attempted often enough. Delays between attempts
 * double, and are cut at random so that clients do not come back at the same moment.
 *
 * @param attempt - Makes the request; its number counts from 0.
 * @throws The error of the last attempt; `ECANCELED` (rejects) when the signal aborts.
 */
export async function retry<T>(
  attempt: (number: number) => Promise<T>,
  { signal, operation, maxAttempts }: RetryOptions,
): Promise<T> {
  const backoff = new Backoff(FIRST_DELAY_MS, LAST_DELAY_MS);
  for (let number = 0; ; number += 1) {
    if (signal?.aborted) throw abortError(signal, operation);
    try {
      return await attempt(number);
    } catch (error) {
      if (signal?.aborted) throw abortError(signal, operation);
      if (number + 1 >= maxAttempts || !isTransientError(error)) throw error;
    }
    const delayMs = backoff.next() * (0.5 + Math.random() / 2);
    // Its rejection is answered by the check at the top of the loop.
    await sleep(delayMs, undefined, { signal }).catch(() => undefined);
  }
}

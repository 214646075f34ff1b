import { setTimeout as delay } from 'node:timers/promises';

/** Description and limit of a wait. */
export interface WaitOptions {
  /** Condition, as the error names it: `waited 5000 ms for …`. */
  what: string;
  /** Default 10000. */
  deadlineMs?: number;
  /** Ends the wait with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Poll a condition until it returns something other than `undefined` or `false`. Tests wait in this way only
 * for conditions without an event.
 *
 * @param condition - Returns a value or a promise; an exception ends the wait.
 * @returns The result of the condition.
 */
export async function until<T>(
  condition: () => T | undefined | false | Promise<T | undefined | false>,
  {
    what,
    deadlineMs = 10_000,
    intervalMs = 10,
    signal,
  }: WaitOptions & {
    /** Milliseconds between polls. Default 10. */
    intervalMs?: number;
  },
): Promise<T> {
  const deadline = performance.now() + deadlineMs;
  for (;;) {
    signal?.throwIfAborted();
    const answer = await condition();
    if (answer !== undefined && answer !== false) return answer;
    if (performance.now() > deadline) throw tooLong(what, deadlineMs);
    await delay(intervalMs, undefined, signal === undefined ? {} : { signal });
  }
}

/** Wait for a promise within a limit. */
export async function within<T>(
  work: Promise<T>,
  { what, deadlineMs = 10_000, signal }: WaitOptions,
): Promise<T> {
  let stop = () => {};
  const givenUp = new Promise<never>((_resolve, reject) => {
    const timer = setTimeout(() => reject(tooLong(what, deadlineMs)), deadlineMs);
    const onAbort = () => reject(signal?.reason as Error);
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted === true) onAbort();
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

function tooLong(what: string, deadlineMs: number): Error {
  return new Error(`waited ${deadlineMs} ms for ${what}`);
}

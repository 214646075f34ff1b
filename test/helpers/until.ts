import { setTimeout as delay } from 'node:timers/promises';

/** What is waited for, and how long. */
export interface WaitOptions {
  /** What is waited for, as it shall stand in the error: `waited 5000 ms for …`. */
  what: string;
  /** Default 10000. */
  deadlineMs?: number;
  /** Ends the wait with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Looks at a condition again and again until it gives something other than `undefined` or `false`;
 * the only way in which these tests wait for what does not announce itself.
 *
 * @param condition - May answer at once or with a promise; what it throws ends the wait.
 * @returns What the condition gave.
 */
export async function until<T>(
  condition: () => T | undefined | false | Promise<T | undefined | false>,
  {
    what,
    deadlineMs = 10_000,
    intervalMs = 10,
    signal,
  }: WaitOptions & {
    /** Time between two looks. Default 10. */
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

/** Waits for a promise, but not for ever. */
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

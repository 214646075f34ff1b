import { setTimeout as delay } from 'node:timers/promises';

/** Time after which a wait fails: long, because a machine that runs other tests as well may be slow. */
const DEADLINE_MS = 120_000;

/** Description and limit of a wait. */
export interface WaitOptions {
  /** Condition, as the error names it: `waited 120000 ms for …`. */
  what: string;
  /** Default 120000. */
  deadlineMs?: number | undefined;
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
    deadlineMs = DEADLINE_MS,
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
  { what, deadlineMs = DEADLINE_MS, signal }: WaitOptions,
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

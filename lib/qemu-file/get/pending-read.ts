import { abortError } from '../../contract/errors.ts';

/** A number of bytes that somebody waits for. */
export interface ReadRequest<T> {
  /** Bytes that must be there, at most `maxLookAhead`. */
  size: number;
  /** Public name of the method, for messages. */
  operation: string;
  /** Consumes what it wants once they are there, and gives what the wait resolves with. */
  take(): T;
  /** May use up what is there first and say how many bytes are wanted then; 0 lets `take` run. */
  more?(): number;
  /** Whether the end of the stream is as good as the bytes. */
  orEnd?: boolean;
}

/** Who waits for a wish. */
export interface PendingRead {
  readonly wish: ReadRequest<unknown>;
  /** Bytes that must be there now. */
  size: number;
  /** Ends the wait: with an error, or by taking the bytes. */
  done(error: Error | null): void;
}

/**
 * Makes the waiter of a wish.
 *
 * @param resolve - Gets what `wish.take` gave.
 * @param reject - Gets the error, or what `wish.take` threw.
 * @param signal - Ends the wait.
 * @param abandon - Told of the waiter that its signal ended.
 */
export function pendingRead<T>(
  wish: ReadRequest<T>,
  resolve: (value: T) => void,
  reject: (error: unknown) => void,
  signal: AbortSignal | undefined,
  abandon: (waiter: PendingRead) => void,
): PendingRead {
  const waiter: PendingRead = {
    wish,
    size: wish.size,
    done(error) {
      signal?.removeEventListener('abort', onAbort);
      if (error !== null) return reject(error);
      try {
        resolve(wish.take());
      } catch (failure) {
        reject(failure);
      }
    },
  };
  const onAbort = (): void => {
    waiter.done(abortError(signal as AbortSignal, wish.operation));
    abandon(waiter);
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  return waiter;
}

import { abortError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';

/** A request to wait for bytes. */
export interface ReadRequest<T> {
  /** Bytes that must be available, at most `maxLookAhead`. */
  size: number;
  /** Public name of the method, for messages. */
  operation: string;
  /** Consume the bytes once they are available, and return the result of the wait. */
  take(): T;
  /** Consume what is available and return how many bytes are needed next; 0 lets `take` run. */
  refill?(): number;
  /** Whether the end of the stream also completes the request. */
  acceptsEnd?: boolean;
}

/** A request that waits in the queue of the get half. */
export interface PendingRead {
  readonly request: ReadRequest<unknown>;
  /** Bytes that must be available now. */
  size: number;
  /** End the wait: with an error, or by taking the bytes. */
  done(error: Error | null): void;
}

/**
 * Make the queue entry of a request.
 *
 * @param resolve - Receives the result of `request.take`.
 * @param reject - Receives the error, or what `request.take` threw.
 * @param signal - Ends the wait with `ECANCELED`.
 * @param onAborted - Called after the signal ended the wait, with the entry to remove.
 */
export function pendingRead<T>(
  request: ReadRequest<T>,
  resolve: (value: T) => void,
  reject: (error: unknown) => void,
  signal: AbortSignal | undefined,
  onAborted: (read: PendingRead) => void,
): PendingRead {
  const stopFollowing = onAbort(signal, () => {
    read.done(abortError(signal as AbortSignal, request.operation));
    onAborted(read);
  });
  const read: PendingRead = {
    request,
    size: request.size,
    done(error) {
      stopFollowing();
      if (error !== null) return reject(error);
      try {
        resolve(request.take());
      } catch (failure) {
        reject(failure);
      }
    },
  };
  return read;
}

import { abortError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import { Fifo } from '../../util/fifo.ts';

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

/** A request in the queue. */
interface PendingRead {
  readonly request: ReadRequest<unknown>;
  /** Bytes that must be available now. */
  size: number;
  /** End the wait: with an error, or by taking the bytes. */
  done(error: Error | null): void;
}

/** The result of serving a consumer: it got bytes, needs more of them, or nothing waits. */
export type Served = 'served' | 'needsBytes' | 'idle';

/** The read requests that wait for bytes, in order. */
export class ReadQueue {
  readonly #reads: Fifo<PendingRead> = new Fifo();

  get isEmpty(): boolean {
    return this.#reads.length === 0;
  }

  /**
   * Queue a request.
   *
   * @param signal - Ends the wait with `ECANCELED`.
   * @param onAborted - Called after the signal removed the request: later ones may be served.
   */
  add<T>(
    request: ReadRequest<T>,
    signal: AbortSignal | undefined,
    onAborted: () => void,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (signal?.aborted === true) return reject(abortError(signal, request.operation));
      const stopFollowing = onAbort(signal, () => {
        read.done(abortError(signal as AbortSignal, request.operation));
        this.#reads.remove(read);
        onAborted();
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
      this.#reads.push(read);
    });
  }

  /**
   * Serve the first request.
   *
   * @param available - Bytes that are available.
   * @param hasEnded - Whether no more will come.
   * @param onShortage - Called if the stream ended before the bytes that a request needs; fails the queue.
   */
  serveFirst(
    available: number,
    hasEnded: boolean,
    onShortage: (size: number, operation: string) => void,
  ): Served {
    const read = this.#reads.first as PendingRead;
    const { request } = read;
    let failure: Error | null = null;
    if (available >= read.size) {
      try {
        read.size = request.refill?.() ?? 0;
      } catch (error) {
        failure = error as Error;
      }
      if (failure === null && read.size > 0) return 'served';
    } else if (!hasEnded) {
      return 'needsBytes';
    } else if (request.acceptsEnd !== true) {
      onShortage(read.size, request.operation);
      return 'served';
    }
    this.#reads.shift();
    read.done(failure);
    return 'served';
  }

  /** Fail all requests. */
  fail(error: Error): void {
    for (const read of this.#reads.takeAll()) read.done(error);
  }
}

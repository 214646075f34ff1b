import { backendError } from '../../contract/backend-result.ts';
import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../contract/ops.ts';
import { HalfDigest } from '../../util/digest.ts';
import type { LookAhead } from './look-ahead.ts';

/*
 * The fetcher: asks the backend for bytes, one `getBuffer` at a time, and puts them into the look-ahead.
 *
 *             ┌──(EAGAIN)──► retrying ──(timer)──┐
 *             │                                  ▼
 *   idle ──► asking ───────────────────────────► idle          any ──(an error)──► failed
 *    ▲         └──(no bytes)──► ended
 *    └──────────────────────────── seeking ◄──(setOffset)── idle, retrying, ended, asking once answered
 */

type FetcherState = 'idle' | 'asking' | 'retrying' | 'seeking' | 'ended' | 'failed';

/** The owner of the fetcher. */
export interface FetcherHost {
  /** The fetcher can be asked again, or has new bytes: serve the readers that wait. */
  fetched(): void;
  /** Latch a failure. */
  failed(error: QemuFileError): void;
}

/** Delay before asking a backend again that answered EAGAIN although it should have waited. */
const RETRY_MS = 5;

export class Fetcher {
  readonly #ops: QemuFileOps;
  readonly #lookAhead: LookAhead;
  readonly #digest: HalfDigest;
  readonly #host: FetcherHost;
  #state: FetcherState = 'idle';
  #position = 0;
  #space: Uint8Array = new Uint8Array(0);
  #retryTimer: NodeJS.Timeout | null = null;
  /** Number of seeks that have begun and not ended. */
  #seeks = 0;
  /** Seeks that wait for the answer in flight. */
  readonly #seekWaiters: (() => void)[] = [];

  constructor(ops: QemuFileOps, lookAhead: LookAhead, hasDigest: boolean, host: FetcherHost) {
    this.#ops = ops;
    this.#lookAhead = lookAhead;
    this.#digest = new HalfDigest(hasDigest);
    this.#host = host;
  }

  /** Bytes fetched, look-ahead included. @see QEMU `QEMUFile.pos` of a reader */
  get position(): number {
    return this.#position;
  }

  /** Whether the backend reported the end of the stream. */
  get hasEnded(): boolean {
    return this.#state === 'ended';
  }

  /** Whether the backend is filling a buffer of the look-ahead. */
  get isAsking(): boolean {
    return this.#state === 'asking';
  }

  /** Running XXH64 of the bytes fetched, as 16 hexadecimal digits; null without the option. */
  get digest(): string | null {
    return this.#digest.hex;
  }

  /** Ask the backend for bytes; return whether it answered at once, with bytes or the end. */
  ask(): boolean {
    if (this.#state !== 'idle') return false;
    if (!this.#digest.ready(this.#onReady, this.#onDigestFailed)) return false;
    this.#space = this.#lookAhead.space();
    this.#state = 'asking';
    let answer: MaybePromise<number | Uint8Array>;
    try {
      answer = (this.#ops.getBuffer as NonNullable<QemuFileOps['getBuffer']>)(
        this.#space,
        this.#position,
      );
    } catch (error) {
      this.#onFailed(error);
      return false;
    }
    if (typeof answer !== 'object' || answer === null || answer instanceof Uint8Array) {
      // The backend may have destroyed the file.
      if (this.#isStopped) return false;
      this.#state = 'idle';
      return this.#accept(answer);
    }
    Promise.resolve(answer).then(this.#onAnswer, this.#onFailed);
    return false;
  }

  /** Wait for the answer in flight, and leave the backend alone until `endSeek()`. */
  async beginSeek(): Promise<void> {
    this.#seeks += 1;
    if (this.#state === 'asking') {
      await new Promise<void>((resolve) => this.#seekWaiters.push(resolve));
    } else if (!this.#isStopped) {
      this.#clearRetry();
      this.#state = 'seeking';
    }
  }

  /**
   * Let the backend be asked again once all seeks have ended.
   *
   * @param droppedBytes - Bytes of the look-ahead that the caller dropped.
   */
  endSeek(droppedBytes: number): void {
    this.#seeks -= 1;
    this.#position -= droppedBytes;
    if (this.#state === 'seeking' && this.#seeks === 0) this.#state = 'idle';
  }

  /** Stop for good. */
  stop(): void {
    this.#state = 'failed';
    this.#clearRetry();
    this.#wakeSeeks();
  }

  get #isStopped(): boolean {
    return this.#state === 'failed';
  }

  readonly #onReady = (): void => this.#host.fetched();

  readonly #onDigestFailed = (error: unknown): void => {
    this.#host.failed(toQemuFileError(error, { operation: 'loadDigest' }));
  };

  readonly #onAnswer = (answer: number | Uint8Array): void => {
    if (this.#isStopped) return;
    this.#state = 'idle';
    this.#accept(answer);
    this.#startSeeks();
    this.#host.fetched();
  };

  readonly #onFailed = (error: unknown): void => {
    if (this.#isStopped) return;
    this.#state = 'idle';
    const cause = error ?? new Error('the backend failed without a reason');
    this.#fail(toQemuFileError(cause, this.#context()));
    this.#startSeeks();
  };

  /** Take in the backend's answer; return whether it was bytes or the end. */
  #accept(answer: number | Uint8Array): boolean {
    const bytes = this.#bytesOf(answer);
    if (bytes === null) return false;
    if (bytes.length === 0) {
      this.#state = 'ended';
      return true;
    }
    this.#digest.update(bytes);
    if (typeof answer === 'number') this.#lookAhead.filled(answer);
    else this.#lookAhead.append(answer);
    this.#position += bytes.length;
    return true;
  }

  /** Return the bytes of an answer; null if it was an error or not valid. */
  #bytesOf(answer: number | Uint8Array): Uint8Array | null {
    if (answer instanceof Uint8Array) return answer;
    const max = this.#space.length;
    if (Number.isInteger(answer) && answer >= 0 && answer <= max) {
      return this.#space.subarray(0, answer);
    }
    this.#fail(backendError(answer, `when given room for ${max} bytes`, this.#context()));
    return null;
  }

  #fail(error: QemuFileError): void {
    if (error.code === 'EAGAIN') this.#retryLater();
    else this.#host.failed(error);
  }

  #retryLater(): void {
    this.#state = 'retrying';
    this.#retryTimer = setTimeout(() => {
      this.#state = 'idle';
      this.#host.fetched();
    }, RETRY_MS);
  }

  #clearRetry(): void {
    if (this.#retryTimer !== null) clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
  }

  /** Start the seeks that waited for the backend's answer. */
  #startSeeks(): void {
    if (this.#seeks === 0) return;
    if (!this.#isStopped) {
      this.#clearRetry();
      this.#state = 'seeking';
    }
    this.#wakeSeeks();
  }

  #wakeSeeks(): void {
    for (const wake of this.#seekWaiters.splice(0)) wake();
  }

  #context(): { operation: string; position: number } {
    return { operation: 'getBuffer', position: this.#position };
  }
}

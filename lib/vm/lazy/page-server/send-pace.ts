import { noop } from '../../../util/noop.ts';
import type { PageReason } from './page-server-types.ts';

/** Milliseconds without a request after which the background takes all that the transport takes. */
const CALM_MS = 100;

/** Options of `SendPace`, as those of a page server. */
export interface SendPaceOptions {
  quietMs: number;
  recordMs: number;
  maxBandwidth: number | undefined;
}

/** Decides when pages without a request may be sent. */
export class SendPace {
  readonly #options: SendPaceOptions;
  #lastRequestMs = Number.NEGATIVE_INFINITY;
  #recordUntilMs = Number.NEGATIVE_INFINITY;
  /** Until when earlier bytes use up the bandwidth. */
  #spentUntilMs = 0;
  #isStopped = false;
  #wake: () => void = noop;

  constructor(options: SendPaceOptions) {
    this.#options = options;
  }

  /** Whether requests are being recorded. */
  get isRecording(): boolean {
    return this.#lastRequestMs <= this.#recordUntilMs;
  }

  start(): void {
    const { recordMs } = this.#options;
    if (recordMs > 0) this.#recordUntilMs = performance.now() + recordMs;
  }

  /** End all waits, now and later. */
  stop(): void {
    this.#isStopped = true;
    this.#wake();
  }

  /** Whether the last request is so long ago that the next one may wait a little. */
  get isCalm(): boolean {
    return performance.now() - this.#lastRequestMs > CALM_MS;
  }

  /** Note that a request came. */
  noteRequest(nowMs: number): void {
    this.#lastRequestMs = nowMs;
  }

  /** Account for bytes sent without a request. */
  charge(bytes: number): void {
    const { maxBandwidth } = this.#options;
    if (maxBandwidth === undefined) return;
    const fromMs = Math.max(this.#spentUntilMs, performance.now());
    this.#spentUntilMs = fromMs + (bytes / maxBandwidth) * 1000;
  }

  /**
   * Wait until a batch may be sent: not faster than the bandwidth and, in the background, not while requests are
   * recorded or answered, nor right after one.
   *
   * @param isAnswering - Returns whether a request is being answered.
   */
  async wait(reason: PageReason, isAnswering: () => boolean): Promise<void> {
    const { quietMs } = this.#options;
    while (!this.#isStopped) {
      const nowMs = performance.now();
      let untilMs = this.#spentUntilMs;
      if (reason === 'background') {
        untilMs = Math.max(untilMs, this.#recordUntilMs, this.#lastRequestMs + quietMs);
        if (isAnswering()) untilMs = Math.max(untilMs, nowMs + quietMs);
      }
      if (untilMs <= nowMs) return;
      await this.#sleep(untilMs - nowMs);
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, Math.ceil(ms));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

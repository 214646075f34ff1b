import type { SingleBar } from 'cli-progress';
import { showSize } from './sizes.ts';

const FRAMES_PER_SECOND = 5;
const BAR_WIDTH = 20;
/** Weight of the newest sample in the rate. */
const SAMPLE_WEIGHT = 0.2;
/** Share of the time between two frames from which on the line says `limited`. */
const MIN_LIMITED_SHARE = 0.1;

/** Contents of the progress line. */
export interface Progress {
  bytes: number;
  /** Bytes in total, where known. */
  total?: number | undefined;
  bytesPerSecond: number;
  /** Whether the rate limit holds bytes back. */
  isLimited: boolean;
}

/** Format the progress line: bytes, rate, whether the limit acts, and the time left where the size is known. */
export function showProgress({ bytes, total, bytesPerSecond, isLimited }: Progress): string {
  const parts = [showSize(bytes), `${showSize(Math.round(bytesPerSecond))}/s`];
  if (isLimited) parts.push('limited');
  if (total !== undefined && total > 0) {
    const share = Math.min(1, bytes / total);
    const done = Math.floor(share * BAR_WIDTH);
    parts.unshift(`[${'='.repeat(done)}${'-'.repeat(BAR_WIDTH - done)}]`);
    parts.push(`${Math.floor(share * 100)} %`);
    if (bytesPerSecond > 0 && bytes < total) {
      parts.push(`ETA ${showTime((total - bytes) / bytesPerSecond)}`);
    }
  }
  return parts.join('  ');
}

function showTime(seconds: number): string {
  const whole = Math.ceil(seconds);
  const minutes = Math.floor(whole / 60) % 60;
  const clock = `${minutes}:${String(whole % 60).padStart(2, '0')}`;
  return whole < 3600 ? clock : `${Math.floor(whole / 3600)}:${clock.padStart(5, '0')}`;
}

/** How far a command has come. */
export interface Measure {
  bytes: number;
  /** Bytes in total, where they are not known from the start. */
  total?: number;
  /** Milliseconds that bytes have waited for the rate limit. */
  limitedMs: number;
  /** The text of the line, where bytes and rate are not what matters. */
  line?: string;
}

/** The progress line of a command, on standard error. */
export class Meter {
  readonly #measure: () => Measure;
  readonly #total: number | undefined;
  readonly #bar: SingleBar;
  #at = performance.now();
  #bytes = 0;
  #limitedMs = 0;
  #rate = 0;

  /**
   * Start the progress line, if standard error is a terminal.
   *
   * @param measure - Called for each frame.
   * @param total - Bytes in total, where known.
   * @param quiet - Whether the line is switched off.
   * @returns Undefined if there is no line.
   */
  static async start(
    measure: () => Measure,
    total: number | undefined,
    quiet: boolean,
  ): Promise<Meter | undefined> {
    if (!process.stderr.isTTY || quiet) return undefined;
    const { default: progress } = await import('cli-progress');
    return new Meter(measure, total, progress.SingleBar);
  }

  private constructor(measure: () => Measure, total: number | undefined, Bar: typeof SingleBar) {
    this.#measure = measure;
    this.#total = total;
    this.#bar = new Bar({
      format: () => this.#frame(),
      fps: FRAMES_PER_SECOND,
      stream: process.stderr,
      clearOnComplete: true,
    });
    this.#bar.start(total ?? 0, 0);
  }

  /** Remove the line. */
  stop(): void {
    this.#bar.stop();
  }

  #frame(): string {
    const { bytes, total = this.#total, limitedMs, line } = this.#measure();
    if (line !== undefined) return line;
    const now = performance.now();
    const elapsed = now - this.#at;
    const isLimited = limitedMs - this.#limitedMs > elapsed * MIN_LIMITED_SHARE;
    if (elapsed > 0) {
      const rate = ((bytes - this.#bytes) * 1000) / elapsed;
      this.#rate += (rate - this.#rate) * (this.#rate === 0 ? 1 : SAMPLE_WEIGHT);
    }
    this.#at = now;
    this.#bytes = bytes;
    this.#limitedMs = limitedMs;
    return showProgress({ bytes, total, bytesPerSecond: this.#rate, isLimited });
  }
}

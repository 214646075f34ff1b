import type { BandwidthBudget } from '../../qemu-file/put/bandwidth-budget.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { Measure } from '../shell/progress.ts';

/** Progress of a relay. */
export interface RelayStatus {
  /** `ending`: all bytes of the source have been sent, or the relay was stopped by a command. */
  state: 'waiting' | 'moving' | 'ending';
  /** Channels that are open at both ends. */
  channels: number;
  /** Bytes that the destination has taken, over all channels. */
  forward: number;
  /** Bytes of the return path that the source has taken; null without a return path. */
  return: number | null;
  /** Seconds since the first channel was open; 0 before. */
  seconds: number;
  /** Average forward rate of the last one to two seconds. */
  bytesPerSecond: number;
  /** Bytes per second; 0 means no limit. */
  maxBandwidth: number;
  /** Seconds during which only that limit held bytes back. */
  limitedSeconds: number;
  /** Bytes that were read and not yet taken by the other end. */
  pending: number;
}

/** How a running relay is queried and controlled. */
export interface RelayControl {
  status(): RelayStatus;
  /** @param bytesPerSecond - Limit for all channels together, from now on; 0 means no limit. */
  setMaxBandwidth(bytesPerSecond: number): void;
  /** End the relay in order, as `SIGINT` does. */
  stop(): void;
}

/** Both files of a channel. */
interface Channel {
  from: QemuFile;
  to: QemuFile;
  hasReturnPath: boolean;
  /** Bytes that the files had moved before the relay used them. */
  forwardStart: number;
  returnStart: number;
}

/** The number of forward bytes at a time. */
interface Sample {
  at: number;
  bytes: number;
}

const SAMPLE_MS = 1000;

/** Measures and controls the channels of a relay; disposing of it ends the sampling. */
export class RelayMonitor implements RelayControl, Disposable {
  /** The limit of all channels. */
  readonly budget: BandwidthBudget;
  readonly #onStop: () => void;
  readonly #channels: Channel[] = [];
  readonly #timer: NodeJS.Timeout;
  #startedAt = 0;
  #isStopped = false;
  #lastSample: Sample;
  /** The sample before the last one. */
  #olderSample: Sample;

  /**
   * @param budget - The limit of all channels.
   * @param onStop - Ends the relay.
   */
  constructor(budget: BandwidthBudget, onStop: () => void) {
    this.budget = budget;
    this.#onStop = onStop;
    this.#lastSample = { at: performance.now(), bytes: 0 };
    this.#olderSample = this.#lastSample;
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS).unref();
  }

  /** Add a channel that is open at both ends; the first one is the main channel. */
  add(from: QemuFile, to: QemuFile): void {
    if (this.#channels.length === 0) {
      this.#startedAt = performance.now();
      this.#sample();
    }
    const [forwardStart, returnStart] = [to.sentPosition, from.sentPosition];
    const hasReturnPath = from.isWritable() && to.readable;
    this.#channels.push({ from, to, hasReturnPath, forwardStart, returnStart });
  }

  status(): RelayStatus {
    const now = performance.now();
    const forward = this.#forward();
    const { at, bytes } = this.#olderSample;
    const sampledSeconds = (now - at) / 1000;
    return {
      state: this.#state(),
      channels: this.#channels.length,
      forward,
      return: this.#returned(),
      seconds: this.#startedAt === 0 ? 0 : (now - this.#startedAt) / 1000,
      bytesPerSecond: sampledSeconds > 0 ? (forward - bytes) / sampledSeconds : 0,
      maxBandwidth: this.budget.maxBandwidth,
      limitedSeconds: this.budget.limitedMs / 1000,
      pending: sum(this.#channels, ({ from, to }) => pendingBytes(from) + pendingBytes(to)),
    };
  }

  /** Return what the progress line shows. */
  measure(): Measure {
    return { bytes: this.#forward(), limitedMs: this.budget.limitedMs };
  }

  setMaxBandwidth(bytesPerSecond: number): void {
    this.budget.maxBandwidth = bytesPerSecond;
  }

  stop(): void {
    this.#isStopped = true;
    this.#onStop();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #state(): RelayStatus['state'] {
    const [main] = this.#channels;
    if (this.#isStopped) return 'ending';
    if (main === undefined) return 'waiting';
    return main.to.writableEnded || main.to.destroyed ? 'ending' : 'moving';
  }

  #forward(): number {
    return sum(this.#channels, ({ to, forwardStart }) => to.sentPosition - forwardStart);
  }

  #returned(): number | null {
    const channels = this.#channels.filter(({ hasReturnPath }) => hasReturnPath);
    if (channels.length === 0) return null;
    return sum(channels, ({ from, returnStart }) => from.sentPosition - returnStart);
  }

  #sample(): void {
    this.#olderSample = this.#lastSample;
    this.#lastSample = { at: performance.now(), bytes: this.#forward() };
  }
}

/** Bytes in a file that were read and not consumed, or put and not taken. */
function pendingBytes(file: QemuFile): number {
  return file.writableLength + file.lookedAhead;
}

function sum<T>(items: readonly T[], sizeOf: (item: T) => number): number {
  return items.reduce((total, item) => total + sizeOf(item), 0);
}

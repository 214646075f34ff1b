import type { BandwidthBudget } from '../../qemu-file/put/bandwidth-budget.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { Measure } from '../shell/progress.ts';

/** How far a relay has come. */
export interface RelayStatus {
  /** `ending`: what comes from the source is through, or the relay was told to stop. */
  state: 'waiting' | 'moving' | 'ending';
  /** Connections that have been opened at both ends. */
  channels: number;
  /** Bytes that the destination's side has taken, of all channels. */
  forward: number;
  /** Bytes that the source's side has taken back; null where there is no way back. */
  return: number | null;
  /** Since bytes could move; 0 while it waits. */
  seconds: number;
  /** Forward, on average over the last one to two seconds. */
  bytesPerSecond: number;
  /** Bytes per second; 0 is no limit. */
  maxBandwidth: number;
  /** How long bytes waited for that limit alone. */
  limitedSeconds: number;
  /** Bytes that were read and that nobody has taken yet. */
  pending: number;
}

/** What can be asked of a relay, and told it, while it runs. */
export interface RelaySteering {
  status(): RelayStatus;
  /** @param bytesPerSecond - For all channels together, from now on; 0 is no limit. */
  setMaxBandwidth(bytesPerSecond: number): void;
  /** Ends all in order, as `SIGINT` does. */
  stop(): void;
}

/** Both ends of a channel. */
interface Channel {
  from: QemuFile;
  to: QemuFile;
  hasReturn: boolean;
  /** Bytes that were through before the relay had the files. */
  forwardStart: number;
  returnStart: number;
}

const SAMPLE_MS = 1000;

/** A relay as those see it who steer it; `using` ends its sampling. */
export class RelayMonitor implements RelaySteering, Disposable {
  /** The limit of all channels. */
  readonly budget: BandwidthBudget;
  readonly #onStop: () => void;
  readonly #channels: Channel[] = [];
  readonly #timer: NodeJS.Timeout;
  #startedAt = 0;
  #isStopped = false;
  /** Bytes at the last two samples, the newer one first. */
  #samples: [{ at: number; bytes: number }, { at: number; bytes: number }];

  /**
   * @param budget - The limit of all channels.
   * @param onStop - Ends the relay.
   */
  constructor(budget: BandwidthBudget, onStop: () => void) {
    this.budget = budget;
    this.#onStop = onStop;
    const start = { at: performance.now(), bytes: 0 };
    this.#samples = [start, start];
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS).unref();
  }

  /** A channel is open at both ends; the first one is the main channel. */
  add(from: QemuFile, to: QemuFile): void {
    if (this.#channels.length === 0) {
      this.#startedAt = performance.now();
      this.#sample();
    }
    const [forwardStart, returnStart] = [to.sentPosition, from.sentPosition];
    const hasReturn = from.isWritable() && to.readable;
    this.#channels.push({ from, to, hasReturn, forwardStart, returnStart });
  }

  status(): RelayStatus {
    const now = performance.now();
    const forward = this.#forward();
    const [, older] = this.#samples;
    const since = (now - older.at) / 1000;
    const returns = this.#channels.filter(({ hasReturn }) => hasReturn);
    return {
      state: this.#state(),
      channels: this.#channels.length,
      forward,
      return:
        returns.length === 0
          ? null
          : sum(returns, (one) => one.from.sentPosition - one.returnStart),
      seconds: this.#startedAt === 0 ? 0 : (now - this.#startedAt) / 1000,
      bytesPerSecond: since > 0 ? (forward - older.bytes) / since : 0,
      maxBandwidth: this.budget.maxBandwidth,
      limitedSeconds: this.budget.limitedMs / 1000,
      pending: sum(this.#channels, ({ from, to }) => heldBy(from) + heldBy(to)),
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

  #sample(): void {
    this.#samples = [{ at: performance.now(), bytes: this.#forward() }, this.#samples[0]];
  }
}

/** Bytes in a file that were got and not consumed, or put and not taken. */
function heldBy(file: QemuFile): number {
  return file.writableLength + file.lookedAhead;
}

function sum<T>(items: readonly T[], sizeOf: (item: T) => number): number {
  return items.reduce((total, item) => total + sizeOf(item), 0);
}

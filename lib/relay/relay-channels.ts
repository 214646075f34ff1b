import { abortError, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import { onAbort } from '../contract/wait-for.ts';
import {
  CHANNEL_START_SIZE,
  type ChannelKind,
  kindOfChannel,
} from '../migration/format/channel-kind.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import { noop } from '../util/noop.ts';
import { relay } from './relay.ts';
import type {
  ChannelResult,
  ChannelsFailure,
  ChannelsOptions,
  ChannelsResult,
} from './relay-channels-types.ts';
import type { RelayEnd } from './relay-types.ts';

/*
 *   accepted ──► looked at ──(there is a main channel)──► connected ──► relayed
 *                   │                                     the main one first, then
 *                   └─► dropped, if it ends               one after another
 *                       without a byte
 *
 * Connections arrive in any order, because a source opens them at the same time. A destination before
 * QEMU 8.0 identifies them by their order, the main channel first. A channel of postcopy-preempt is silent
 * until the guest runs at the destination, so the relay must not wait for its bytes.
 */

/**
 * Move a migration that has several connections: a main channel and channels of multifd or
 * postcopy-preempt. The main channel begins with `QEVM`, or with a command if postcopy is resumed; it may
 * arrive last. The relay connects to the destination for the main channel first, then for the others, one
 * at a time. It accepts further connections until the main channel has ended. Each channel is moved as by
 * `relay`; if one fails, all are destroyed, so that both QEMUs notice.
 *
 * To limit all of them together, give one `BandwidthBudget` to the files that `connect` makes.
 *
 * @param options - `accept`, `connect`, `channels`, `signal`, `lingerMs`, `onAllAccepted`, `onChannel`,
 *   `onReturned`.
 * @returns The result, after all files are closed. A failure is part of the result and is not thrown;
 *   `EPROTO` means that a connection began neither as a main channel nor as a multifd channel.
 * @throws {RangeError} (rejects) if `channels` is not a positive integer.
 *
 * @example
 * ```js
 * const listener = await listenSocket({ path: '/run/from.sock' });
 * const budget = new BandwidthBudget(100 * 2 ** 20);
 * const { complete, channels } = await relayChannels({
 *   channels: 9, // 8 of multifd, and the main one
 *   accept: async ({ signal }) => new QemuFile(socketOps(await listener.accept({ signal }))),
 *   connect: ({ signal }) => openTo('tcp:otherhost:4444', { signal, file: { budget } }),
 *   onAllAccepted: () => void listener.close(),
 * });
 * ```
 */
export async function relayChannels(options: ChannelsOptions): Promise<ChannelsResult> {
  const { channels } = options;
  if (!Number.isSafeInteger(channels) || channels < 1) {
    throw new RangeError(`channels: ${channels} is not a number of connections`);
  }
  return new ChannelGroup(options).run();
}

/** Error codes that mean the peer has closed the connection. */
const PEER_CLOSED: ReadonlySet<string> = new Set(['ECONNRESET', 'EPIPE']);

/** Milliseconds that a destination may take from closing a channel to closing the main one. */
const LINGER_MS = 5000;

const EMPTY_RESULT: ChannelResult = {
  complete: false,
  forward: { bytes: 0, xxh64: null },
  return: null,
};

class ChannelGroup {
  readonly #options: ChannelsOptions;
  /** Aborts with the first failure. */
  readonly #failed = new AbortController();
  /** Aborts with the first failure, and when the main channel has ended. */
  readonly #stopAccepting = new AbortController();
  /** Connections that wait for the main channel, in the order of their arrival. */
  readonly #waiting = new Set<QemuFile>();
  /** Connections accepted, without those that closed before they were identified. */
  #accepted = 0;
  #main: QemuFile | undefined;
  #mainMoving: Promise<void> = Promise.resolve();
  readonly #onMain = new AbortController();
  /** The work in progress, one promise for each connection. */
  readonly #work = new Set<Promise<void>>();
  /** Connections to the destination are made one after another. */
  #connecting: Promise<unknown> = Promise.resolve();
  readonly #results: ChannelResult[] = [];
  #failure: ChannelsFailure | null = null;
  #startedAt = 0;
  #limitedMs: () => number = () => 0;
  #onSlotFreed: () => void = noop;

  constructor(options: ChannelsOptions) {
    this.#options = options;
  }

  async run(): Promise<ChannelsResult> {
    const { signal, onAllAccepted } = this.#options;
    const abort = (): void => this.#fail(null, null, abortError(signal as AbortSignal, 'relay'));
    const stopFollowing = onAbort(signal, abort);
    if (signal?.aborted) abort();
    await this.#acceptAll();
    onAllAccepted?.();
    // Work in progress may start further work.
    while (this.#work.size > 0) await Promise.all(this.#work);
    stopFollowing();
    return this.#result();
  }

  async #acceptAll(): Promise<void> {
    const { channels, accept } = this.#options;
    while (!this.#stopAccepting.signal.aborted) {
      if (this.#accepted < channels) {
        const main = this.#main;
        // Ask again once the main channel is known, because it changes which connections are accepted.
        const changes = main === undefined ? [this.#onMain.signal] : [];
        const signal = AbortSignal.any([this.#stopAccepting.signal, ...changes]);
        try {
          this.#arrived(await accept({ signal, main }));
        } catch (error) {
          if (!signal.aborted) this.#fail(null, 'from', toQemuFileError(error));
        }
      } else if (this.#main === undefined) {
        await new Promise<void>((resolve) => {
          this.#onSlotFreed = resolve;
        });
      } else {
        return;
      }
    }
  }

  #arrived(from: QemuFile): void {
    this.#accepted += 1;
    // A connection may arrive after the relay has stopped accepting.
    if (this.#stopAccepting.signal.aborted)
      this.#track(discard(from, this.#failure?.error ?? tooLate()));
    else if (this.#main !== undefined) this.#track(this.#move(from));
    else this.#track(this.#lookAt(from));
  }

  /** Track `work` until it settles. It must not reject. */
  #track(work: Promise<void>): void {
    const done = work.finally(() => this.#work.delete(done));
    this.#work.add(done);
  }

  /** Identify a connection, while the main channel is not known. */
  async #lookAt(from: QemuFile): Promise<void> {
    this.#waiting.add(from);
    const stop = AbortSignal.any([this.#onMain.signal, this.#failed.signal]);
    let kind: ChannelKind = 'empty';
    let error: QemuFileError | undefined;
    try {
      kind = await peekChannelKind(from, stop);
      // A multifd channel sends no more than its introduction now; notice if it fails or ends.
      if (kind === 'multifd' && (await hasEnded(from, stop))) kind = 'empty';
    } catch (failure) {
      kind = 'empty';
      error = toQemuFileError(failure);
    }
    if (this.#failure !== null) return discard(from, this.#failure.error);
    // The main channel has been found, and this connection is moved with it.
    if (!this.#waiting.has(from)) return;
    if (kind === 'main') return this.#begin(from);
    if (kind === 'multifd') return;
    if (kind === 'unknown') this.#fail(null, 'from', strangeStart(from));
    await this.#drop(from, error);
  }

  /** Discard a connection that closed before it was identified: another may take its place. */
  async #drop(from: QemuFile, error: QemuFileError | undefined): Promise<void> {
    this.#waiting.delete(from);
    await discard(from, error);
    this.#accepted -= 1;
    this.#onSlotFreed();
  }

  /** The main channel is known: move it first, and then the connections that waited for it. */
  async #begin(main: QemuFile): Promise<void> {
    this.#waiting.delete(main);
    this.#main = main;
    this.#startedAt = performance.now();
    const moving = this.#move(main);
    this.#mainMoving = moving;
    for (const side of this.#waiting) this.#track(this.#move(side));
    this.#waiting.clear();
    this.#onMain.abort();
    this.#onSlotFreed();
    await moving;
    this.#stopAccepting.abort();
  }

  /** Connect a channel to the destination in its turn, and move it to its end. */
  async #move(from: QemuFile): Promise<void> {
    const channel = this.#results.push(EMPTY_RESULT) - 1;
    const opening = this.#connecting.then(() => this.#connect(channel));
    this.#connecting = opening;
    const to = await opening;
    if (to === undefined || this.#failure !== null) {
      await Promise.all([from, to].map((file) => discard(file, this.#failure?.error)));
      return;
    }
    if (channel === 0) {
      const before = to.budget.limitedMs;
      this.#limitedMs = () => to.budget.limitedMs - before;
    }
    const { lingerMs } = this.#options;
    const { signal } = this.#failed;
    try {
      this.#options.onChannel?.(from, to);
      const onReturned = channel === 0 ? this.#options.onReturned : undefined;
      const mayBeEmpty = channel > 0;
      const moved = await relay(from, to, { signal, lingerMs, mayBeEmpty, onReturned });
      const { complete, forward, return: back, failure } = moved;
      this.#results[channel] = { complete, forward, return: back };
      if (failure === null) return;
      const isGone = channel > 0 && failure.end === 'to' && PEER_CLOSED.has(failure.error.code);
      if (isGone && (await this.#mainCompletes())) return;
      this.#fail(channel, failure.end, failure.error);
    } catch (error) {
      this.#fail(channel, null, toQemuFileError(error));
      await Promise.all([from, to].map((file) => discard(file, this.#failure?.error)));
    }
  }

  /**
   * Return whether the main channel completes soon. A destination that has all it needs closes the other
   * channels without reading the rest, such as QEMU's last multifd packets, and the main channel last.
   */
  async #mainCompletes(): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const tooLong = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#options.lingerMs ?? LINGER_MS);
    });
    await Promise.race([this.#mainMoving, tooLong]);
    clearTimeout(timer);
    return this.#results[0]?.complete === true;
  }

  /** Open a channel at the destination; return undefined if that failed, or the relay has failed. */
  async #connect(channel: number): Promise<QemuFile | undefined> {
    if (this.#failure !== null) return undefined;
    try {
      return await this.#options.connect({ signal: this.#failed.signal });
    } catch (error) {
      this.#fail(channel, 'to', toQemuFileError(error));
      return undefined;
    }
  }

  #fail(channel: number | null, end: RelayEnd | null, error: QemuFileError): void {
    if (this.#failure !== null) return;
    this.#failure = { channel, end, error };
    for (const from of this.#waiting) this.#track(discard(from, error));
    this.#waiting.clear();
    this.#failed.abort(error);
    this.#stopAccepting.abort(error);
    this.#onSlotFreed();
  }

  #result(): ChannelsResult {
    const since = this.#startedAt;
    return {
      complete: this.#failure === null,
      channels: this.#results,
      seconds: since === 0 ? 0 : (performance.now() - since) / 1000,
      limitedSeconds: this.#limitedMs() / 1000,
      failure: this.#failure,
    };
  }
}

function strangeStart(from: QemuFile): QemuFileError {
  const start = Buffer.from(from.peekBuffer(CHANNEL_START_SIZE)).toString('hex');
  const reason = `a connection begins with ${start} (hexadecimal): it is neither a main channel nor a multifd channel`;
  return new QemuFileError('EPROTO', reason, { operation: 'relay' });
}

function tooLate(): QemuFileError {
  const reason = 'the connection arrived after the main channel had ended';
  return new QemuFileError('ECANCELED', reason, { operation: 'relay' });
}

/** Close a file. With an error, the peer does not take that for the end of the stream. */
async function discard(
  file: QemuFile | undefined,
  error: QemuFileError | undefined,
): Promise<void> {
  file?.destroy(error);
  await file?.close().catch(noop);
}

/** Bytes of input after which a multifd channel is known to carry pages: more than its initial packet. */
const INTRODUCTION_LIMIT_BYTES = 4096;

/** Wait for the first bytes of a connection and return its kind; consume nothing. */
async function peekChannelKind(file: QemuFile, signal: AbortSignal): Promise<ChannelKind> {
  const available = await file.fillOrEnd(CHANNEL_START_SIZE, { signal });
  return kindOfChannel(file.peekBuffer(Math.min(available, CHANNEL_START_SIZE)));
}

/** Wait until a connection ends (true), or has sent more than an initial packet (false). */
async function hasEnded(file: QemuFile, signal: AbortSignal): Promise<boolean> {
  return (await file.fillOrEnd(INTRODUCTION_LIMIT_BYTES, { signal })) < INTRODUCTION_LIMIT_BYTES;
}

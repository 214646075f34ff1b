import { markHandled } from '../../contract/backend-result.ts';
import { abortError } from '../../contract/errors.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { LIMIT } from '../format/wire.ts';
import {
  MultifdChannel,
  type MultifdDeviceState,
  type MultifdStatistics,
} from './multifd-channel.ts';
import type { InitialPacket, MultifdTable } from './multifd-packet.ts';

export type { MultifdDeviceState, MultifdStatistics } from './multifd-channel.ts';
export type { MultifdTable } from './multifd-packet.ts';

/** What a group of channels may be given besides. */
export interface MultifdOptions {
  /** Stops all channels when it aborts. */
  signal?: AbortSignal | undefined;
  /**
   * Told, once, when the channels fail: a live source that is not read here any more may say nothing on the
   * main channel either, so whoever reads that must be woken.
   */
  onFailure?: ((error: Error) => void) | undefined;
  /** Gets device state; without it that is dropped. */
  onDeviceState?: ((state: MultifdDeviceState) => void) | undefined;
}

/**
 * The multifd channels of a migration. Most pages come through these, in rounds: each channel ends a round
 * with a SYNC, the main channel with a word of its own, and nothing behind these may be applied before all
 * of them have come.
 *
 *   main      … start ──────── sync() ───────── sync() …  end  finish()
 *   channels        pages SYNC │ pages pages SYNC │            end
 *
 * Each channel is read by a loop of its own, which runs from one SYNC to the next: `sync()` waits for all
 * loops and starts them again. The first failure, be it a channel's or given to `stop`, ends all loops,
 * and whatever waits, or waits later, is rejected with it. The inputs remain the caller's to close.
 */
export class MultifdChannels {
  readonly #inputs: readonly StreamInput[];
  readonly #options: MultifdOptions;
  #channels: readonly MultifdChannel[] = [];
  /** What the loops end with, by channel; null before they are started. */
  #rounds: readonly Promise<'sync' | 'end'>[] | null = null;
  readonly #ids = new Set<number>();
  #uuid: string | null = null;
  #failure: Error | null = null;
  #isOver = false;

  /**
   * @param inputs - One for each channel, in any order; nothing is read before `start`.
   * @throws RangeError for more channels than there can be.
   */
  constructor(inputs: readonly StreamInput[], options: MultifdOptions = {}) {
    if (inputs.length > LIMIT.CHANNELS) {
      throw new RangeError(`${inputs.length} multifd channels, more than ${LIMIT.CHANNELS}`);
    }
    this.#inputs = inputs;
    this.#options = options;
    const { signal } = options;
    if (signal?.aborted === true) this.#abort();
    else signal?.addEventListener('abort', this.#abort, { once: true });
  }

  /** The guest's UUID in its usual form, as the channels say it; null before the first one did. */
  get uuid(): string | null {
    return this.#uuid;
  }

  /** What came so far, in the order of the inputs; empty before `start`. */
  get statistics(): readonly Readonly<MultifdStatistics>[] {
    return this.#channels.map((channel) => channel.statistics);
  }

  /** Begins to read, once the main channel has said what blocks there are. */
  start(table: MultifdTable): void {
    if (this.#rounds !== null) throw new Error('the multifd channels are being read already');
    this.#channels = this.#inputs.map(
      (input, index) => new MultifdChannel(input, index + 1, table, this.#options.onDeviceState),
    );
    if (this.#failure !== null) this.#stopAll();
    this.#rounds = this.#channels.map((channel) => this.#watched(this.#open(channel)));
  }

  /**
   * Waits until every channel has delivered its SYNC, and lets them go on; to be called at each word of the
   * main channel that ends a round, one at a time.
   *
   * @param between - Called when all of this round has come, and nothing of the next.
   * @throws {MigrationStreamError} (rejects) `truncated` when a channel has ended; `corrupt`, `unsupported`
   *   or `not-a-stream`, with the channel, the packet and the offset in that channel; the transport's error.
   */
  async sync(between: () => void = () => {}): Promise<void> {
    await this.#all('sync', (channel) => channel.endsEarly());
    between();
    this.#rounds = this.#channels.map((channel) => this.#watched(channel.round()));
  }

  /**
   * Waits until every channel has ended, in order; to be called at the end of the main channel. A live
   * source ends them only when it is content, with a return path not before it was told so.
   *
   * @throws {MigrationStreamError} (rejects) as `sync`; `corrupt` for a SYNC that nobody has waited for.
   */
  async finish(): Promise<void> {
    await this.#all('end', (channel) => channel.endsLate());
    this.#isOver = true;
    this.#stopAll();
  }

  /** Stops all channels, unless they have ended or failed before; what waits is rejected with the error. */
  stop(error: Error): void {
    if (!this.#isOver) this.#fail(error);
  }

  async #open(channel: MultifdChannel): Promise<'sync' | 'end'> {
    this.#admit(channel, await channel.open());
    return channel.round();
  }

  #admit(channel: MultifdChannel, { id, uuid }: InitialPacket): void {
    const count = this.#inputs.length;
    if (id >= count) {
      const reason = `its number is beyond the ${count} channels that were given: is one missing?`;
      throw channel.error('corrupt', reason);
    }
    if (this.#ids.has(id)) throw channel.error('corrupt', 'another channel has its number');
    this.#ids.add(id);
    this.#uuid ??= uuid;
    if (uuid !== this.#uuid) {
      const reason = `it belongs to another migration: UUID ${uuid}, that of others ${this.#uuid}`;
      throw channel.error('corrupt', reason);
    }
  }

  /** Waits until the loops have all ended as they should; one that has not must not be waited out. */
  async #all(wanted: 'sync' | 'end', otherwise: (channel: MultifdChannel) => Error): Promise<void> {
    this.#checkFailure();
    if (this.#rounds === null) {
      const reason = 'there are multifd channels, but the main channel has no list of RAM blocks';
      throw new MigrationStreamError('corrupt', reason, { position: 0 });
    }
    await Promise.all(
      this.#rounds.map(async (round, index) => {
        if ((await round) === wanted) return;
        throw this.#fail(otherwise(this.#channels[index] as MultifdChannel));
      }),
    );
    this.#checkFailure();
  }

  #checkFailure(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** A loop of which a failure is everybody's. */
  #watched(round: Promise<'sync' | 'end'>): Promise<'sync' | 'end'> {
    return markHandled(
      round.catch((error: Error) => {
        throw this.#fail(error);
      }),
    );
  }

  /** Takes note of a failure; gives the first one. */
  #fail(error: Error): Error {
    if (this.#failure !== null) return this.#failure;
    this.#failure = error;
    this.#stopAll();
    this.#options.onFailure?.(error);
    return error;
  }

  #stopAll(): void {
    this.#options.signal?.removeEventListener('abort', this.#abort);
    for (const channel of this.#channels) channel.stop();
  }

  readonly #abort = (): void => {
    this.stop(abortError(this.#options.signal as AbortSignal, 'multifd'));
  };
}

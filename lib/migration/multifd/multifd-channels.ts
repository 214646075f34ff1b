import { markHandled } from '../../contract/backend-result.ts';
import { abortError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import { noop } from '../../util/noop.ts';
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

/** Options of `MultifdChannels`. */
export interface MultifdOptions {
  /** Stops all channels when it aborts. */
  signal?: AbortSignal | undefined;
  /**
   * Called once when the channels fail. A live source may then send nothing more on the main channel, so the
   * reader of the main channel must be woken.
   */
  onFailure?: ((error: Error) => void) | undefined;
  /** Called with each part of a device's state; without it, device state is dropped. */
  onDeviceState?: ((state: MultifdDeviceState) => void) | undefined;
}

/**
 * The multifd channels of a migration, which carry most pages, in rounds. Each channel ends a round with a
 * SYNC packet, and the main channel with a MULTIFD_FLUSH or EOS record; pages after these must not be applied
 * before all channels have arrived there.
 *
 *   main      … start ──────── sync() ───────── sync() …  end  finish()
 *   channels        pages SYNC │ pages pages SYNC │            end
 *
 * One loop per channel reads from one SYNC to the next. `sync()` waits for all loops and starts them again.
 * The first failure, of a channel or given to `stop`, ends all loops, and rejects every call that waits now
 * or later. The caller closes the inputs.
 */
export class MultifdChannels {
  readonly #inputs: readonly StreamInput[];
  readonly #options: MultifdOptions;
  #channels: readonly MultifdChannel[] = [];
  /** The loops, one per channel; null before `start`. */
  #rounds: readonly Promise<'sync' | 'end'>[] | null = null;
  readonly #ids = new Set<number>();
  #uuid: string | null = null;
  #failure: Error | null = null;
  #stopFollowing: () => void = noop;
  #isFinished = false;

  /**
   * @param inputs - One for each channel, in any order. Nothing is read before `start`.
   * @throws RangeError for more than `LIMIT.CHANNELS` inputs.
   */
  constructor(inputs: readonly StreamInput[], options: MultifdOptions = {}) {
    if (inputs.length > LIMIT.CHANNELS) {
      throw new RangeError(`${inputs.length} multifd channels, at most ${LIMIT.CHANNELS}`);
    }
    this.#inputs = inputs;
    this.#options = options;
    const { signal } = options;
    const abort = (): void => this.stop(abortError(signal as AbortSignal, 'multifd'));
    if (signal?.aborted === true) abort();
    else this.#stopFollowing = onAbort(signal, abort);
  }

  /** The guest's UUID in its usual form, from the first initial packet; null before that. */
  get uuid(): string | null {
    return this.#uuid;
  }

  /** The counts of each channel so far, in the order of the inputs; empty before `start`. */
  get statistics(): readonly Readonly<MultifdStatistics>[] {
    return this.#channels.map((channel) => channel.statistics);
  }

  /** Start to read, when the main channel has delivered the list of RAM blocks. */
  start(table: MultifdTable): void {
    if (this.#rounds !== null) throw new Error('the multifd channels have already been started');
    this.#channels = this.#inputs.map(
      (input, index) => new MultifdChannel(input, index + 1, table, this.#options.onDeviceState),
    );
    if (this.#failure !== null) this.#stopAll();
    this.#rounds = this.#channels.map((channel) => this.#tracked(this.#open(channel)));
  }

  /**
   * Wait until every channel has delivered its SYNC, then start the next round. Call it at each record of the
   * main channel that ends a round, and not before the previous call has settled.
   *
   * @param between - Called between the rounds: all pages of the last one have come, none of the next.
   * @throws {MigrationStreamError} (rejects) `truncated` when a channel has ended; `corrupt`, `unsupported`
   *   or `not-a-stream`, with the channel, the packet and the offset in that channel; the transport's error.
   */
  async sync(between: () => void = noop): Promise<void> {
    await this.#all('sync', (channel) => channel.endsEarly());
    between();
    this.#rounds = this.#channels.map((channel) => this.#tracked(channel.round()));
  }

  /**
   * Wait until every channel has ended. Call it at the end of the main channel. A live source with a return
   * path ends the channels only after the destination has reported success.
   *
   * @throws {MigrationStreamError} (rejects) as `sync`; `corrupt` for a SYNC without its record on the main
   *   channel.
   */
  async finish(): Promise<void> {
    await this.#all('end', (channel) => channel.endsLate());
    this.#isFinished = true;
    this.#stopAll();
  }

  /** Stop all channels and reject calls that wait, unless the channels have ended or failed before. */
  stop(error: Error): void {
    if (!this.#isFinished) this.#fail(error);
  }

  async #open(channel: MultifdChannel): Promise<'sync' | 'end'> {
    this.#register(channel, await channel.open());
    return channel.round();
  }

  #register(channel: MultifdChannel, { id, uuid }: InitialPacket): void {
    const count = this.#inputs.length;
    if (id >= count) {
      const reason = `its number is too large for the ${count} channels given: add the missing ones`;
      throw channel.error('corrupt', reason);
    }
    if (this.#ids.has(id)) throw channel.error('corrupt', 'another channel has the same number');
    this.#ids.add(id);
    this.#uuid ??= uuid;
    if (uuid !== this.#uuid) {
      const reason = `it belongs to another migration: its UUID is ${uuid}, others have ${this.#uuid}`;
      throw channel.error('corrupt', reason);
    }
  }

  /** Wait until all loops have ended as expected; the first that has not fails all. */
  async #all(expected: 'sync' | 'end', errorOf: (channel: MultifdChannel) => Error): Promise<void> {
    this.#checkFailure();
    if (this.#rounds === null) {
      const reason = 'multifd channels without a list of RAM blocks on the main channel';
      throw new MigrationStreamError('corrupt', reason, { position: 0 });
    }
    await Promise.all(
      this.#rounds.map(async (round, index) => {
        if ((await round) === expected) return;
        throw this.#fail(errorOf(this.#channels[index] as MultifdChannel));
      }),
    );
    this.#checkFailure();
  }

  #checkFailure(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Make a failure of this loop the failure of all channels. */
  #tracked(round: Promise<'sync' | 'end'>): Promise<'sync' | 'end'> {
    return markHandled(
      round.catch((error: Error) => {
        throw this.#fail(error);
      }),
    );
  }

  /** Record a failure and return the first one. */
  #fail(error: Error): Error {
    if (this.#failure !== null) return this.#failure;
    this.#failure = error;
    this.#stopAll();
    this.#options.onFailure?.(error);
    return error;
  }

  #stopAll(): void {
    this.#stopFollowing();
    for (const channel of this.#channels) channel.stop();
  }
}

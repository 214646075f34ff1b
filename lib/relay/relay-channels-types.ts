import type { QemuFileError } from '../contract/errors.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import type { RelayDirection, RelayEnd } from './relay-types.ts';

/** How `relayChannels` accepts a connection. */
export interface AcceptChannelOptions {
  /** Ends the wait. */
  signal: AbortSignal;
  /** The main channel once it is known: further connections come from the same machine and may be silent. */
  main: QemuFile | undefined;
}

/** Options of `relayChannels`. */
export interface ChannelsOptions {
  /** Accept the next connection of the source. Called again at once while more connections may arrive. */
  accept: (options: AcceptChannelOptions) => Promise<QemuFile>;
  /** Connect to the destination, TLS handshake included. Called for one channel at a time. */
  connect: (options: { signal: AbortSignal }) => Promise<QemuFile>;
  /** Greatest number of connections of the migration, the main channel included; fewer may arrive. */
  channels: number;
  /** Ends the relay: all files are destroyed with `ECANCELED`, so that no peer takes it for the end of the stream. */
  signal?: AbortSignal | undefined;
  /** As for `relay`; also the milliseconds within which the main channel must end after another channel was closed early. */
  lingerMs?: number | undefined;
  /** Called when no more connections will be accepted: the caller can close its listener. */
  onAllAccepted?: (() => void) | undefined;
  /** Called with both ends of each channel before its bytes move, the main channel first. */
  onChannel?: ((from: QemuFile, to: QemuFile) => void) | undefined;
  /** Called with each chunk of the main channel's return path after the source has taken it. */
  onReturned?: ((chunk: Uint8Array) => void) | undefined;
}

/** The result of one channel. */
export interface ChannelResult {
  /** Whether both directions reached their ends and all bytes were taken. */
  complete: boolean;
  /** From the source. */
  forward: RelayDirection;
  /** To the source; null if the channel has no return path. */
  return: RelayDirection | null;
}

/** Why channels are not complete. */
export interface ChannelsFailure {
  /** Index in `channels` of the channel that failed first; null for a connection that did not become a channel. */
  channel: number | null;
  /** The file that failed; null if the relay's signal was aborted. */
  end: RelayEnd | null;
  /** The error of that file. */
  error: QemuFileError;
}

/** The result of all channels. */
export interface ChannelsResult {
  /**
   * Whether the main channel is complete, and each other channel is complete or was closed by the destination
   * after it had received all that it needs.
   */
  complete: boolean;
  /** In the order of the connections to the destination: the main channel is the first. */
  channels: ChannelResult[];
  /** Seconds from the main channel's first bytes to the end. */
  seconds: number;
  /** Seconds in which bytes of a channel waited only for `maxBandwidth`, if all channels share a budget. */
  limitedSeconds: number;
  /** Null if `complete`. */
  failure: ChannelsFailure | null;
}

import type { QemuFileError } from '../contract/errors.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import type { RelayDirection, RelayEnd } from './relay.ts';

/** How `relayChannels` accepts a connection. */
export interface AcceptChannelOptions {
  /** Ends the wait. */
  signal: AbortSignal;
  /** The main channel, once there is one: what belongs to it may be silent, and comes from the same machine. */
  main: QemuFile | undefined;
}

/** How `relayChannels` gets its connections, and how it works. */
export interface ChannelsOptions {
  /** Gives the next connection of the source; is called again at once, as long as there may be more. */
  accept: (options: AcceptChannelOptions) => Promise<QemuFile>;
  /** Connects to the destination, TLS handshake included; is called for one channel at a time. */
  connect: (options: { signal: AbortSignal }) => Promise<QemuFile>;
  /** Most connections that the migration may have, the main channel included; fewer may come. */
  channels: number;
  /** Ends the relay: all files are destroyed with `ECANCELED`, so that none takes it for an end. */
  signal?: AbortSignal | undefined;
  /** As for `relay`; also how long the main channel may take to end after another was closed early. */
  lingerMs?: number | undefined;
  /** Called once no more connections will be accepted: nobody has to listen any longer. */
  onAllAccepted?: (() => void) | undefined;
  /** Called with both ends of each channel before its bytes move, the main channel first. */
  onChannel?: ((from: QemuFile, to: QemuFile) => void) | undefined;
  /** Gets each chunk of the main channel's return path that the source has taken. */
  onReturned?: ((chunk: Uint8Array) => void) | undefined;
}

/** What came of one channel. */
export interface ChannelResult {
  /** Whether both directions reached their ends and everything was taken. */
  complete: boolean;
  /** From the source. */
  forward: RelayDirection;
  /** To the source; null where there is no way back. */
  return: RelayDirection | null;
}

/** Why channels are not complete. */
export interface ChannelsFailure {
  /** Which channel failed first, by its place in `channels`; null for what did not become one. */
  channel: number | null;
  /** Its file that failed; null if it was the relay's own signal. */
  end: RelayEnd | null;
  /** What happened to it. */
  error: QemuFileError;
}

/** What came of all channels. */
export interface ChannelsResult {
  /**
   * Whether the main channel is complete, and each other one, too, or closed by the destination with bytes left
   * over when it had no more need of it.
   */
  complete: boolean;
  /** In the order in which the destination was connected to: the main channel is the first. */
  channels: ChannelResult[];
  /** How long it took, from the main channel's first bytes on. */
  seconds: number;
  /** How long of that bytes of any channel waited for `maxBandwidth` alone, if all share a budget. */
  limitedSeconds: number;
  /** Null if it is complete. */
  failure: ChannelsFailure | null;
}

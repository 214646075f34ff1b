import type { QemuFileError } from '../../contract/errors.ts';
import type { Manifest } from '../../migration/verify/manifest.ts';
import type { ChannelResult } from '../../relay/relay-channels-types.ts';
import type { RelayDirection, RelayEnd, RelayResult } from '../../relay/relay-types.ts';
import type { StoreFlags } from '../endpoints/endpoint.ts';
import type { TlsEnds, TlsFlags } from '../endpoints/tls/credentials.ts';
import { tlsHint } from '../endpoints/tls/hints.ts';
import { type EndingSignal, isEmptyInput } from '../shell/exit-codes.ts';
import { showExactSize, showSize } from '../shell/sizes.ts';
import { streamFaultOf } from './stream-check.ts';

/** Options of `qemu-file relay`. */
export interface RelayFlags extends TlsFlags, StoreFlags {
  /** Bytes per second; 0 means no limit. */
  maxBandwidth?: number;
  /** Most connections of the migration; default 1. */
  channels?: number;
  /** Where commands come from while the relay runs: `-`, or the path of a socket. */
  control?: string;
  digest?: boolean;
  /** Path of the copy. */
  tee?: string;
  /** False: do not check the stream. Undefined: check it if it goes to a file or comes over TLS. */
  check?: boolean;
  /** Path of the manifest. */
  manifest?: string;
  json?: boolean;
  quiet?: boolean;
}

/** Why a relay is not complete. */
export interface OutcomeFailure {
  end: RelayEnd | null;
  error: QemuFileError;
  /** Index of the channel, where there may be several. */
  channel?: number | null;
}

/** Result of a relay of one connection or several. */
export interface Outcome extends Omit<RelayResult, 'failure'> {
  failure: OutcomeFailure | null;
  /** The channels, the main one first, where there may be several. */
  channels?: ChannelResult[];
  /** Whether both ends were opened. */
  opened: boolean;
  /** Path of the partial file that was kept after a failure. */
  partialPath?: string | undefined;
  manifest?: Manifest | null | undefined;
}

/** Result of a relay that never began. */
export const NOTHING_MOVED: RelayResult = {
  complete: false,
  forward: { bytes: 0, xxh64: null },
  return: null,
  seconds: 0,
  limitedSeconds: 0,
  failure: null,
};

/** Return a message with the endpoint that failed, how far the relay got, and why. */
export function failureMessage(
  outcome: Outcome,
  names: Readonly<Record<RelayEnd, string>>,
  tls: TlsEnds,
): string {
  const { opened, partialPath } = outcome;
  const { end, error, channel } = outcome.failure as OutcomeFailure;
  const place =
    channel === undefined || channel === null
      ? ''
      : ` of ${channel === 0 ? 'the main channel' : `channel ${channel}`}`;
  const who = end === null ? 'the relay' : `"${end}" (${names[end]})${place}`;
  if (!opened) return `${who} cannot be opened: ${error.message}`;
  if (isEmptyInput(error)) return `${who} is empty: there is nothing to relay`;
  const left = partialPath === undefined ? '' : `; the part that arrived is in ${partialPath}`;
  const fault = streamFaultOf(error);
  if (fault?.fault === 'unsupported') {
    return `${who} cannot be checked: ${error.message}; --no-check relays it unchecked${left}`;
  }
  if (fault !== undefined) {
    return `${who} is not a valid migration stream: ${error.message}${left}`;
  }
  return `${who} failed ${after(outcome)}: ${error.message}${tlsHint(end, error, tls)}`;
}

/** Return a message with the signal that ended a relay, and how far the relay got. */
export function interruptionMessage(by: EndingSignal, outcome: Outcome): string {
  return `interrupted by ${by} ${outcome.opened ? after(outcome) : 'before the relay began'}`;
}

function after({ forward }: Outcome): string {
  return `after ${showExactSize(forward.bytes)}`;
}

/** Return a line about the bytes that were moved. */
export function summary(outcome: Outcome): string {
  const { forward, return: returned, seconds, limitedSeconds, channels } = outcome;
  const moved = `relayed ${showExactSize(forward.bytes)}`;
  const back = returned === null ? '' : ` and ${showExactSize(returned.bytes)} back`;
  const count = channels?.length ?? 1;
  const over = count > 1 ? ` over ${count} channels` : '';
  const rate = seconds > 0 ? `, ${showSize(Math.round(forward.bytes / seconds))}/s` : '';
  const limited = limitedSeconds > 0 ? `, limited for ${limitedSeconds.toFixed(1)} s` : '';
  return `${moved}${back}${over} in ${seconds.toFixed(1)} s${rate}${limited}`;
}

/** Return the requested report: the JSON object, the digests, or an empty string. */
export function reportOf(outcome: Outcome, from: string, to: string, flags: RelayFlags): string {
  const { forward, return: returned, complete, channels } = outcome;
  if (flags.json === true) {
    const seconds = toMilliseconds(outcome.seconds);
    const limitedSeconds = toMilliseconds(outcome.limitedSeconds);
    const moved = { from, to, forward, return: returned, seconds, limitedSeconds, complete };
    return `${JSON.stringify(channels === undefined ? moved : { ...moved, channels })}\n`;
  }
  if (flags.digest !== true) return '';
  if (channels === undefined) return digestLines(outcome, '');
  return channels.map((each, index) => digestLines(each, `${channelName(index)}  `)).join('');
}

function digestLines(
  { forward, return: back }: Pick<Outcome, 'forward' | 'return'>,
  prefix: string,
): string {
  const line = (name: string, { bytes, xxh64 }: RelayDirection): string =>
    `${prefix}${name.padEnd(7)}  ${xxh64 ?? '-'.repeat(16)}  ${bytes}\n`;
  return line('forward', forward) + (back === null ? '' : line('return', back));
}

function channelName(index: number): string {
  return index === 0 ? 'main channel' : `channel ${index}`;
}

function toMilliseconds(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}

import type { Socket } from 'node:net';
import { openTo } from '../../../adapters/open.ts';
import { admit, type Verdict } from '../../../adapters/socket/listen/admit.ts';
import { type Listener, listenSocket } from '../../../adapters/socket/listen/listen.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { SocketTarget } from '../../../adapters/socket/socket-target.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { CHANNEL_START_SIZE, kindOfChannel } from '../../migration/format/channel-kind.ts';
import type { QemuFileOptions } from '../../qemu-file/options.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { relayChannels } from '../../relay/relay-channels.ts';
import type { ChannelResult, ChannelsOptions } from '../../relay/relay-channels-types.ts';
import type { RelayDirection } from '../../relay/relay-types.ts';
import { connectionFilter } from '../endpoints/connection-filter.ts';
import type { Endpoint } from '../endpoints/endpoint.ts';
import { printListening } from '../endpoints/open-endpoints.ts';
import type { Ends } from '../endpoints/read-ends.ts';
import { Meter } from '../shell/progress.ts';
import { NOTHING_MOVED, type Outcome, type RelayFlags } from './outcome.ts';
import type { RelayMonitor } from './relay-status.ts';
import { ReturnPathVerdict } from './return-path-verdict.ts';
import { toOptionsOf } from './to-options.ts';

/** Connections that may wait to be classified or accepted. */
const BACKLOG = 64;

/** Return why a relay of several connections cannot run with these endpoints and options; undefined if it can. */
export function refuseSeveral(
  { from, to }: Pick<Ends, 'from' | 'to'>,
  flags: RelayFlags,
): string | undefined {
  const only = `--channels ${flags.channels}: `;
  for (const [name, uri] of Object.entries({ from, to })) {
    if (targetOf(uri) !== undefined) continue;
    return `${only}both ends must be sockets (tcp: or unix:), but <${name}> is not`;
  }
  const given = [
    flags.check === true ? '--check' : undefined,
    flags.manifest === undefined ? undefined : '--manifest',
    flags.tee === undefined ? undefined : '--tee',
  ].find((name) => name !== undefined);
  if (given === undefined) return undefined;
  return `${only}${given} works with one connection only, because it would not see the pages on the others`;
}

/** Relay a migration of several connections, with the progress line. */
export async function relaySeveral(
  ends: Ends,
  flags: RelayFlags,
  monitor: RelayMonitor,
  signal: AbortSignal,
): Promise<Outcome> {
  const quiet = flags.quiet === true;
  let listener: Listener;
  try {
    listener = await listenForChannels(ends, quiet, signal);
  } catch (error) {
    const failure = { end: 'from', error: toQemuFileError(error) } as const;
    return { ...NOTHING_MOVED, channels: [], failure, opened: false };
  }
  if (!quiet) printListening(listener.address);
  const meter = await Meter.start(() => monitor.measure(), undefined, quiet);
  const returnPath = new ReturnPathVerdict();
  let opened = false;
  try {
    const { channels, ...result } = await relayChannels({
      channels: flags.channels as number,
      signal,
      accept: acceptChannelsOf(listener),
      connect: connectChannels(ends, toOptionsOf(ends, flags, monitor)),
      onAllAccepted: () => void listener.close(),
      onReturned: returnPath.observe,
      onChannel: (source, target) => {
        opened = true;
        monitor.add(source, target);
      },
    });
    const refusal = flags.check === false ? null : returnPath.failure();
    const failure = result.failure ?? (refusal && { ...refusal, channel: 0 });
    const complete = failure === null;
    return { ...result, complete, failure, ...sumOf(channels), channels, opened };
  } finally {
    meter?.stop();
    await listener.close();
  }
}

/** Listen for the connections of a migration, and for no others. */
async function listenForChannels(
  { from, tls }: Ends,
  quiet: boolean,
  signal: AbortSignal,
): Promise<Listener> {
  const { admission, onConnectionError } = connectionFilter({ from, tls, quiet });
  const listener = await listenSocket(targetOf(from) as SocketTarget, {
    signal,
    tls: tls.from,
    backlog: BACKLOG,
    onConnectionError,
  });
  return admit(listener, { ...admission, maxPending: BACKLOG, classify: classifyChannel });
}

function acceptChannelsOf(listener: Listener): ChannelsOptions['accept'] {
  const sockets = new WeakMap<QemuFile, Socket>();
  return async ({ signal, main }) => {
    const alongside = main && sockets.get(main);
    const socket = await listener.accept({ signal, alongside });
    const file = new QemuFile(socketOps(socket, { closeNotify: false }));
    sockets.set(file, socket);
    return file;
  };
}

function connectChannels({ to, tls }: Ends, file: QemuFileOptions): ChannelsOptions['connect'] {
  let connections = 0;
  return ({ signal }) =>
    openTo(to as Extract<Endpoint, { scheme: 'tcp' | 'unix' }>, {
      signal,
      tls: tls.to,
      // Since 10.0 QEMU takes a further channel that ends without close_notify for a broken one.
      closeNotify: connections++ > 0,
      file,
    });
}

/** Accept what a channel may begin with. A silent channel is accepted beside the main one. */
function classifyChannel(start: Buffer): Verdict {
  if (start.length < CHANNEL_START_SIZE) return 'more';
  return kindOfChannel(start) === 'unknown' ? 'reject' : 'accept';
}

function targetOf(uri: Endpoint): SocketTarget | undefined {
  if (uri.scheme === 'tcp') return { host: uri.host, port: uri.port };
  return uri.scheme === 'unix' ? { path: uri.path } : undefined;
}

/** Return the sum over all channels, without digests, which exist per channel only. */
function sumOf(channels: readonly ChannelResult[]): {
  forward: RelayDirection;
  return: RelayDirection | null;
} {
  let forward = 0;
  let returned: number | null = null;
  for (const channel of channels) {
    forward += channel.forward.bytes;
    if (channel.return !== null) returned = (returned ?? 0) + channel.return.bytes;
  }
  return {
    forward: { bytes: forward, xxh64: null },
    return: returned === null ? null : { bytes: returned, xxh64: null },
  };
}

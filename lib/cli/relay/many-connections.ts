import type { Socket } from 'node:net';
import {
  admit,
  type Listener,
  listenSocket,
  openTo,
  type SocketTarget,
  socketOps,
  type Uri,
  type Verdict,
} from '../../../adapters/index.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { CHANNEL_START_SIZE, kindOfChannel } from '../../migration/format/channel-kind.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { RelayDirection } from '../../relay/relay.ts';
import { relayChannels } from '../../relay/relay-channels.ts';
import type { ChannelResult } from '../../relay/relay-channels-types.ts';
import { connectionFilter } from '../endpoints/connection-filter.ts';
import { printListening } from '../endpoints/open-endpoints.ts';
import { Meter } from '../shell/progress.ts';
import { NOTHING, type Outcome, type RelayEnds, type RelayFlags } from './outcome.ts';
import type { RelayMonitor } from './relay-status.ts';
import { ReturnPathVerdict } from './return-path-verdict.ts';

/** Connections that may wait to show what they are, or to be accepted. */
const BACKLOG = 64;

/** Tells why a relay of several connections cannot be as it was asked for; undefined if it can. */
export function refuseSeveral(
  { from, to }: Pick<RelayEnds, 'from' | 'to'>,
  flags: RelayFlags,
): string | undefined {
  const only = `--channels ${flags.channels}: `;
  for (const [name, uri] of Object.entries({ from, to })) {
    if (targetOf(uri) !== undefined) continue;
    return `${only}both ends must be sockets (tcp: or unix:), and <${name}> is none`;
  }
  const given = [
    flags.check === true ? '--check' : undefined,
    flags.manifest === undefined ? undefined : '--manifest',
    flags.tee === undefined ? undefined : '--tee',
  ].find((name) => name !== undefined);
  if (given === undefined) return undefined;
  return `${only}${given} is for one connection: pages on the others are not in what it would read`;
}

/** Relays a migration of several connections, with the progress line. */
export async function relaySeveral(
  { from, to, tls }: RelayEnds,
  flags: RelayFlags,
  steering: RelayMonitor,
  signal: AbortSignal,
): Promise<Outcome> {
  const quiet = flags.quiet === true;
  const door = connectionFilter({ from, tls, quiet });
  let listener: Listener;
  try {
    const { onConnectionError } = door;
    listener = admit(
      await listenSocket(targetOf(from) as SocketTarget, {
        signal,
        tls: tls.from,
        backlog: BACKLOG,
        onConnectionError,
      }),
      { ...door.admission, maxPending: BACKLOG, classify: welcomesChannel },
    );
  } catch (error) {
    const failure = { end: 'from', error: toQemuFileError(error) } as const;
    return { ...NOTHING, channels: [], failure, opened: false };
  }
  if (!quiet) printListening(listener.address);
  const meter = await Meter.start(() => steering.measure(), undefined, quiet);
  const sockets = new WeakMap<QemuFile, Socket>();
  const back = new ReturnPathVerdict();
  let opened = false;
  let connections = 0;
  try {
    const { channels, ...result } = await relayChannels({
      channels: flags.channels as number,
      signal,
      accept: async ({ signal: stop, main }) => {
        const alongside = main && sockets.get(main);
        const socket = await listener.accept({ signal: stop, alongside });
        const file = new QemuFile(socketOps(socket, { closeNotify: false }));
        sockets.set(file, socket);
        return file;
      },
      connect: ({ signal: stop }) =>
        openTo(to, {
          signal: stop,
          tls: tls.to,
          // QEMU takes a further channel that ends without it for one that was cut, since 10.0.
          closeNotify: connections++ > 0,
          file: {
            budget: steering.budget,
            ...(flags.digest === true ? { digest: 'xxh64' } : {}),
          },
        }),
      onAllAccepted: () => void listener.close(),
      onReturned: back.note,
      onChannel: (source, target) => {
        opened = true;
        steering.add(source, target);
      },
    });
    const said = flags.check === false ? null : back.failure();
    const failure = result.failure ?? (said && { ...said, channel: 0 });
    const complete = failure === null;
    return { ...result, complete, failure, ...sumOf(channels), channels, opened };
  } finally {
    meter?.stop();
    await listener.close();
  }
}

/** Lets in what a channel may begin with; what is silent comes alongside the main one. */
function welcomesChannel(start: Buffer): Verdict {
  if (start.length < CHANNEL_START_SIZE) return 'more';
  return kindOfChannel(start) === 'unknown' ? 'reject' : 'accept';
}

function targetOf(uri: Uri): SocketTarget | undefined {
  if (uri.scheme === 'tcp') return { host: uri.host, port: uri.port };
  return uri.scheme === 'unix' ? { path: uri.path } : undefined;
}

/** What all channels moved together; a digest is that of one channel. */
function sumOf(channels: readonly ChannelResult[]): {
  forward: RelayDirection;
  return: RelayDirection | null;
} {
  let forward = 0;
  let back: number | null = null;
  for (const channel of channels) {
    forward += channel.forward.bytes;
    if (channel.return !== null) back = (back ?? 0) + channel.return.bytes;
  }
  return {
    forward: { bytes: forward, xxh64: null },
    return: back === null ? null : { bytes: back, xxh64: null },
  };
}

import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { relay } from '../../relay/relay.ts';
import { openEndpoints, sizeOf } from '../endpoints/open-endpoints.ts';
import type { Ends } from '../endpoints/read-ends.ts';
import { Meter } from '../shell/progress.ts';
import { printStderr } from '../shell/stdio.ts';
import { fitMappedRam, streamOffsetOf } from './mapped-ram-offset.ts';
import { NOTHING_MOVED, type Outcome, type RelayFlags } from './outcome.ts';
import type { RelayMonitor } from './relay-status.ts';
import { ReturnPathVerdict } from './return-path-verdict.ts';
import { noticeStall } from './stall-notice.ts';
import { startCheck, streamFaultOf } from './stream-check.ts';
import { toOptionsOf } from './to-options.ts';

const STALL_NOTICE =
  'no bytes for 10 s; with its capability "return-path" on, QEMU waits for an answer that this destination ' +
  'cannot send: cancel the migration and turn the capability off';

/** Open both endpoints and relay one connection, with the progress line. */
export async function relayOne(
  places: Ends,
  flags: RelayFlags,
  monitor: RelayMonitor,
  signal: AbortSignal,
): Promise<Outcome> {
  const { from, to, tls } = places;
  const quiet = flags.quiet === true;
  let partialPath: string | undefined;
  const route = { from, to, tee: flags.tee };
  const ends = await openEndpoints({
    from,
    to,
    tee: flags.tee,
    toOptions: toOptionsOf(places, flags, monitor),
    // The part of a stream that broke off may be all that is left of a guest.
    keepPartial: (error, path) => {
      const isKept = streamFaultOf(error) !== undefined;
      if (isKept) partialPath = path;
      return isKept;
    },
    anything: flags.check === false,
    store: flags,
    tls,
    signal,
    quiet,
  });
  if ('error' in ends) return { ...NOTHING_MOVED, failure: ends, opened: false };
  const source = flags.check === false ? ends.from : await fitMappedRam(route, ends.from);
  if (!(source instanceof QemuFile)) {
    for (const file of [ends.from, ends.to, ends.tee]) file?.destroy(source.error);
    await Promise.allSettled([ends.from.close(), ends.to.close(), ends.tee?.close()]);
    return { ...NOTHING_MOVED, failure: source, opened: false };
  }
  monitor.add(source, ends.to);
  const meter = await Meter.start(() => monitor.measure(), sizeOf(from, ends.from), quiet);
  const stopWatch = noticeStall(source, ends.to, () => {
    if (!quiet) void printStderr(STALL_NOTICE);
  });
  try {
    const { tee } = ends;
    const running = startCheck(to, {
      ...flags,
      overTls: tls.from !== undefined,
      fileOffset: streamOffsetOf(to),
    });
    const returnPath = new ReturnPathVerdict();
    const result = await relay(source, ends.to, {
      tee,
      signal,
      check: running?.check,
      onReturned: returnPath.observe,
    });
    const failure = result.failure ?? (flags.check === false ? null : returnPath.failure());
    const complete = failure === null;
    const manifest = running?.manifest();
    return { ...result, complete, failure, opened: true, partialPath, manifest };
  } finally {
    stopWatch();
    meter?.stop();
  }
}

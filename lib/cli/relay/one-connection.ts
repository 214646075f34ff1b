import { relay } from '../../relay/relay.ts';
import { openEndpoints, sizeOf } from '../endpoints/open-endpoints.ts';
import { Meter } from '../shell/progress.ts';
import { printStderr } from '../shell/stdio.ts';
import { NOTHING, type Outcome, type RelayEnds, type RelayFlags } from './outcome.ts';
import type { RelayMonitor } from './relay-status.ts';
import { ReturnPathVerdict } from './return-path-verdict.ts';
import { noticeStall } from './stall-notice.ts';
import { checkOf, streamFaultOf } from './stream-check.ts';

const SILENCE =
  'nothing has come for 10 s; a QEMU whose capability "return-path" is on waits for an answer that ' +
  'such a destination cannot give: cancel the migration and turn it off';

/** Opens both ends and relays one connection, with the progress line. */
export async function relayOne(
  { from, to, tls }: RelayEnds,
  flags: RelayFlags,
  steering: RelayMonitor,
  signal: AbortSignal,
): Promise<Outcome> {
  const quiet = flags.quiet === true;
  let partialPath: string | undefined;
  const ends = await openEndpoints({
    from,
    to,
    tee: flags.tee,
    toOptions: {
      budget: steering.budget,
      ...(flags.digest === true ? { digest: 'xxh64' } : {}),
    },
    // What came of a stream that broke off may be all that there is.
    keepPartial: (error, path) => {
      const isKept = streamFaultOf(error) !== undefined;
      if (isKept) partialPath = path;
      return isKept;
    },
    anything: flags.check === false,
    tls,
    signal,
    quiet,
  });
  if ('error' in ends) return { ...NOTHING, failure: ends, opened: false };
  steering.add(ends.from, ends.to);
  const meter = await Meter.start(() => steering.measure(), sizeOf(from, ends.from), quiet);
  const endWatch = noticeStall(ends.from, ends.to, () => {
    if (!quiet) void printStderr(SILENCE);
  });
  try {
    const { tee } = ends;
    const reading = checkOf(to, { ...flags, overTls: tls.from !== undefined });
    const back = new ReturnPathVerdict();
    const result = await relay(ends.from, ends.to, {
      tee,
      signal,
      check: reading?.check,
      onReturned: back.note,
    });
    const failure = result.failure ?? (flags.check === false ? null : back.failure());
    const complete = failure === null;
    const manifest = reading?.manifest();
    return { ...result, complete, failure, opened: true, partialPath, manifest };
  } finally {
    endWatch();
    meter?.stop();
  }
}

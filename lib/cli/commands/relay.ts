import { isStoreUrl } from '../../../adapters/storage/store-url.ts';
import type { Uri } from '../../../adapters/uri.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import type { Manifest } from '../../migration/verify/manifest.ts';
import { BandwidthBudget } from '../../qemu-file/put/bandwidth-budget.ts';
import type { RelayEnd } from '../../relay/relay-types.ts';
import { type Endpoint, refuseStoreFlags } from '../endpoints/endpoint.ts';
import { isStdin, isStdout } from '../endpoints/open-endpoints.ts';
import { readEnds } from '../endpoints/read-ends.ts';
import { withControl } from '../relay/control-socket.ts';
import { refuseSeveral, relaySeveral } from '../relay/many-connections.ts';
import { relayOne } from '../relay/one-connection.ts';
import {
  failureMessage,
  interruptionMessage,
  type Outcome,
  type RelayFlags,
  reportOf,
  summary,
} from '../relay/outcome.ts';
import { RelayMonitor } from '../relay/relay-status.ts';
import { EXIT, exitCodeOf, SIGNAL_EXITS, SignalAbort } from '../shell/exit-codes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';
import { writeWholeFile } from '../shell/write-file.ts';

export type { RelayFlags } from '../relay/outcome.ts';

/**
 * Run `qemu-file relay`.
 *
 * @param fromText - The endpoint to read from, as typed.
 * @param toText - The endpoint to write to, as typed.
 * @param flags - Options.
 * @returns The exit code.
 */
export async function runRelay(
  fromText: string,
  toText: string,
  flags: RelayFlags,
): Promise<number> {
  const isSeveral = (flags.channels ?? 1) > 1;
  const ends = await readEnds(
    [fromText, toText],
    flags,
    ({ from, to }) =>
      refuseControl(from, flags) ??
      refuseStoreFlags(toText, flags) ??
      refuseTee(flags) ??
      (isSeveral ? refuseSeveral({ from, to }, flags) : undefined),
  );
  if (typeof ends === 'number') return ends;
  const names: Record<RelayEnd, string> = { from: fromText, to: toText, tee: flags.tee ?? '' };
  const tee: Uri = { scheme: 'file', path: names.tee, offset: 0 };
  const report = isStdout(ends.to) || isStdout(tee) ? process.stderr : process.stdout;

  using interruption = new SignalAbort();
  const budget = new BandwidthBudget(flags.maxBandwidth);
  using monitor = new RelayMonitor(budget, () => interruption.interrupt('SIGINT'));
  const move = isSeveral ? relaySeveral : relayOne;
  let outcome: Outcome;
  try {
    const answer = (line: string): void => void writeText(report, `${line}\n`);
    outcome = await withControl(flags.control, monitor, answer, () =>
      move(ends, flags, monitor, interruption.signal),
    );
  } catch (error) {
    if (flags.control === undefined) throw error;
    await printStderr(`--control (${flags.control}): ${toQemuFileError(error).message}`);
    return EXIT.IO;
  }
  let code: number = EXIT.DONE;
  if (outcome.failure !== null) {
    const { by } = interruption;
    code = by === undefined ? exitCodeOf(outcome.failure.error) : SIGNAL_EXITS[by];
    await printStderr(
      by === undefined
        ? failureMessage(outcome, names, ends.tls)
        : interruptionMessage(by, outcome),
    );
  } else if (flags.quiet !== true) {
    await printStderr(summary(outcome));
  }
  if (code === EXIT.DONE && !(await writeManifest(outcome.manifest, flags))) code = EXIT.IO;
  const isPrinted = await writeText(report, reportOf(outcome, fromText, toText, flags));
  return isPrinted || code !== EXIT.DONE ? code : EXIT.IO;
}

/** Return why `--control` cannot be used as given; undefined if it can. */
function refuseControl(from: Endpoint, { control }: RelayFlags): string | undefined {
  if (control !== '-' || !isStdin(from)) return undefined;
  return 'standard input is already <from>: give --control the path of a socket';
}

function refuseTee({ tee }: RelayFlags): string | undefined {
  if (tee === undefined || !isStoreUrl(tee)) return undefined;
  return '--tee writes a file: make the store <to>, and the other end the file of --tee';
}

/** Write the manifest if one was requested. Returns false if that failed. */
async function writeManifest(
  manifest: Manifest | null | undefined,
  flags: RelayFlags,
): Promise<boolean> {
  if (flags.manifest === undefined || !manifest) return true;
  try {
    await writeWholeFile(flags.manifest, `${JSON.stringify(manifest, null, 2)}\n`);
    return true;
  } catch (error) {
    await printStderr(
      `cannot write the manifest (${flags.manifest}): ${toQemuFileError(error).message}`,
    );
    return false;
  }
}

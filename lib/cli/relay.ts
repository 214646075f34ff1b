import { parseUri, type Uri } from '../../adapters/index.ts';
import { toQemuFileError } from '../errors.ts';
import type { Manifest } from '../migration/manifest.ts';
import { type RelayDirection, type RelayEnd, type RelayResult, relay } from '../relay.ts';
import { isStdout, openEndpoints, sizeOf } from './endpoints.ts';
import {
  type EndingSignal,
  EXIT,
  exitCodeOf,
  Interruption,
  isEmptyInput,
  SIGNAL_EXITS,
} from './exit.ts';
import { Meter, measurePuts } from './meter.ts';
import { checkOf, streamFaultOf } from './relay-check.ts';
import { watchSilence } from './silence.ts';
import { showExactSize, showSize } from './sizes.ts';
import { say, writeText } from './text.ts';
import { writeWhole } from './write-whole.ts';

/** Options of `qemu-file relay`. */
export interface RelayFlags {
  /** Bytes per second; 0 is no limit. */
  maxBandwidth?: number;
  digest?: boolean;
  /** Path of the copy. */
  tee?: string;
  /** False: the stream is not checked. Undefined: if it goes to a file. */
  check?: boolean;
  /** Path of the manifest. */
  manifest?: string;
  json?: boolean;
  quiet?: boolean;
}

/** What came of a relay, and what does not belong to the library's part of it. */
interface Moved {
  result: RelayResult;
  opened: boolean;
  /** Where what did not become a file was left. */
  partialPath?: string | undefined;
  manifest?: Manifest | null | undefined;
}

/** What a relay comes to that never began. */
const NOTHING: RelayResult = {
  complete: false,
  forward: { bytes: 0, xxh64: null },
  return: null,
  seconds: 0,
  limitedSeconds: 0,
  failure: null,
};

const SILENCE =
  'nothing has come for 10 s; a QEMU whose capability "return-path" is on waits for an answer that ' +
  'such a destination cannot give: cancel the migration and turn it off';

/**
 * The command `qemu-file relay`.
 *
 * @param fromText - Where from, as typed.
 * @param toText - Where to, as typed.
 * @param flags - Options.
 * @returns The exit code.
 */
export async function runRelay(
  fromText: string,
  toText: string,
  flags: RelayFlags,
): Promise<number> {
  let from: Uri;
  let to: Uri;
  try {
    from = parseUri(fromText);
    to = parseUri(toText);
  } catch (error) {
    await say(toQemuFileError(error).message.replace(/^\w+: parseUri: /, ''));
    return EXIT.USAGE;
  }
  const names: Record<RelayEnd, string> = { from: fromText, to: toText, tee: flags.tee ?? '' };
  const tee: Uri = { scheme: 'file', path: names.tee, offset: 0 };
  const report = isStdout(to) || isStdout(tee) ? process.stderr : process.stdout;

  using interruption = new Interruption();
  const moved = await move({ from, to }, flags, interruption.signal);
  const { result } = moved;
  let code: number = EXIT.DONE;
  if (result.failure !== null) {
    const { by } = interruption;
    code = by === undefined ? exitCodeOf(result.failure.error) : SIGNAL_EXITS[by];
    await say(by === undefined ? blame(moved, names) : interrupted(by, moved));
  } else if (flags.quiet !== true) {
    await say(summary(result));
  }
  if (code === EXIT.DONE && !(await writeManifest(moved.manifest, flags))) code = EXIT.IO;
  const said = await writeText(report, reportOf(result, fromText, toText, flags));
  return said || code !== EXIT.DONE ? code : EXIT.IO;
}

/** Writes the manifest, if one is wanted; false if that failed. */
async function writeManifest(
  manifest: Manifest | null | undefined,
  flags: RelayFlags,
): Promise<boolean> {
  if (flags.manifest === undefined || !manifest) return true;
  try {
    await writeWhole(flags.manifest, `${JSON.stringify(manifest, null, 2)}\n`);
    return true;
  } catch (error) {
    await say(`the manifest (${flags.manifest}): ${toQemuFileError(error).message}`);
    return false;
  }
}

/** Opens both ends and relays, with the progress line. */
async function move(
  { from, to }: { from: Uri; to: Uri },
  flags: RelayFlags,
  signal: AbortSignal,
): Promise<Moved> {
  const quiet = flags.quiet === true;
  let partialPath: string | undefined;
  const ends = await openEndpoints({
    from,
    to,
    tee: flags.tee,
    toOptions: {
      maxBandwidth: flags.maxBandwidth ?? 0,
      ...(flags.digest === true ? { digest: 'xxh64' } : {}),
    },
    // What came of a stream that broke off may be all that there is.
    keepPartial: (error, path) => {
      const isKept = streamFaultOf(error) !== undefined;
      if (isKept) partialPath = path;
      return isKept;
    },
    signal,
    quiet,
  });
  if ('error' in ends) return { result: { ...NOTHING, failure: ends }, opened: false };
  const shows = process.stderr.isTTY && !quiet;
  const meter = shows
    ? await Meter.start(measurePuts(ends.to), sizeOf(from, ends.from))
    : undefined;
  const endWatch = watchSilence(ends.from, ends.to, () => {
    if (!quiet) void say(SILENCE);
  });
  try {
    const { tee } = ends;
    const reading = checkOf(to, flags);
    const result = await relay(ends.from, ends.to, { tee, signal, check: reading?.check });
    return { result, opened: true, partialPath, manifest: reading?.manifest() };
  } finally {
    endWatch();
    meter?.stop();
  }
}

/** Which end failed, how far it got, and why. */
function blame({ result, opened, partialPath }: Moved, names: Record<RelayEnd, string>): string {
  const { end, error } = result.failure as NonNullable<RelayResult['failure']>;
  const who = end === null ? 'the relay' : `"${end}" (${names[end]})`;
  if (!opened) return `${who} cannot be opened: ${error.message}`;
  if (isEmptyInput(error)) return `${who} is empty: there is nothing to relay`;
  const left = partialPath === undefined ? '' : `; what came is in ${partialPath}`;
  if (streamFaultOf(error) !== undefined) {
    return `${who} is no sound migration stream: ${error.message}${left}`;
  }
  return `${who} failed ${after(result)}: ${error.message}`;
}

function interrupted(by: EndingSignal, { result, opened }: Moved): string {
  return `interrupted by ${by} ${opened ? after(result) : 'before the relay began'}`;
}

function after(result: RelayResult): string {
  return `after ${showExactSize(result.forward.bytes)}`;
}

function summary({ forward, return: back, seconds, limitedSeconds }: RelayResult): string {
  const moved = `relayed ${showExactSize(forward.bytes)}`;
  const returned = back === null ? '' : ` and ${showExactSize(back.bytes)} back`;
  const rate = seconds > 0 ? `, ${showSize(Math.round(forward.bytes / seconds))}/s` : '';
  const limited = limitedSeconds > 0 ? `, limited for ${limitedSeconds.toFixed(1)} s` : '';
  return `${moved}${returned} in ${seconds.toFixed(1)} s${rate}${limited}`;
}

function reportOf(result: RelayResult, from: string, to: string, flags: RelayFlags): string {
  const { forward, return: back, complete } = result;
  if (flags.json === true) {
    const seconds = toMilliseconds(result.seconds);
    const limitedSeconds = toMilliseconds(result.limitedSeconds);
    const object = { from, to, forward, return: back, seconds, limitedSeconds, complete };
    return `${JSON.stringify(object)}\n`;
  }
  if (flags.digest !== true) return '';
  return digestLine('forward', forward) + (back === null ? '' : digestLine('return', back));
}

function digestLine(name: string, { bytes, xxh64 }: RelayDirection): string {
  return `${name.padEnd(7)}  ${xxh64 ?? '-'.repeat(16)}  ${bytes}\n`;
}

function toMilliseconds(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}

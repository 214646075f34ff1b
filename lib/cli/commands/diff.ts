import { parseUri, type Uri } from '../../../adapters/index.ts';
import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { openScratchStore } from '../../extract/scratch-store.ts';
import {
  type ComparedGuest,
  compareGuests,
  type GuestDifferences,
} from '../../migration/diff/compare-guests.ts';
import { mapCells } from '../../migration/diff/diff-map.ts';
import { matchAny } from '../../migration/diff/ignore.ts';
import { readGuest } from '../../migration/diff/read-guest.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';
import { isStdin, sizeOf } from '../endpoints/open-endpoints.ts';
import { type OpenStream, openStream } from '../endpoints/open-stream.ts';
import { OutputError, UsageError, writeOutput } from '../shell/command-errors.ts';
import { EXIT, readExitCode, SIGNAL_EXITS, SignalAbort } from '../shell/exit-codes.ts';
import { Meter } from '../shell/progress.ts';
import { printStderr, writeText } from '../shell/stdio.ts';
import { differencesToJson } from './diff-json.ts';
import { DIFF_MAP_CELLS, DIFF_MAP_WIDTH, type DiffNames, showDifferences } from './diff-text.ts';

/** Options of `qemu-file diff`. */
export interface DiffFlags {
  /** Further channels of the first stream, and of the second. */
  aChannel?: readonly string[];
  bChannel?: readonly string[];
  /** Snapshots of qcow2 images, by name or ID. */
  aSnapshot?: string;
  bSnapshot?: string;
  /** Patterns of `DEVICE.FIELD`. */
  ignore?: readonly string[];
  /** Path for the HTML report. */
  html?: string;
  json?: boolean;
  quiet?: boolean;
}

/** One of the two endpoints. */
interface Side {
  /** As typed. */
  readonly text: string;
  readonly from: Uri;
  readonly channels: readonly Uri[];
  readonly snapshot: string | undefined;
}

/** An error of one of the streams. */
class SideError extends Error {
  override readonly name = 'SideError';
  readonly text: string;
  readonly error: QemuFileError;

  constructor(text: string, error: QemuFileError) {
    super(error.message, { cause: error });
    this.text = text;
    this.error = error;
  }
}

/**
 * Run `qemu-file diff`.
 *
 * @param aText - The first endpoint, as typed.
 * @param bText - The second endpoint.
 * @returns The exit code: 0 the guests are the same, 1 they differ, 3 one cannot be compared.
 */
export async function runDiff(aText: string, bText: string, flags: DiffFlags): Promise<number> {
  let a: Side;
  let b: Side;
  try {
    a = parseSide(aText, flags.aChannel, flags.aSnapshot);
    b = parseSide(bText, flags.bChannel, flags.bSnapshot);
    if (isStdin(a.from) && isStdin(b.from)) {
      throw new UsageError('only one of the two streams can come from standard input');
    }
  } catch (error) {
    await printStderr(error instanceof UsageError ? error.message : toQemuFileError(error).reason);
    return EXIT.USAGE;
  }
  using interruption = new SignalAbort();
  const { signal } = interruption;
  try {
    return await diff(a, b, flags, signal);
  } catch (error) {
    const { by } = interruption;
    if (by !== undefined) {
      await printStderr(`interrupted by ${by}`);
      return SIGNAL_EXITS[by];
    }
    return await reportFailure(error, `${aText}, ${bText}`);
  }
}

function parseSide(
  text: string,
  channels: readonly string[] | undefined,
  snapshot: string | undefined,
): Side {
  const from = parseUri(text);
  return { text, from, channels: (channels ?? []).map((channel) => parseUri(channel)), snapshot };
}

async function diff(a: Side, b: Side, flags: DiffFlags, signal: AbortSignal): Promise<number> {
  using scratchA = openScratchStore();
  using scratchB = openScratchStore();
  const quiet = flags.quiet === true;
  const guestA = await read(a, scratchA.store, quiet, signal);
  const guestB = await read(b, scratchB.store, quiet, signal);
  const differences = await compare(guestA, guestB, flags, signal);
  if (flags.html !== undefined) {
    await writeReport(flags.html, { a: a.text, b: b.text }, differences, guestA, guestB);
  }
  const isPrinted = await print({ a: a.text, b: b.text }, differences, guestA, guestB, flags);
  if (!isPrinted) return EXIT.IO;
  return differences.isSame ? EXIT.DONE : EXIT.BAD_STREAM;
}

/** Read the guest of one stream. */
async function read(
  { text, ...choice }: Side,
  store: Parameters<typeof readGuest>[1],
  quiet: boolean,
  signal: AbortSignal,
): Promise<ComparedGuest> {
  let stream: OpenStream | undefined;
  let meter: Meter | undefined;
  try {
    stream = await openStream({ ...choice, signal, quiet });
    const { outer, unwrapped, description, channels } = stream;
    const measure = () => ({ bytes: outer.getPosition, limitedMs: 0 });
    meter = await Meter.start(measure, sizeOf(choice.from, outer), quiet);
    const { file, fileOffset, seekable } = unwrapped;
    return await readGuest(file, store, { description, channels, fileOffset, seekable });
  } catch (error) {
    throw new SideError(text, toQemuFileError(error));
  } finally {
    meter?.stop();
    await stream?.close();
  }
}

async function compare(
  a: ComparedGuest,
  b: ComparedGuest,
  { ignore, quiet }: DiffFlags,
  signal: AbortSignal,
): Promise<GuestDifferences> {
  let bytes = 0;
  const meter = await Meter.start(() => ({ bytes, limitedMs: 0 }), undefined, quiet === true);
  try {
    return await compareGuests(a, b, {
      isIgnored: matchAny(ignore ?? []),
      signal,
      onProgress: (count) => {
        bytes += count;
      },
    });
  } finally {
    meter?.stop();
  }
}

/** Write the report, complete or not at all. */
async function writeReport(
  path: string,
  names: DiffNames,
  differences: GuestDifferences,
  a: ComparedGuest,
  b: ComparedGuest,
): Promise<void> {
  const { diffHtml } = await import('../report/html.ts');
  const html = await diffHtml({
    ...names,
    differences,
    mapOf: (block, maxCells) => mapCells(a.pages, b.pages, block, maxCells),
  });
  await writeOutput(path, html);
}

/** Print the differences; return false if standard output cannot be written. */
async function print(
  names: DiffNames,
  differences: GuestDifferences,
  a: ComparedGuest,
  b: ComparedGuest,
  { json, quiet }: DiffFlags,
): Promise<boolean> {
  if (json === true) {
    for (const piece of differencesToJson(differences)) {
      if (!(await writeText(process.stdout, piece))) return false;
    }
    return true;
  }
  if (quiet === true) return true;
  const lengthOf = ({ usedLength }: GuestDifferences['blocks'][number]): number =>
    Math.max(usedLength[0] ?? 0, usedLength[1] ?? 0);
  const largest = Math.max(...differences.blocks.map(lengthOf));
  const text = showDifferences(names, differences, (block) => {
    const cells = lengthOf(block) === largest ? DIFF_MAP_CELLS : DIFF_MAP_WIDTH;
    return mapCells(a.pages, b.pages, block, cells);
  });
  return writeText(process.stdout, text);
}

async function reportFailure(error: unknown, both: string): Promise<number> {
  if (error instanceof UsageError) {
    await printStderr(error.message);
    return EXIT.USAGE;
  }
  if (error instanceof OutputError) {
    await printStderr(`${error.path}: ${error.message}`);
    return EXIT.IO;
  }
  const text = error instanceof SideError ? error.text : both;
  const failure = error instanceof SideError ? error.error : toQemuFileError(error);
  await printStderr(`${text}: ${failure.message}`);
  // A stream that is damaged, incomplete or not supported cannot be compared.
  if (failure instanceof MigrationStreamError) return EXIT.INPUT;
  const code = readExitCode(failure);
  return code === EXIT.UNSUPPORTED ? EXIT.INPUT : code;
}

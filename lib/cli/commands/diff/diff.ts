import { parseUri, type Uri } from '../../../../adapters/uri.ts';
import { type QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import { openScratchStore, type ScratchStore } from '../../../extract/scratch-store.ts';
import { compareGuests, type GuestDifferences } from '../../../migration/diff/compare-guests.ts';
import { mapCells } from '../../../migration/diff/diff-map.ts';
import { matchAny } from '../../../migration/diff/ignore.ts';
import { MigrationStreamError } from '../../../migration/format/stream-error.ts';
import type { SavedGuest } from '../../../migration/saved-guest/saved-guest.ts';
import { type Endpoint, parseEndpoint } from '../../endpoints/endpoint.ts';
import { isStdin, sizeOf } from '../../endpoints/open-endpoints.ts';
import { openGuest } from '../../endpoints/open-guest.ts';
import type { StreamChoice } from '../../endpoints/open-stream.ts';
import type { TlsEnds } from '../../endpoints/tls/credentials.ts';
import {
  type FromTlsFlags,
  readFromTls,
  reportUnreadable,
} from '../../endpoints/tls/read-from-tls.ts';
import type { DiffReport } from '../../report/html.ts';
import { OutputError, UsageError, writeOutput } from '../../shell/command-errors.ts';
import { EXIT, readExitCode, SIGNAL_EXITS, SignalAbort } from '../../shell/exit-codes.ts';
import { Meter } from '../../shell/progress.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';
import { differencesToJson } from './diff-json.ts';
import { DIFF_MAP_CELLS, DIFF_MAP_WIDTH, type DiffNames, showDifferences } from './diff-text.ts';

/** Options of `qemu-file diff`. */
export interface DiffFlags extends FromTlsFlags {
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

/** Options that name further channels, for a hint about pages that are not in the stream itself. */
const CHANNEL_OPTIONS = '--a-channel FILE or --b-channel FILE';

/** One of the two endpoints. */
interface Side {
  /** As typed. */
  readonly text: string;
  readonly from: Endpoint;
  readonly channels: readonly Uri[];
  readonly snapshot: string | undefined;
}

type MapOf = DiffReport['mapOf'];

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
  let tls: TlsEnds | undefined;
  try {
    a = parseSide(aText, flags.aChannel, flags.aSnapshot);
    b = parseSide(bText, flags.bChannel, flags.bSnapshot);
    if (isStdin(a.from) && isStdin(b.from)) {
      throw new UsageError('only one of the two streams can come from standard input');
    }
    tls = await readFromTls(flags, (isSocket(a.from) ? a : b).from);
  } catch (error) {
    if (!(error instanceof UsageError)) return reportUnreadable(error);
    await printStderr(error.message);
    return EXIT.USAGE;
  }
  using interruption = new SignalAbort();
  const { signal } = interruption;
  try {
    return await diff(a, b, flags, tls, signal);
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
  const from = parseEndpoint(text);
  return { text, from, channels: (channels ?? []).map((channel) => parseUri(channel)), snapshot };
}

function isSocket({ scheme }: Endpoint): boolean {
  return scheme === 'tcp' || scheme === 'unix';
}

async function diff(
  a: Side,
  b: Side,
  flags: DiffFlags,
  tls: TlsEnds | undefined,
  signal: AbortSignal,
): Promise<number> {
  using scratchA = openScratchStore();
  using scratchB = openScratchStore();
  const quiet = flags.quiet === true;
  await using guestA = await open(a, scratchA, { quiet, tls, signal });
  await using guestB = await open(b, scratchB, { quiet, tls, signal });
  const guests = [guestA.guest, guestB.guest] as const;
  const differences = await compare(guests, flags, signal);
  const mapOf: MapOf = (block, maxCells) =>
    mapCells(guests[0].pages, guests[1].pages, block, maxCells);
  const names = { a: a.text, b: b.text };
  if (flags.html !== undefined) {
    const { diffHtml } = await import('../../report/html.ts');
    await writeOutput(flags.html, await diffHtml({ ...names, differences, mapOf }));
  }
  if (!(await print(names, differences, mapOf, flags))) return EXIT.IO;
  return differences.isSame ? EXIT.DONE : EXIT.BAD_STREAM;
}

/** Open the guest of one stream. */
async function open(
  { text, ...choice }: Side,
  scratch: ScratchStore,
  { quiet, tls, signal }: Pick<StreamChoice, 'quiet' | 'tls' | 'signal'>,
): Promise<{ guest: SavedGuest } & AsyncDisposable> {
  let meter: Promise<Meter | undefined> | undefined;
  try {
    const ends = isSocket(choice.from) ? tls : undefined;
    const guest = await openGuest({ ...choice, tls: ends, signal, quiet }, scratch, (outer) => {
      const measure = () => ({ bytes: outer.getPosition, limitedMs: 0 });
      meter = Meter.start(measure, sizeOf(choice.from, outer), quiet);
    });
    return { guest, [Symbol.asyncDispose]: () => guest.close() };
  } catch (error) {
    throw new SideError(text, toQemuFileError(error));
  } finally {
    (await meter)?.stop();
  }
}

async function compare(
  [a, b]: readonly [SavedGuest, SavedGuest],
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

/** Print the differences; return false if standard output cannot be written. */
async function print(
  names: DiffNames,
  differences: GuestDifferences,
  mapOf: MapOf,
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
    return mapOf(block, cells);
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
  const message = failure.message.replace('--channel FILE', CHANNEL_OPTIONS);
  await printStderr(`${text}: ${message}`);
  // A stream that is damaged, incomplete or not supported cannot be compared.
  if (failure instanceof MigrationStreamError) return EXIT.INPUT;
  const code = readExitCode(failure);
  return code === EXIT.UNSUPPORTED ? EXIT.INPUT : code;
}

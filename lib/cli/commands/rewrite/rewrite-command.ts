import { fstatSync, type Stats, statSync } from 'node:fs';
import { isStoreUrl } from '../../../../adapters/storage/store-url.ts';
import type { StreamLayout } from '../../../migration/guest-writer/guest-writer.ts';
import type { QemuFile } from '../../../qemu-file/qemu-file.ts';
import { type Endpoint, isSnapshot, refuseStoreFlags } from '../../endpoints/endpoint.ts';
import { layoutMistake } from '../../endpoints/layout-mistake.ts';
import { isStdout } from '../../endpoints/open-endpoints.ts';
import type { OpenStream } from '../../endpoints/open-stream.ts';
import { readEnds } from '../../endpoints/read-ends.ts';
import type { TlsFlags } from '../../endpoints/tls/credentials.ts';
import { UsageError } from '../../shell/command-errors.ts';
import { EXIT } from '../../shell/exit-codes.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';
import { type ReadFlags, readStream } from '../read-command.ts';
import { Output, type OutputFlags, type Rewritten } from './output.ts';

/** Options of the commands that read a stream and write another. */
export interface RewriteFlags extends ReadFlags, OutputFlags, TlsFlags {
  /** Where pages lie. Default: `convert` leaves it, `compact` writes `sequential`. */
  layout?: StreamLayout;
}

/** Bytes of a file that are read at a time: the time between a read and the write of its bytes counts for each. */
const FROM_FILE_BYTES = 4_194_304;

/**
 * Run a command that reads a stream and writes another, completely or not at all.
 *
 * @param work - Writes the stream to the output's file, and does not close it.
 * @returns The exit code.
 */
export async function rewriteStream(
  verb: string,
  [fromText, toText]: readonly [string, string],
  flags: RewriteFlags,
  work: (stream: OpenStream, output: Output, signal: AbortSignal) => Promise<Rewritten>,
): Promise<number> {
  const ends = await readEnds(
    [fromText, toText],
    flags,
    () =>
      refuseStoreFlags(toText, flags) ??
      layoutMistake(toText, flags.layout, { '--compress': flags.compress }),
  );
  if (typeof ends === 'number') return ends;
  const { from, to, tls } = ends;
  const lookAheadSize = from.scheme === 'file' ? FROM_FILE_BYTES : undefined;
  let output: Output | undefined;
  const measure = () => ({ bytes: output?.file.putPosition ?? 0, limitedMs: 0 });
  return readStream(
    fromText,
    flags,
    async (stream, signal) => {
      checkNotSame(stream.outer, to, toText);
      const store = withKnownSet(flags, fromText, to);
      output = await Output.open({ text: toText, to, flags: store, tls, signal });
      const report = await output.write((opened) => work(stream, opened, signal));
      const target = isStdout(to) ? process.stderr : process.stdout;
      return printReport({ verb, from: fromText, to: toText, ...report }, flags, target);
    },
    { meter: { measure, total: undefined }, lookAheadSize, tls },
  );
}

/** From one snapshot to another, the working set goes along. */
function withKnownSet(flags: RewriteFlags, fromText: string, to: Endpoint): RewriteFlags {
  if (flags.workingSet !== undefined || !isStoreUrl(fromText) || !isSnapshot(to)) return flags;
  return { ...flags, workingSet: fromText };
}

/** Refuse to write to the file that is read. */
function checkNotSame(from: QemuFile, to: Endpoint, toText: string): void {
  if (to.scheme !== 'file' || from.getFd() < 0) return;
  let target: Stats;
  try {
    target = statSync(to.path);
  } catch {
    return;
  }
  const source = fstatSync(from.getFd());
  if (!source.isFile() || source.dev !== target.dev || source.ino !== target.ino) return;
  throw new UsageError(`${toText} is the file that is read: give another one`);
}

/** Print what was written; return the exit code. */
async function printReport(
  report: Rewritten & { verb: string; from: string; to: string },
  { json, quiet }: RewriteFlags,
  target: NodeJS.WriteStream,
): Promise<number> {
  const { verb, from, to, before, after, notes } = report;
  if (quiet !== true) {
    for (const note of notes) await printStderr(`${from}: ${note}`);
    await printStderr(`${verb} ${from} (${before} bytes) to ${to} (${after} bytes)`);
  }
  if (json !== true) return EXIT.DONE;
  const text = `${JSON.stringify({ from, to, bytesBefore: before, bytesAfter: after, notes })}\n`;
  return (await writeText(target, text)) ? EXIT.DONE : EXIT.IO;
}

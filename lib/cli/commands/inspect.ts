import { openScratchStore } from '../../extract/scratch-store.ts';
import type { RamBlock } from '../../migration/format/events.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';
import { combineVisitors } from '../../migration/memory/combine-visitors.ts';
import { RamMap } from '../../migration/memory/ram-map.ts';
import { MigrationReader } from '../../migration/reader/migration-reader.ts';
import { BlockDigests } from '../../migration/verify/block-digests.ts';
import { pagesAgain } from '../../migration/verify/read-again.ts';
import { StreamSummarizer, type StreamSummary } from '../../migration/verify/summary.ts';
import { loadDigest } from '../../util/digest.ts';
import type { OpenStream } from '../endpoints/open-stream.ts';
import { UsageError, writeOutput } from '../shell/command-errors.ts';
import { EXIT, readExitCode } from '../shell/exit-codes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';
import { faultHint } from './fault-hint.ts';
import { faultToJson, summarizeParts } from './json.ts';
import { type ReadFlags, readStream } from './read-command.ts';
import { type BlockMap, MAP_CELLS, MAP_WIDTH, showSummary } from './summary-text.ts';

/** Options of `qemu-file inspect`. */
export interface InspectFlags extends ReadFlags {
  /** Name of the device whose state is to be printed. */
  device?: string;
  /** Path for the HTML report. */
  html?: string;
  digest?: boolean;
  /** Print the domain XML of a save image of libvirt, and its cookie. */
  xml?: boolean;
  /** List the snapshots of a qcow2 image. */
  snapshots?: boolean;
  /** JSON lists every `PART` of a section. */
  'json=full'?: boolean;
}

/** Cells of the map of one block in a report. */
const REPORT_CELLS = 2048;

/** The result of reading a stream. */
interface Inspection {
  summary: StreamSummary;
  blocks: readonly RamBlock[];
  map: RamMap | null;
  /** The fault at which reading stopped. */
  failure: MigrationStreamError | null;
}

/**
 * Run `qemu-file inspect`.
 *
 * @param fromText - The endpoint, as typed.
 * @returns The exit code.
 */
export async function runInspect(fromText: string, flags: InspectFlags): Promise<number> {
  const mistake = usageMistake(flags);
  if (mistake !== null) {
    await printStderr(mistake);
    return EXIT.USAGE;
  }
  if (flags.snapshots === true) {
    const { listSnapshots } = await import('./snapshots.ts');
    return listSnapshots(fromText, flags.json === true);
  }
  return readStream(fromText, flags, async (stream, signal) => {
    if (flags.xml === true) return printXml(fromText, stream, flags);
    const inspection = await inspect(stream, flags, signal);
    const { summary, failure } = inspection;
    if (flags.html !== undefined) await writeReport(fromText, flags.html, inspection);
    const text = textOf(fromText, inspection, flags);
    const isPrinted = await writeText(process.stdout, text);
    if (failure === null) return isPrinted ? EXIT.DONE : EXIT.IO;
    await printStderr(`${fromText}: ${failure.message}`);
    if (flags.json !== true && flags.quiet !== true && summary.sections.length > 0) {
      await printStderr('the output shows the part of the stream before that');
    }
    const hint = faultHint(failure);
    if (flags.quiet !== true && hint !== null) await printStderr(hint);
    return readExitCode(failure);
  });
}

/** Return why options cannot be used together; null if they can. */
function usageMistake({
  snapshots,
  xml,
  device,
  html,
  digest,
  snapshot,
}: InspectFlags): string | null {
  const alone = snapshots === true ? '--snapshots' : xml === true ? '--xml' : null;
  if (alone === null) return null;
  if (snapshots === true && snapshot !== undefined) {
    return '--snapshots lists all snapshots, --snapshot chooses one: remove one of them';
  }
  const isAlone = !(snapshots === true && xml === true) && device === undefined;
  if (isAlone && html === undefined && digest !== true) return null;
  return `${alone} prints nothing else: remove the other options`;
}

/** Print the domain XML that libvirt saved with a stream, and its cookie. */
async function printXml(
  fromText: string,
  { unwrapped: { libvirt } }: OpenStream,
  { json }: InspectFlags,
): Promise<number> {
  if (libvirt === undefined) {
    throw new UsageError(`${fromText}: not a save image of libvirt: it has no domain XML`);
  }
  const parts = libvirt.cookie === null ? [libvirt.xml] : [libvirt.xml, libvirt.cookie];
  const text =
    json === true
      ? `${JSON.stringify(libvirt)}\n`
      : parts.map((part) => `${escapeControls(part.trimEnd())}\n`).join('');
  return (await writeText(process.stdout, text)) ? EXIT.DONE : EXIT.IO;
}

/** Write control characters, which XML does not allow, as character references: a terminal must not obey them. */
function escapeControls(xml: string): string {
  return xml.replace(/[^\P{Cc}\t\n\r]/gu, (char) => `&#${char.charCodeAt(0)};`);
}

async function inspect(
  { unwrapped, description, channels }: OpenStream,
  flags: InspectFlags,
  signal: AbortSignal,
): Promise<Inspection> {
  using scratch = openScratchStore();
  const needsMap = flags.html !== undefined || (flags.json !== true && flags.device === undefined);
  const map = needsMap ? new RamMap() : null;
  const { file, container, fileOffset, seekable } = unwrapped;
  const options = { description, channels, fileOffset, seekable };
  let image: BlockDigests | null = null;
  if (flags.digest === true) {
    await loadDigest();
    image = new BlockDigests({ store: scratch.store, readAgain: pagesAgain(file, options) });
  }
  const pages = combineVisitors([map, image].filter((visitor) => visitor !== null));
  const reader = new MigrationReader(file, { pages, ...options });
  const summarizer = new StreamSummarizer();
  let failure: MigrationStreamError | null = null;
  let isStream = false;
  try {
    for await (const event of reader) {
      isStream = true;
      summarizer.add(event);
    }
  } catch (error) {
    if (!(error instanceof MigrationStreamError) || !isStream) throw error;
    failure = error;
  }
  const digests = new Map<string, string>();
  if (image !== null && failure === null) {
    for (const block of reader.ram.blocks) {
      digests.set(block.name, await image.digest(block, { signal }));
    }
  }
  if (map?.isIncomplete === true)
    summarizer.warn('the map is incomplete: the pages are too far apart');
  const summary = summarizer.summary(reader.ram, container, ({ name }) => digests.get(name));
  return { summary, blocks: reader.ram.blocks, map, failure };
}

function textOf(title: string, inspection: Inspection, flags: InspectFlags): string {
  const { summary, failure } = inspection;
  if (flags.device !== undefined) return deviceText(summary, flags.device);
  if (flags.json === true) {
    const sections =
      flags['json=full'] === true ? summary.sections : summarizeParts(summary.sections);
    const object = { ...summary, sections };
    return `${JSON.stringify(failure === null ? object : { ...object, failure: faultToJson(failure) })}\n`;
  }
  return showSummary(
    title,
    summary,
    mapsOf(inspection, (isLargest) => (isLargest ? MAP_CELLS : MAP_WIDTH)),
  );
}

function deviceText({ devices }: StreamSummary, name: string): string {
  if (Object.hasOwn(devices, name)) return `${JSON.stringify(devices[name], null, 2)}\n`;
  const names = Object.keys(devices);
  const known = names.length === 0 ? 'it has none' : `its devices are ${names.join(', ')}`;
  throw new UsageError(`the stream has no device ${JSON.stringify(name)}; ${known}`);
}

function mapsOf({ blocks, map }: Inspection, cellsOf: (isLargest: boolean) => number): BlockMap[] {
  if (map === null) return [];
  const largest = Math.max(...blocks.map(({ usedLength }) => usedLength));
  return blocks.map((block) => ({
    name: block.name,
    usedLength: block.usedLength,
    cells: map.cells(block, cellsOf(block.usedLength === largest)),
  }));
}

/** Write the report, complete or not at all. */
async function writeReport(title: string, path: string, inspection: Inspection): Promise<void> {
  const { reportHtml } = await import('../report/html.ts');
  const maps = mapsOf(inspection, () => REPORT_CELLS);
  const html = await reportHtml({ title, summary: inspection.summary, maps });
  await writeOutput(path, html);
}

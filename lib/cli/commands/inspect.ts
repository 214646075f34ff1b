import { openScratchStore } from '../../extract/scratch-store.ts';
import type { RamBlock } from '../../migration/format/events.ts';
import { MigrationStreamError, type SectionName } from '../../migration/format/stream-error.ts';
import { combineVisitors } from '../../migration/memory/combine-visitors.ts';
import { RamImage } from '../../migration/memory/ram-image.ts';
import { RamMap } from '../../migration/memory/ram-map.ts';
import { MigrationReader } from '../../migration/reader/migration-reader.ts';
import { StreamSummarizer, type StreamSummary } from '../../migration/verify/summary.ts';
import type { OpenStream } from '../endpoints/open-stream.ts';
import { EXIT, readExitCode } from '../shell/exit-codes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';
import { type ReadFlags, readStream, UsageError, writeOutput } from './read-command.ts';
import { type BlockMap, MAP_CELLS, MAP_WIDTH, showSummary } from './summary-text.ts';

/** Options of `qemu-file inspect`. */
export interface InspectFlags extends ReadFlags {
  /** Name of the device whose state is printed. */
  device?: string;
  /** Path of the report. */
  html?: string;
  digest?: boolean;
}

/** Cells of a block's map in a report. */
const REPORT_CELLS = 2048;

/** What came of reading a stream. */
interface Inspection {
  summary: StreamSummary;
  blocks: readonly RamBlock[];
  map: RamMap | null;
  failure: MigrationStreamError | null;
}

/**
 * The command `qemu-file inspect`.
 *
 * @param fromText - Where from, as typed.
 * @returns The exit code.
 */
export function runInspect(fromText: string, flags: InspectFlags): Promise<number> {
  return readStream(fromText, flags, async (stream, signal) => {
    const inspection = await inspect(stream, flags, signal);
    const { summary, failure } = inspection;
    if (flags.html !== undefined) await writeReport(fromText, flags.html, inspection);
    const text = textOf(fromText, inspection, flags);
    const said = await writeText(process.stdout, text);
    if (failure === null) return said ? EXIT.DONE : EXIT.IO;
    await printStderr(`${fromText}: ${failure.message}`);
    if (flags.json !== true && flags.quiet !== true && summary.sections.length > 0) {
      await printStderr('what is shown is what came before that');
    }
    return readExitCode(failure);
  });
}

async function inspect(
  { unwrapped, description, channels }: OpenStream,
  flags: InspectFlags,
  signal: AbortSignal,
): Promise<Inspection> {
  using kept = openScratchStore();
  const wantsMap = flags.html !== undefined || (flags.json !== true && flags.device === undefined);
  const map = wantsMap ? new RamMap() : null;
  const image = flags.digest === true ? new RamImage({ store: kept.store }) : null;
  const { file, container, fileOffset, seekable } = unwrapped;
  const pages = combineVisitors([map, image].filter((visitor) => visitor !== null));
  const reader = new MigrationReader(file, { pages, description, channels, fileOffset, seekable });
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
    summarizer.warn('the map is not complete: pages lie too far apart');
  const summary = summarizer.summary(reader.ram, container, ({ name }) => digests.get(name));
  return { summary, blocks: reader.ram.blocks, map, failure };
}

function textOf(title: string, inspection: Inspection, flags: InspectFlags): string {
  const { summary, failure } = inspection;
  if (flags.device !== undefined) return deviceText(summary, flags.device);
  if (flags.json === true) {
    return `${JSON.stringify(failure === null ? summary : { ...summary, failure: faultOf(failure) })}\n`;
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
  const known = names.length === 0 ? 'there is none' : `there are ${names.join(', ')}`;
  throw new UsageError(`no device ${JSON.stringify(name)}: ${known}`);
}

/** A fault as programs get it. */
export function faultOf(error: MigrationStreamError): object {
  const { message, reason, fault, position, section } = error;
  return { message, reason, fault, offset: position ?? null, section: nameOf(section) };
}

/** What tells a section from others; it may have come with all that is known about it. */
function nameOf(section: SectionName | undefined): SectionName | null {
  if (section === undefined) return null;
  const { sectionId, name, instanceId } = section;
  return { sectionId, name, instanceId };
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

/** Writes the report, whole or not at all. */
async function writeReport(title: string, path: string, inspection: Inspection): Promise<void> {
  const { reportHtml } = await import('../report/html.ts');
  const maps = mapsOf(inspection, () => REPORT_CELLS);
  const html = await reportHtml({ title, summary: inspection.summary, maps });
  await writeOutput(path, html);
}

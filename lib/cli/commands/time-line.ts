import type { SectionSummary, StreamSummary } from '../../migration/verify/summary.ts';
import { printable } from '../../util/format.ts';
import { showSize } from '../shell/sizes.ts';

/** Sections that one line names; if there are more, it prints their number. */
const MAX_NAMES = 4;

/** A line of the time line: consecutive pieces of sections, or commands of one kind. */
interface Row {
  offset: number;
  bytes: number;
  /** Number of pieces by what they are: `ram PART`. */
  counts: Map<string, number>;
  isPart: boolean;
}

/**
 * Show the order of a stream. Pieces of one kind in a row are one line. So are the `PART`s of sections that
 * take turns, as those of RAM and a dirty bitmap do: a stream can have tens of thousands of them.
 */
export function showTimeLine(summary: StreamSummary): string {
  const rows = foldTurns(foldRuns(summary)).map(({ offset, bytes, counts }) => [
    `${offset}`,
    describeCounts(counts),
    showSize(bytes),
  ]);
  if (summary.vmDescription) rows.push(['end', 'VM description', '']);
  return `Time line\n${alignColumns(rows)}\n`;
}

function foldRuns({ sections, commands }: StreamSummary): Row[] {
  const items = [
    ...sections.map((section) => ({
      ...{ offset: section.offset, bytes: section.bytes, isPart: section.kind === 'part' },
      what: describeSection(section),
    })),
    ...commands.map(({ offset, name, bytes }) => ({
      ...{ offset, bytes, isPart: false },
      what: `command ${name}`,
    })),
  ].sort((a, b) => a.offset - b.offset);
  const rows: Row[] = [];
  for (const { offset, bytes, what, isPart } of items) {
    const last = rows.at(-1);
    const count = last?.counts.get(what);
    if (last !== undefined && count !== undefined) {
      last.counts.set(what, count + 1);
      last.bytes += bytes;
    } else {
      rows.push({ offset, bytes, counts: new Map([[what, 1]]), isPart });
    }
  }
  return rows;
}

function describeSection({ kind, name }: SectionSummary): string {
  return kind === 'full' ? 'devices' : `${printable(name)} ${kind.toUpperCase()}`;
}

/** Make one row of adjacent rows of `PART`s in which a section occurs more than once. */
function foldTurns(rows: readonly Row[]): Row[] {
  const folded: Row[] = [];
  for (let first = 0; first < rows.length; ) {
    let end = first;
    while (rows[end]?.isPart === true) end++;
    const parts = rows.slice(first, end);
    if (parts.length === 0) {
      folded.push(rows[first] as Row);
      first++;
      continue;
    }
    const merged = mergeRows(parts);
    if (merged.counts.size < parts.length) folded.push(merged);
    else folded.push(...parts);
    first = end;
  }
  return folded;
}

function mergeRows(rows: readonly Row[]): Row {
  const counts = new Map<string, number>();
  let bytes = 0;
  for (const row of rows) {
    bytes += row.bytes;
    for (const [what, count] of row.counts) counts.set(what, (counts.get(what) ?? 0) + count);
  }
  return { offset: (rows[0] as Row).offset, bytes, counts, isPart: true };
}

/** Describe pieces: `ram PART × 3`; of several sections `ram PART, block PART × 3`, or each with its number. */
function describeCounts(counts: ReadonlyMap<string, number>): string {
  const entries = [...counts];
  const named = entries.slice(0, MAX_NAMES);
  const rest = entries.slice(MAX_NAMES);
  const [, first] = entries[0] as [string, number];
  const times = (count: number): string => (count === 1 ? '' : ` × ${count}`);
  const isEven = entries.every(([, count]) => count === first);
  const names = named.map(([what, count]) => (isEven ? what : `${what}${times(count)}`)).join(', ');
  const more = rest.length === 0 ? '' : ` and PARTs of ${rest.length} more sections`;
  return `${names}${more}${isEven ? times(first) : ''}`;
}

/** Return lines of three cells: right-aligned, left-aligned, right-aligned. */
function alignColumns(rows: readonly string[][]): string {
  const width = (column: number): number =>
    Math.max(0, ...rows.map((row) => (row[column] as string).length));
  const [first, second, third] = [width(0), width(1), width(2)];
  return rows
    .map(([at, what, size]) =>
      `  ${(at as string).padStart(first)}  ${(what as string).padEnd(second)}  ${(size as string).padStart(third)}`.trimEnd(),
    )
    .join('\n');
}

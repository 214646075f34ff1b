import type { SectionKind } from '../../migration/format/events.ts';
import type {
  CommandSummary,
  SectionSummary,
  StreamSummary,
} from '../../migration/verify/summary.ts';
import type { EventRow, PieceRow, SectionRow } from './page/model.ts';

/** Greatest number of sections in the table. */
const MAX_SECTIONS = 4000;
/** Greatest number of rows for pieces, of all sections and of one. */
const MAX_PIECES = 20_000;
const MAX_PIECES_PER_SECTION = 200;
/** Greatest number of entries in the list of events. */
const MAX_EVENTS = 1500;
/** Greatest number of names and of details in an entry, and of characters in a detail. */
const MAX_NAMES = 6;
const MAX_DETAILS = 16;
const MAX_DETAIL_CHARS = 300;

/** Make one row of all pieces of a section, and keep the largest sections. */
export function foldSections(sections: readonly SectionSummary[]): {
  rows: SectionRow[];
  total: number;
  more: { count: number; bytes: number };
} {
  const groups = new Map<string, SectionSummary[]>();
  for (const section of sections) {
    const key = `${section.sectionId} ${section.instanceId} ${section.name}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [section]);
    else group.push(section);
  }
  const sorted = [...groups.values()]
    .map((pieces) => ({ pieces, bytes: sum(pieces) }))
    .sort((a, b) => b.bytes - a.bytes);
  const kept = sorted.slice(0, MAX_SECTIONS);
  const rest = sorted.slice(MAX_SECTIONS);
  const inPieces = kept.filter(({ pieces }) => pieces.length > 1).length;
  const maxPieces = Math.max(
    4,
    Math.min(MAX_PIECES_PER_SECTION, Math.floor(MAX_PIECES / inPieces)),
  );
  return {
    rows: kept.map(({ pieces, bytes }) => sectionRow(pieces, bytes, maxPieces)),
    total: groups.size,
    more: { count: rest.length, bytes: rest.reduce((total, { bytes }) => total + bytes, 0) },
  };
}

function sum(pieces: readonly { bytes: number }[]): number {
  let bytes = 0;
  for (const piece of pieces) bytes += piece.bytes;
  return bytes;
}

function sectionRow(
  pieces: readonly SectionSummary[],
  bytes: number,
  maxPieces: number,
): SectionRow {
  const { name, sectionId, instanceId, versionId, offset } = pieces[0] as SectionSummary;
  const kinds: Partial<Record<SectionKind, number>> = {};
  for (const { kind } of pieces) kinds[kind] = (kinds[kind] ?? 0) + 1;
  return {
    ...{ name, sectionId, instanceId, versionId, kinds, count: pieces.length, offset, bytes },
    pieces: pieces.length === 1 ? [] : pieceRows(pieces, maxPieces),
  };
}

/** Return the first and the last piece, usually `START` and `END`, and runs of equal length in between. */
function pieceRows(pieces: readonly SectionSummary[], maxPieces: number): PieceRow[] {
  const inner = pieces.length - 2;
  const each = Math.max(1, Math.ceil(inner / (maxPieces - 2)));
  const rows = [pieceRow(pieces.slice(0, 1))];
  for (let at = 1; at <= inner; at += each) {
    rows.push(pieceRow(pieces.slice(at, Math.min(at + each, inner + 1))));
  }
  rows.push(pieceRow(pieces.slice(-1)));
  return rows;
}

function pieceRow(run: readonly SectionSummary[]): PieceRow {
  const { kind, offset } = run[0] as SectionSummary;
  const isOneKind = run.every((piece) => piece.kind === kind);
  return { kind: isOneKind ? kind : 'mixed', count: run.length, offset, bytes: sum(run) };
}

/** Put sections and commands in order, with adjacent ones of one kind as one entry. */
export function foldEvents({ sections, commands }: StreamSummary): {
  rows: EventRow[];
  more: number;
} {
  const rows: EventRow[] = [];
  let names = new Map<string, number>();
  let more = 0;
  const close = (): void => {
    const row = rows.at(-1);
    if (row === undefined) return;
    row.names = [...names].slice(0, MAX_NAMES);
    row.moreNames = names.size - row.names.length;
  };
  for (const item of inOrder(sections, commands)) {
    const kind: EventRow['kind'] = isCommand(item) ? 'command' : item.kind;
    let row = rows.at(-1);
    const isNext = row?.kind !== kind || (kind === 'command' && !names.has(item.name));
    // After the first item that is left out, all are.
    if (more > 0 || (isNext && rows.length === MAX_EVENTS)) {
      more++;
      continue;
    }
    if (row === undefined || isNext) {
      close();
      names = new Map();
      row = { kind, count: 0, offset: item.offset, bytes: 0, names: [], moreNames: 0, details: [] };
      rows.push(row);
    }
    names.set(item.name, (names.get(item.name) ?? 0) + 1);
    row.count++;
    row.bytes += item.bytes;
    const detail = isCommand(item) && row.details.length < MAX_DETAILS ? detailOf(item) : '';
    if (detail !== '') row.details.push(detail);
  }
  close();
  return { rows, more };
}

function isCommand(item: SectionSummary | CommandSummary): item is CommandSummary {
  return !('sectionId' in item);
}

function* inOrder(
  sections: readonly SectionSummary[],
  commands: readonly CommandSummary[],
): Generator<SectionSummary | CommandSummary> {
  let at = 0;
  for (const section of sections) {
    for (; at < commands.length; at++) {
      const command = commands[at] as CommandSummary;
      if (command.offset > section.offset) break;
      yield command;
    }
    yield section;
  }
  yield* commands.slice(at);
}

/** Describe the fields of a command. */
function detailOf(command: CommandSummary): string {
  const { offset: _offset, bytes: _bytes, name, number, ...fields } = command;
  const parts = name === 'UNKNOWN' ? [`number ${number}`] : [];
  for (const [field, value] of Object.entries(fields)) {
    if (Array.isArray(value)) parts.push(`${field} ${value.length}${lengthOf(value)}`);
    else if (value !== null && value !== undefined) parts.push(`${field} ${textOf(value)}`);
  }
  const text = parts.join(', ');
  return text.length > MAX_DETAIL_CHARS ? `${text.slice(0, MAX_DETAIL_CHARS)}…` : text;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Return the total length of a list of ranges, as text; empty if the list is of something else. */
function lengthOf(ranges: readonly unknown[]): string {
  let bytes = 0;
  for (const range of ranges) {
    const { length } = range as { length?: unknown };
    if (typeof length !== 'number') return '';
    bytes += length;
  }
  return ` (${bytes} bytes)`;
}

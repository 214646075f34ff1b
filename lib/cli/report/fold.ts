import type { SectionKind } from '../../migration/format/events.ts';
import type {
  CommandSummary,
  SectionSummary,
  StreamSummary,
} from '../../migration/verify/summary.ts';
import type { EventRow, PieceRow, SectionRow } from './page/model.ts';

/** Rows of a table of sections at most, and rows of pieces under all of them. */
const MAX_SECTIONS = 4000;
const MAX_PIECES = 20_000;
const MAX_PIECES_EACH = 200;
/** Entries of a time line at most, names in an entry, and details, which have so many characters. */
const MAX_EVENTS = 1500;
const MAX_NAMES = 6;
const MAX_DETAILS = 16;
const DETAIL_LENGTH = 300;

/** Folds the pieces of each section into one row; of many sections the largest stay. */
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
  const most = Math.max(4, Math.min(MAX_PIECES_EACH, Math.floor(MAX_PIECES / inPieces)));
  return {
    rows: kept.map(({ pieces, bytes }) => sectionRow(pieces, bytes, most)),
    total: groups.size,
    more: { count: rest.length, bytes: rest.reduce((total, { bytes }) => total + bytes, 0) },
  };
}

function sum(pieces: readonly { bytes: number }[]): number {
  let bytes = 0;
  for (const piece of pieces) bytes += piece.bytes;
  return bytes;
}

function sectionRow(pieces: readonly SectionSummary[], bytes: number, most: number): SectionRow {
  const { name, sectionId, instanceId, versionId, offset } = pieces[0] as SectionSummary;
  const kinds: Partial<Record<SectionKind, number>> = {};
  for (const { kind } of pieces) kinds[kind] = (kinds[kind] ?? 0) + 1;
  return {
    ...{ name, sectionId, instanceId, versionId, kinds, count: pieces.length, offset, bytes },
    pieces: pieces.length === 1 ? [] : pieceRows(pieces, most),
  };
}

/** The first and last piece, which usually are the start and the end, and equal runs in between. */
function pieceRows(pieces: readonly SectionSummary[], most: number): PieceRow[] {
  const inner = pieces.length - 2;
  const each = Math.max(1, Math.ceil(inner / (most - 2)));
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

/** Puts sections and commands in their order, neighbours of one kind folded into one entry. */
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
    // Once something is left out, all behind it is.
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

/** What a command says besides its name. */
function detailOf(command: CommandSummary): string {
  const { offset: _offset, bytes: _bytes, name, number, ...fields } = command;
  const parts = name === 'UNKNOWN' ? [`number ${number}`] : [];
  for (const [field, value] of Object.entries(fields)) {
    if (Array.isArray(value)) parts.push(`${field} ${value.length}${lengthOf(value)}`);
    else if (value !== null && value !== undefined) parts.push(`${field} ${textOf(value)}`);
  }
  const text = parts.join(', ');
  return text.length > DETAIL_LENGTH ? `${text.slice(0, DETAIL_LENGTH)}…` : text;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Of a list of ranges how much they cover together. */
function lengthOf(ranges: readonly unknown[]): string {
  let bytes = 0;
  for (const range of ranges) {
    const { length } = range as { length?: unknown };
    if (typeof length !== 'number') return '';
    bytes += length;
  }
  return ` (${bytes} bytes)`;
}

import type { PageCounts } from '../../migration/format/events.ts';
import type { MapCell } from '../../migration/memory/ram-map.ts';
import type { SectionSummary, StreamSummary } from '../../migration/verify/summary.ts';
import { printable } from '../../util/format.ts';
import { showExactSize, showSize } from '../shell/sizes.ts';

/** The pages of a block, for a picture. */
export interface BlockMap {
  name: string;
  usedLength: number;
  cells: readonly MapCell[];
}

/** Cells in a line of a map. */
export const MAP_WIDTH = 64;
/** Lines of the map of the largest block. */
const MAP_LINES = 12;
/** Cells of a block's map. */
export const MAP_CELLS: number = MAP_WIDTH * MAP_LINES;

/** Rounds listed one by one; in a longer list the middle is left out. */
const MAX_ROUNDS = 12;

const DATA_SHADES = '░▒▓█';
const LEGEND = '· zeros   ░▒▓█ data   ◆ some of it sent again   (blank) never sent';

/** Shows what a stream consists of, for people. */
export function showSummary(
  title: string,
  summary: StreamSummary,
  maps: readonly BlockMap[],
): string {
  const parts = [
    showHead(title, summary),
    showRam(summary, maps),
    showRounds(summary.ram?.perRound ?? []),
    showDevices(summary.sections),
    showTimeLine(summary),
    showWarnings(summary.warnings),
  ];
  return parts.filter((part) => part !== '').join('\n');
}

function showHead(title: string, { format, configuration }: StreamSummary): string {
  const within = format.container === null ? '' : ` in ${format.container}`;
  const lines = [`${title}: migration stream${within}, ${showExactSize(format.bytes)}`];
  if (format.trailingBytes > 0) lines.push(`  followed by ${showExactSize(format.trailingBytes)}`);
  if (configuration !== null) {
    const { machine, capabilities, uuid } = configuration;
    lines.push(`  machine ${printable(machine)}`);
    if (capabilities.length > 0) lines.push(`  capabilities ${capabilities.join(', ')}`);
    if (uuid !== undefined) lines.push(`  guest ${uuid}`);
  }
  return `${lines.join('\n')}\n`;
}

/** Shows the blocks of guest memory, and of each what came for it, part by part. */
export function showRam({ ram }: StreamSummary, maps: readonly BlockMap[]): string {
  if (ram === null) return 'No RAM\n';
  const size = ram.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
  const blocks = counted(ram.blocks.length, 'block');
  const rounds = counted(ram.rounds, 'round');
  const head = `RAM: ${showSize(size)} in ${blocks}, pages of ${showSize(ram.pageSize)}, ${rounds}`;
  const lines = [head];
  for (const block of ram.blocks) {
    const counts = showCounts(block.pages);
    const digest = block.xxh64 === undefined ? '' : `  XXH64 ${block.xxh64}`;
    lines.push(`  ${printable(block.name)}  ${showSize(block.usedLength)}  ${counts}${digest}`);
    const map = maps.find(({ name }) => name === block.name);
    if (map !== undefined) lines.push(...showMap(map.cells));
  }
  if (maps.length > 0) lines.push(`    ${LEGEND}`);
  return `${lines.join('\n')}\n`;
}

function counted(count: number, noun: string): string {
  return count === 1 ? `1 ${noun}` : `${count} ${noun}s`;
}

function showCounts(pages: PageCounts): string {
  const entries = Object.entries(pages) as [keyof PageCounts, number][];
  const shown = entries.filter(([, count]) => count > 0);
  return shown.length === 0
    ? 'no pages'
    : shown.map(([name, count]) => `${name} ${count}`).join(', ');
}

function showMap(cells: readonly MapCell[]): string[] {
  const lines: string[] = [];
  for (let at = 0; at < cells.length; at += MAP_WIDTH) {
    const row = cells.slice(at, at + MAP_WIDTH).map(showCell);
    lines.push(`    ${row.join('')}`.trimEnd());
  }
  return lines;
}

function showCell({ zero, data, resent }: MapCell): string {
  if (resent > 0) return '◆';
  if (data > 0) {
    const share = data / (data + zero);
    const shade = Math.ceil(share * DATA_SHADES.length) - 1;
    return DATA_SHADES[shade] as string;
  }
  return zero > 0 ? '·' : ' ';
}

function showRounds(rounds: readonly PageCounts[]): string {
  if (rounds.length < 2) return '';
  const names = Object.keys(rounds[0] as PageCounts) as (keyof PageCounts)[];
  const used = names.filter((name) => rounds.some((round) => round[name] > 0));
  const rows = rounds.map((round, index) => [
    String(index + 1),
    ...used.map((name) => String(round[name])),
  ]);
  if (rows.length > MAX_ROUNDS) {
    const half = MAX_ROUNDS / 2;
    rows.splice(half, rows.length - MAX_ROUNDS, ['…', ...used.map(() => '…')]);
  }
  return `Pages per round\n${columns([['round', ...used], ...rows])}\n`;
}

/** Lines of cells, all but the first of a line aligned to the right. */
function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)),
  );
  return rows
    .map((row) => {
      const cells = row.map((cell, column) =>
        column === 0 ? cell.padEnd(widths[0] as number) : cell.padStart(widths[column] as number),
      );
      return `  ${cells.join('  ')}`.trimEnd();
    })
    .join('\n');
}

/** The devices as a tree: by the bus path that their names begin with. */
function showDevices(sections: readonly SectionSummary[]): string {
  const devices = sections.filter(({ kind }) => kind === 'full');
  if (devices.length === 0) return '';
  const bytes = devices.reduce((sum, device) => sum + device.bytes, 0);
  const branches = new Map<string, SectionSummary[]>();
  for (const device of devices) {
    const path = device.name.slice(0, device.name.lastIndexOf('/') + 1);
    const branch = branches.get(path);
    if (branch === undefined) branches.set(path, [device]);
    else branch.push(device);
  }
  const rows: string[][] = [];
  for (const [path, branch] of branches) {
    if (path !== '') rows.push([printable(path)]);
    for (const { name, instanceId, versionId, bytes: size } of branch) {
      const indent = path === '' ? '' : '  ';
      const instance = instanceId === 0 ? '' : ` (${instanceId})`;
      const shown = printable(name.slice(path.length));
      rows.push([`${indent}${shown}${instance}`, `v${versionId}`, showSize(size)]);
    }
  }
  return `Devices: ${devices.length}, ${showSize(bytes)}\n${columns([['', '', ''], ...rows])
    .trimStart()
    .replace(/^/, '  ')}\n`;
}

/** What came one after the other; pieces of one section, and devices, in a row are one line. */
function showTimeLine({ sections, commands, format, vmDescription }: StreamSummary): string {
  const rows: { offset: number; what: string; count: number; bytes: number }[] = [];
  const add = (offset: number, what: string, bytes: number): void => {
    const last = rows.at(-1);
    if (last?.what === what) {
      last.count += 1;
      last.bytes += bytes;
    } else {
      rows.push({ offset, what, count: 1, bytes });
    }
  };
  const items = [
    ...sections.map(({ offset, kind, name, bytes }) => ({
      offset,
      what: kind === 'full' ? 'devices' : `${printable(name)} ${kind.toUpperCase()}`,
      bytes,
    })),
    ...commands.map(({ offset, name, bytes }) => ({ offset, what: `command ${name}`, bytes })),
  ].sort((a, b) => a.offset - b.offset);
  for (const { offset, what, bytes } of items) add(offset, what, bytes);
  if (vmDescription)
    rows.push({ offset: format.bytes, what: 'VM description', count: 1, bytes: 0 });
  const lines = rows.map(({ offset, what, count, bytes }) => {
    const times = count === 1 ? what : `${what} × ${count}`;
    return what === 'VM description' ? ['end', times, ''] : [`${offset}`, times, showSize(bytes)];
  });
  return `Time line\n${timeColumns(lines)}\n`;
}

function timeColumns(rows: readonly string[][]): string {
  const width = (column: number): number =>
    Math.max(0, ...rows.map((row) => (row[column] as string).length));
  const [first, second, third] = [width(0), width(1), width(2)];
  return rows
    .map(([at, what, size]) =>
      `  ${(at as string).padStart(first)}  ${(what as string).padEnd(second)}  ${(size as string).padStart(third)}`.trimEnd(),
    )
    .join('\n');
}

function showWarnings(warnings: readonly string[]): string {
  if (warnings.length === 0) return '';
  return `Warnings\n${warnings.map((warning) => `  ${printable(warning)}`).join('\n')}\n`;
}

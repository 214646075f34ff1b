import type { PageCounts } from '../../migration/format/events.ts';
import type { MapCell } from '../../migration/memory/ram-map.ts';
import type { SectionSummary, StreamSummary } from '../../migration/verify/summary.ts';
import { printable } from '../../util/format.ts';
import { showExactSize, showSize } from '../shell/sizes.ts';
import { showTimeLine } from './time-line.ts';

/** The map of a block: its pages in cells. */
export interface BlockMap {
  name: string;
  usedLength: number;
  cells: readonly MapCell[];
}

/** Cells in a line of a map. */
export const MAP_WIDTH = 64;
/** Lines of the map of the largest block. */
const MAP_LINES = 12;
/** Cells of the map of the largest block. */
export const MAP_CELLS: number = MAP_WIDTH * MAP_LINES;

/** Greatest number of rounds in a list; a longer list is shown without its middle. */
const MAX_ROUNDS = 12;

const DATA_SHADES = '░▒▓█';
const LEGEND = '· zeros   ░▒▓█ data   ◆ some of it sent again   (blank) never sent';

/** Show the contents of a stream as text for people. */
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

/** Show the blocks of guest memory, with the pages that the stream has for each. */
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

/** Return lines of cells; all but the first cell of a line are right-aligned. */
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

/** Show the devices as a tree, by the bus path at the start of their names. */
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

function showWarnings(warnings: readonly string[]): string {
  if (warnings.length === 0) return '';
  return `Warnings\n${warnings.map((warning) => `  ${printable(warning)}`).join('\n')}\n`;
}

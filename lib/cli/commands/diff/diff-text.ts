import type { GuestDifferences } from '../../../migration/diff/compare-guests.ts';
import type { DeviceDifference } from '../../../migration/diff/device-differences.ts';
import type { DiffCell } from '../../../migration/diff/diff-map.ts';
import type { FieldDifference } from '../../../migration/diff/field-differences.ts';
import { PAGE_KINDS, type PageKindCounts } from '../../../migration/diff/page-kinds.ts';
import type { StateValue } from '../../../migration/format/device-types.ts';
import { deviceKey } from '../../../migration/verify/summary.ts';
import { hex, printable } from '../../../util/format.ts';
import { showSize } from '../../shell/sizes.ts';
import { valueToJson } from './diff-json.ts';

/** Cells in a line of a map; two maps stand side by side. */
export const DIFF_MAP_WIDTH = 34;
/** Cells of the maps of the largest block. */
export const DIFF_MAP_CELLS: number = DIFF_MAP_WIDTH * 12;

/** Fields that are listed of one device. */
const MAX_FIELDS = 20;
/** Characters of a value. */
const MAX_VALUE_CHARS = 48;
/** Bytes that are shown from the first one that differs. */
const SHOWN_BYTES = 8;

const DATA_SHADES = '░▒▓█';
const LEGEND = '· zeros   ░▒▓█ data   ◆ differs from A   (blank) not in the guest';
const KIND_NAMES: Readonly<Record<keyof PageKindCounts, string>> = {
  changed: 'changed',
  becameZero: 'became zero',
  wasZero: 'was zero',
  moved: 'moved',
};

/** The names of the two endpoints, as typed. */
export interface DiffNames {
  readonly a: string;
  readonly b: string;
}

/** Show differences as text for people. */
export function showDifferences(
  { a, b }: DiffNames,
  { isSame, configuration, devices, blocks }: GuestDifferences,
  mapOf: (block: GuestDifferences['blocks'][number]) => readonly DiffCell[],
): string {
  const head = [`A  ${a}`, `B  ${b}`];
  if (isSame) return `${[...head, 'The guests are the same.'].join('\n')}\n`;
  const lines = [...head, ''];
  if (configuration.length > 0) lines.push('Configuration', ...configuration.map(showField), '');
  if (devices.length > 0) {
    lines.push(`Devices: ${counted(devices.length, 'device')} ${verb(devices.length)}`);
    for (const device of devices) lines.push(...showDevice(device));
    lines.push('');
  }
  const different = blocks.filter(({ isDifferent }) => isDifferent);
  if (different.length > 0) {
    lines.push(`RAM: ${counted(different.length, 'block')} ${verb(different.length)}`);
    for (const block of different) {
      const sizes = showLengths(block.usedLength);
      lines.push(`  ${printable(block.name)}  ${sizes}  ${showKinds(block.pages)}`);
      lines.push(...showMaps(mapOf(block)));
    }
    lines.push(`    ${LEGEND}`, '');
  }
  return lines.join('\n');
}

function counted(count: number, noun: string): string {
  return count === 1 ? `1 ${noun}` : `${count} ${noun}s`;
}

function verb(count: number): string {
  return count === 1 ? 'differs' : 'differ';
}

function showDevice(device: DeviceDifference): string[] {
  const key = printable(deviceKey(device));
  if (device.onlyIn !== null) return [`  ${key}: only in ${device.onlyIn.toUpperCase()}`];
  const version =
    device.versionIds === null ? '' : `: version ${device.versionIds[0]} → ${device.versionIds[1]}`;
  const shown = device.fields.slice(0, MAX_FIELDS).map((field) => `  ${showField(field)}`);
  const more = device.fields.length - shown.length + device.moreFields;
  const rest = more > 0 ? [`    … ${counted(more, 'field')} more: --json lists them`] : [];
  return [`  ${key}${version}`, ...shown, ...rest];
}

function showField({ path, a, b }: FieldDifference): string {
  const name = path === '' ? '(not decoded)' : printable(path);
  if (a instanceof Uint8Array && b instanceof Uint8Array) return `  ${name}  ${showBytes(a, b)}`;
  return `  ${name}  ${showValue(a)} → ${showValue(b)}`;
}

function showValue(value: StateValue | undefined): string {
  if (value === undefined) return '(none)';
  const text =
    typeof value === 'string'
      ? printable(value)
      : printable(JSON.stringify(valueToJson(value)).replaceAll('"', ''));
  return text.length > MAX_VALUE_CHARS ? `${text.slice(0, MAX_VALUE_CHARS)}…` : text;
}

/** Show bytes from the first one that differs. */
function showBytes(a: Uint8Array, b: Uint8Array): string {
  const length = Math.min(a.length, b.length);
  let first = 0;
  while (first < length && a[first] === b[first]) first++;
  const cut = (bytes: Uint8Array): string => {
    const shown = bytes.subarray(first, first + SHOWN_BYTES);
    const dots = bytes.length > first + SHOWN_BYTES ? '…' : '';
    return shown.length === 0 ? '(end)' : Buffer.from(shown).toString('hex') + dots;
  };
  const sizes = a.length === b.length ? `${a.length}` : `${a.length} → ${b.length}`;
  return `${cut(a)} → ${cut(b)}  (byte ${hex(first)} of ${sizes})`;
}

function showLengths([a, b]: readonly [number | null, number | null]): string {
  if (a === null) return `${showSize(b ?? 0)}, only in B`;
  if (b === null) return `${showSize(a)}, only in A`;
  return a === b ? showSize(a) : `${showSize(a)} → ${showSize(b)}`;
}

function showKinds(pages: PageKindCounts): string {
  const shown = PAGE_KINDS.filter((kind) => pages[kind] > 0);
  if (shown.length === 0) return 'no page differs';
  return `pages ${shown.map((kind) => `${KIND_NAMES[kind]} ${pages[kind]}`).join(', ')}`;
}

/** Show the maps of a block in both guests side by side. */
function showMaps(cells: readonly DiffCell[]): string[] {
  const lines: string[] = [];
  for (let at = 0; at < cells.length; at += DIFF_MAP_WIDTH) {
    const row = cells.slice(at, at + DIFF_MAP_WIDTH);
    const a = row.map((cell) => showCell(cell.a)).join('');
    const b = row.map((cell) => (differs(cell) ? '◆' : showCell(cell.b))).join('');
    lines.push(`    ${a.padEnd(Math.min(cells.length, DIFF_MAP_WIDTH))}   ${b}`.trimEnd());
  }
  return lines;
}

function differs({ kinds }: DiffCell): boolean {
  return PAGE_KINDS.some((kind) => kinds[kind] > 0);
}

function showCell({ data, pages }: DiffCell['a']): string {
  if (pages === 0) return ' ';
  if (data === 0) return '·';
  const shade = Math.min(Math.ceil((data / pages) * DATA_SHADES.length), DATA_SHADES.length) - 1;
  return DATA_SHADES[shade] as string;
}

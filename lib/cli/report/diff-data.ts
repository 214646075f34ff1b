import { stateToJson } from '../../migration/devices/state-decoder.ts';
import type { BlockDifference } from '../../migration/diff/block-differences.ts';
import type { GuestDifferences } from '../../migration/diff/compare-guests.ts';
import type { DeviceDifference } from '../../migration/diff/device-differences.ts';
import type { DiffCell } from '../../migration/diff/diff-map.ts';
import type { FieldDifference } from '../../migration/diff/field-differences.ts';
import type { StateValue } from '../../migration/format/device-types.ts';
import { deviceKey } from '../../migration/verify/summary.ts';
import { StatePacker } from './pack-state.ts';
import type {
  BlockDifferenceData,
  DeviceDifferenceRow,
  DiffData,
  FieldDifferenceRow,
} from './page/model.ts';

/** The contents of a report about two guests. */
export interface DiffReport {
  /** The endpoints, as typed. */
  readonly a: string;
  readonly b: string;
  readonly differences: GuestDifferences;
  /** Return the map of a block with at most so many cells, from `mapCells`. */
  readonly mapOf: (block: BlockDifference, maxCells: number) => readonly DiffCell[];
}

/** Greatest number of characters for the values of all fields. */
const MAX_VALUE_CHARS = 16_777_216;
const MAX_DEVICES = 10_000;
/** Greatest number of fields of all devices. */
const MAX_FIELDS = 50_000;
/** Greatest number of cells of one block, and of all. */
const MAX_BLOCK_CELLS = 2048;
const MAX_CELLS = 65_536;
const MIN_BLOCK_CELLS = 16;

/** Reduce a report to what a page can hold, whatever the streams. */
export function diffData({ a, b, differences, mapOf }: DiffReport): DiffData {
  const { isSame, configuration, devices } = differences;
  const blocks = differences.blocks.filter(({ isDifferent }) => isDifferent);
  const share = Math.floor(MAX_CELLS / Math.max(1, blocks.length));
  const maxCells = Math.max(MIN_BLOCK_CELLS, Math.min(MAX_BLOCK_CELLS, share));
  const rows = new FieldRows();
  return {
    a,
    b,
    isSame,
    configuration: rows.of(configuration).fields,
    devices: devices.slice(0, MAX_DEVICES).map((device) => deviceRow(device, rows)),
    moreDevices: Math.max(0, devices.length - MAX_DEVICES),
    blocks: blocks.map((block) => blockData(block, mapOf(block, maxCells))),
    sameBlocks: differences.blocks.length - blocks.length,
  };
}

function deviceRow(device: DeviceDifference, rows: FieldRows): DeviceDifferenceRow {
  const { onlyIn, versionIds } = device;
  const { fields, more } = rows.of(device.fields);
  const note =
    onlyIn !== null
      ? `only in ${onlyIn.toUpperCase()}`
      : versionIds !== null
        ? `version ${versionIds[0]} → ${versionIds[1]}`
        : '';
  return { name: deviceKey(device), note, fields, moreFields: more + device.moreFields };
}

/** Packs fields until a page has enough of them. */
class FieldRows {
  readonly #packer = new StatePacker(MAX_VALUE_CHARS);
  #room = MAX_FIELDS;

  of(fields: readonly FieldDifference[]): { fields: FieldDifferenceRow[]; more: number } {
    const rows: FieldDifferenceRow[] = [];
    for (const { path, a, b } of fields) {
      const row: FieldDifferenceRow | null = this.#row(path, a, b);
      if (row !== null) rows.push(row);
    }
    return { fields: rows, more: fields.length - rows.length };
  }

  #row(
    path: string,
    a: StateValue | undefined,
    b: StateValue | undefined,
  ): FieldDifferenceRow | null {
    if (this.#room === 0) return null;
    const row: FieldDifferenceRow = { path };
    for (const [side, value] of [
      ['a', a],
      ['b', b],
    ] as const) {
      if (value === undefined) continue;
      const packed = this.#packer.pack((stateToJson({ value }) as { value: unknown }).value);
      if (packed === undefined) return null;
      row[side] = packed;
    }
    this.#room -= 1;
    return row;
  }
}

function blockData(
  { name, usedLength, pages }: BlockDifference,
  cells: readonly DiffCell[],
): BlockDifferenceData {
  const [first] = cells;
  const cellBytes = first?.bytes ?? 0;
  const pageBytes = first === undefined ? 1 : cellBytes / Math.max(first.a.pages, first.b.pages);
  const countsOf = (side: 'a' | 'b'): number[] =>
    cells.flatMap((cell) => {
      const { data, pages: inGuest } = cell[side];
      const { changed, becameZero, wasZero, moved } = cell.kinds;
      const differing = changed + becameZero + wasZero + moved;
      return [inGuest - data, data, differing, cell.bytes / pageBytes - inGuest];
    });
  return {
    name,
    usedLength: [usedLength[0], usedLength[1]],
    pages: { ...pages },
    cellBytes,
    cellsA: countsOf('a'),
    cellsB: countsOf('b'),
  };
}

import type { PageCounts } from '../../migration/format/events.ts';
import type { MapCell } from '../../migration/memory/ram-map.ts';
import {
  deviceKey,
  type SectionSummary,
  type StreamSummary,
} from '../../migration/verify/summary.ts';
import { foldEvents, foldSections } from './fold.ts';
import { StatePacker } from './pack-state.ts';
import type { BlockData, DeviceRow, ReportData, RoundData } from './page/model.ts';

/** The contents of a report. */
export interface Report {
  /** The endpoint of the stream, as typed. */
  readonly title: string;
  readonly summary: StreamSummary;
  /** The map of each RAM block, from `RamMap.cells`. */
  readonly maps: readonly {
    readonly name: string;
    readonly usedLength: number;
    readonly cells: readonly MapCell[];
  }[];
}

/** Greatest number of characters for the states of all devices: with more, a browser needs seconds to open the page. */
const MAX_STATE_CHARS = 33_554_432;
/** Greatest number of cells in all maps together. */
const MAX_CELLS = 65_536;
/** Number of cells that each block may have in any case. */
const MIN_CELLS_PER_BLOCK = 16;
const MAX_ROUNDS = 300;
const MAX_WARNINGS = 500;
const MAX_WARNING_CHARS = 2000;
const MAX_DEVICES = 10_000;

/** Reduce a report to what a page can hold, whatever the stream. */
export function reportData({ title, summary, maps }: Report): ReportData {
  const { format, configuration, ram, vmDescription } = summary;
  const sections = foldSections(summary.sections);
  const events = foldEvents(summary);
  const devices = Object.entries(summary.devices);
  const blocks = blocksOf(summary, maps);
  return {
    title,
    facts: {
      ...format,
      machine: configuration?.machine ?? null,
      capabilities: configuration?.capabilities ?? [],
      uuid: configuration?.uuid ?? null,
      pageSize: ram?.pageSize ?? null,
      ram: blocks.reduce((bytes, { usedLength }) => bytes + usedLength, 0),
      sections: sections.total,
      pieces: summary.sections.length,
      commands: summary.commands.length,
      devices: devices.length,
      vmDescription,
    },
    warnings: summary.warnings
      .slice(0, MAX_WARNINGS)
      .map((warning) => warning.slice(0, MAX_WARNING_CHARS)),
    moreWarnings: Math.max(0, summary.warnings.length - MAX_WARNINGS),
    blocks,
    rounds: foldRounds(ram?.perRound ?? []),
    sections: sections.rows,
    moreSections: sections.more,
    events: events.rows,
    moreEvents: events.more,
    devices: deviceRows(devices.slice(0, MAX_DEVICES), summary.sections),
    moreDevices: Math.max(0, devices.length - MAX_DEVICES),
  };
}

function blocksOf(summary: StreamSummary, maps: Report['maps']): BlockData[] {
  const known = new Map(summary.ram?.blocks.map((block) => [block.name, block]));
  const mapped = new Map(maps.map((map) => [map.name, map]));
  const names = new Set([...known.keys(), ...mapped.keys()]);
  const maxCells = Math.max(MIN_CELLS_PER_BLOCK, Math.floor(MAX_CELLS / names.size));
  return [...names].map((name) => {
    const block = known.get(name);
    const map = mapped.get(name);
    return {
      name,
      usedLength: block?.usedLength ?? map?.usedLength ?? 0,
      hostPageSize: block?.hostPageSize ?? null,
      address: block?.address ?? null,
      xxh64: block?.xxh64 ?? null,
      records: block?.pages ?? null,
      ...mergeCells(map?.cells ?? [], maxCells),
    };
  });
}

/** Merge adjacent cells until there are at most `maxCells`. */
function mergeCells(
  cells: readonly MapCell[],
  maxCells: number,
): Pick<BlockData, 'cellBytes' | 'cells'> {
  const each = Math.max(1, Math.ceil(cells.length / maxCells));
  const merged: number[] = [];
  for (let first = 0; first < cells.length; first += each) {
    const pages = [0, 0, 0, 0] as [number, number, number, number];
    for (const { zero, data, resent, absent } of cells.slice(first, first + each)) {
      pages[0] += zero;
      pages[1] += data;
      pages[2] += resent;
      pages[3] += absent;
    }
    merged.push(...pages);
  }
  return { cellBytes: (cells[0]?.bytes ?? 0) * each, cells: merged };
}

function foldRounds(rounds: readonly PageCounts[]): RoundData[] {
  const each = Math.max(1, Math.ceil(rounds.length / MAX_ROUNDS));
  const folded: RoundData[] = [];
  for (let first = 0; first < rounds.length; first += each) {
    const pages: PageCounts = { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 };
    const last = Math.min(first + each, rounds.length);
    for (const round of rounds.slice(first, last)) {
      for (const kind of Object.keys(pages) as (keyof PageCounts)[]) pages[kind] += round[kind];
    }
    folded.push({ first: first + 1, last, pages });
  }
  return folded;
}

function deviceRows(
  devices: readonly [name: string, state: unknown][],
  sections: readonly SectionSummary[],
): DeviceRow[] {
  const sizes = sizesByKey(sections);
  const packer = new StatePacker(MAX_STATE_CHARS);
  return devices.map(([name, state]) => {
    const packed = packer.pack(state);
    const bytes = sizes.get(name) ?? null;
    return packed === undefined ? { name, bytes } : { name, bytes, state: packed };
  });
}

/** Return the sizes of sections by the names that the summary has for their devices. */
function sizesByKey(sections: readonly SectionSummary[]): Map<string, number> {
  const sizes = new Map<string, number>();
  for (const section of sections) {
    if (section.kind !== 'full') continue;
    const key = deviceKey(section);
    sizes.set(sizes.has(key) ? `${key} (section ${section.sectionId})` : key, section.bytes);
  }
  return sizes;
}

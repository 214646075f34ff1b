/*
 * The JSON of a report's page: a report cut down to what a page can hold, whatever the stream. Both sides
 * import these types, Node's and the browser's, so this module imports nothing.
 */

/** How a section was sent: in pieces (`start`, `part`, `end`), or all at once (`full`). */
export type SectionKind = 'start' | 'part' | 'end' | 'full';

/** RAM records by what they carried. */
export interface PageCounts {
  zero: number;
  normal: number;
  xbzrle: number;
  compressed: number;
  multifd: number;
}

/** Everything that a page shows. */
export interface ReportData {
  title: string;
  facts: ReportFacts;
  warnings: string[];
  /** Number of further warnings. */
  moreWarnings: number;
  blocks: BlockData[];
  rounds: RoundData[];
  sections: SectionRow[];
  moreSections: { count: number; bytes: number };
  events: EventRow[];
  /** Number of later sections and commands that are not among the events. */
  moreEvents: number;
  devices: DeviceRow[];
  /** Number of further devices. */
  moreDevices: number;
}

/** Contents of the head of a page. */
export interface ReportFacts {
  version: number;
  bytes: number;
  trailingBytes: number;
  container: string | null;
  machine: string | null;
  capabilities: readonly string[];
  uuid: string | null;
  pageSize: number | null;
  ram: number;
  sections: number;
  /** Pieces that the sections consist of. */
  pieces: number;
  commands: number;
  devices: number;
  vmDescription: boolean;
}

/** A RAM block. */
export interface BlockData {
  name: string;
  usedLength: number;
  hostPageSize: number | null;
  address: string | null;
  xxh64: string | null;
  /** RAM records of the block; null if the summary does not know the block. */
  records: PageCounts | null;
  /** Bytes of each cell; the last may have fewer. */
  cellBytes: number;
  /** Four numbers for each cell: pages that are zero, data, resent and absent. */
  cells: number[];
}

/** One pass over memory, or several consecutive ones. */
export interface RoundData {
  first: number;
  last: number;
  pages: PageCounts;
}

/** A section with all its pieces. */
export interface SectionRow {
  name: string;
  sectionId: number;
  instanceId: number;
  versionId: number;
  /** Number of pieces of each kind. */
  kinds: Partial<Record<SectionKind, number>>;
  count: number;
  offset: number;
  bytes: number;
  /** The pieces, or runs of them where they are many; empty if there is only one. */
  pieces: PieceRow[];
}

/** A piece of a section, or several consecutive ones. */
export interface PieceRow {
  kind: SectionKind | 'mixed';
  count: number;
  /** Offset of the first one. */
  offset: number;
  bytes: number;
}

/** Consecutive pieces of sections of one kind, or commands of one name. */
export interface EventRow {
  kind: SectionKind | 'command';
  count: number;
  offset: number;
  /** Bytes of all of them together. */
  bytes: number;
  /** The first names, and how often each occurs. */
  names: [name: string, count: number][];
  /** Number of further names. */
  moreNames: number;
  /** Fields of the first commands, as text. */
  details: string[];
}

/** A device and its state. */
export interface DeviceRow {
  name: string;
  /** Bytes of the device's section; null if unknown. */
  bytes: number | null;
  /** Undefined where the state is too large for the page. */
  state?: PackedValue;
}

/** Everything that a page about the differences of two guests shows. */
export interface DiffData {
  /** The endpoints, as typed. */
  a: string;
  b: string;
  isSame: boolean;
  configuration: FieldDifferenceRow[];
  devices: DeviceDifferenceRow[];
  /** Number of further devices that differ. */
  moreDevices: number;
  /** The blocks that differ. */
  blocks: BlockDifferenceData[];
  /** Number of blocks that do not. */
  sameBlocks: number;
}

/** A field that differs. A value is undefined if the field does not exist. */
export interface FieldDifferenceRow {
  path: string;
  a?: PackedValue;
  b?: PackedValue;
}

/** A device that differs. */
export interface DeviceDifferenceRow {
  name: string;
  /** Differences besides fields; empty if there are none. */
  note: string;
  fields: FieldDifferenceRow[];
  /** Number of further fields that differ. */
  moreFields: number;
}

/** A RAM block that differs. */
export interface BlockDifferenceData {
  name: string;
  usedLength: [a: number | null, b: number | null];
  pages: { changed: number; becameZero: number; wasZero: number; moved: number };
  /** Bytes of each cell; the last may have fewer. */
  cellBytes: number;
  /** Four numbers for each cell: pages that are zero, data, of a differing kind, and not in the guest. */
  cellsA: number[];
  cellsB: number[];
}

/**
 * A value of a device's state. A string is one of:
 * `#` and an integer; `"` and text; the number of bytes, a colon and the hexadecimal digits of the first
 * bytes, after which all are zeros; the number of bytes, an exclamation mark and the digits of the first
 * bytes, after which the page has none.
 */
export type PackedValue =
  | number
  | boolean
  | string
  | null
  | PackedValue[]
  | { [name: string]: PackedValue };

import type { PageCounts, SectionKind } from '../../../migration/format/events.ts';

/*
 * What a report's page gets as JSON: a report cut down to what a page can hold, whatever the stream. The
 * page shows all text of it as text only.
 */

/** Everything in a page. */
export interface ReportData {
  title: string;
  facts: ReportFacts;
  warnings: string[];
  /** Warnings that are not among them. */
  moreWarnings: number;
  blocks: BlockData[];
  rounds: RoundData[];
  sections: SectionRow[];
  moreSections: { count: number; bytes: number };
  events: EventRow[];
  /** Of the last entries in the order of the stream, which are not among the events. */
  moreEvents: number;
  devices: DeviceRow[];
  /** Devices that are not among them, not even without their state. */
  moreDevices: number;
}

/** What the head of a page says. */
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
  /** Sections, and the pieces that they came in. */
  sections: number;
  pieces: number;
  commands: number;
  devices: number;
  vmDescription: boolean;
}

/** A block of memory. */
export interface BlockData {
  name: string;
  usedLength: number;
  hostPageSize: number | null;
  address: string | null;
  xxh64: string | null;
  /** Records that came for it; null if the summary does not know the block. */
  records: PageCounts | null;
  /** Bytes of a cell, but for the last. */
  cellBytes: number;
  /** Of each cell the pages that are zero, data, resent and absent, one after the other. */
  cells: number[];
}

/** One pass over memory, or several that follow each other. */
export interface RoundData {
  first: number;
  last: number;
  pages: PageCounts;
}

/** A section, all of its pieces folded together. */
export interface SectionRow {
  name: string;
  sectionId: number;
  instanceId: number;
  versionId: number;
  /** Pieces of each kind. */
  kinds: Partial<Record<SectionKind, number>>;
  count: number;
  offset: number;
  bytes: number;
  /** Its pieces, or runs of them where they are many; empty if there is but one. */
  pieces: PieceRow[];
}

/** A piece of a section, or several of it that follow each other. */
export interface PieceRow {
  kind: SectionKind | 'mixed';
  count: number;
  /** Of the first. */
  offset: number;
  bytes: number;
}

/** What stands in the stream at one place: pieces of sections of one kind, or commands of one name. */
export interface EventRow {
  kind: SectionKind | 'command';
  count: number;
  offset: number;
  /** Bytes of all of them. */
  bytes: number;
  /** The first names among them, and how often each occurs. */
  names: [name: string, count: number][];
  /** Names that are not among these. */
  moreNames: number;
  /** What the first commands say. */
  details: string[];
}

/** A device. */
export interface DeviceRow {
  name: string;
  /** Bytes of its section; null if that is not known. */
  bytes: number | null;
  /** Undefined where the state is too large for a page. */
  state?: PackedValue;
}

/**
 * A value of a device's state. A string is one of: `#` and an integer; `"` and text; bytes, as their number,
 * a colon and hexadecimal digits, behind which all others are zero; bytes as their number, an exclamation
 * mark and the digits of the first of them, where they are too many.
 */
export type PackedValue =
  | number
  | boolean
  | string
  | null
  | PackedValue[]
  | { [name: string]: PackedValue };

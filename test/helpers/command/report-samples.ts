import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import type { Report } from '../../../lib/cli/report/html.ts';
import type { PageCounts } from '../../../lib/migration/format/events.ts';
import { RamMap } from '../../../lib/migration/memory/ram-map.ts';
import { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import {
  type BlockSummary,
  type SectionSummary,
  StreamSummarizer,
  type StreamSummary,
} from '../../../lib/migration/verify/summary.ts';
import { fixturePath } from '../../fixtures/recording.ts';

/** A device name as a hostile guest could choose it. */
export const HOSTILE = `</script><img src=x onerror="document.documentElement.dataset.owned='yes'">`;

/** Return counts of pages; absent ones are 0. */
export function counts(some: Partial<PageCounts>): PageCounts {
  return { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0, ...some };
}

/** Return a section, by default a FULL one. */
export function sectionOf(name: string, more: Partial<SectionSummary> = {}): SectionSummary {
  return {
    sectionId: 1,
    name,
    instanceId: 0,
    versionId: 1,
    kind: 'full',
    offset: 8,
    bytes: 30,
    ...more,
  };
}

/** Return a RAM block, by default of one page. */
export function blockOf(name: string, more: Partial<BlockSummary> = {}): BlockSummary {
  return { name, usedLength: 4096, pages: counts({ normal: 1 }), ...more };
}

/** Return a report, by default of an empty stream. */
export function reportOf(
  summary: Partial<StreamSummary> = {},
  maps: Report['maps'] = [],
  title = 'guest.mig',
): Report {
  return {
    title,
    maps,
    summary: {
      format: { version: 3, bytes: 1000, trailingBytes: 0, container: null },
      configuration: { machine: 'pc-q35-7.2', capabilities: [] },
      ram: null,
      sections: [],
      commands: [],
      devices: {},
      vmDescription: true,
      warnings: [],
      ...summary,
    },
  };
}

/** Return a report in which every text is hostile. */
export function hostileReport(): Report {
  const section = sectionOf(HOSTILE);
  const state = JSON.parse(
    `{"__proto__": {"${'constructor'}": 1}, "toString": 2, ${JSON.stringify(HOSTILE)}: "00ff"}`,
  ) as unknown;
  return reportOf(
    {
      configuration: { machine: HOSTILE, capabilities: [HOSTILE], uuid: HOSTILE },
      ram: {
        pageSize: 4096,
        rounds: 1,
        perRound: [counts({ normal: 1 })],
        blocks: [blockOf(HOSTILE), blockOf('__proto__'), blockOf('\u2028\u202e\u0000')],
      },
      sections: [
        { ...section, kind: 'start' },
        { ...section, kind: 'part' },
        { ...section, name: '__proto__' },
      ],
      commands: [
        { offset: 9, bytes: 9, number: 10, name: 'RECV_BITMAP', block: HOSTILE },
        { offset: 10, bytes: 9, number: 99, name: 'UNKNOWN' },
      ],
      devices: Object.fromEntries([
        [HOSTILE, state],
        ['__proto__', { raw: '00' }],
        ['-->', null],
        ['<!--<script>', 'text of no kind'],
      ]),
      warnings: [HOSTILE],
    },
    [HOSTILE, '__proto__'].map((name) => ({
      name,
      usedLength: 4096,
      cells: [{ offset: 0, bytes: 4096, zero: 0, data: 1, resent: 0, absent: 0 }],
    })),
    HOSTILE,
  );
}

/** Return the report of a recorded stream. */
export async function recordedReport(name: string): Promise<Report> {
  const bytes = gunzipSync(readFileSync(fixturePath(`${name}.mig.gz`)));
  const map = new RamMap();
  const reader = new MigrationReader(chunksOf(bytes), { pages: map });
  const summarizer = new StreamSummarizer();
  for await (const event of reader) summarizer.add(event);
  return {
    title: `${name}.mig`,
    summary: summarizer.summary(reader.ram, null),
    maps: reader.ram.blocks.map((block) => ({
      name: block.name,
      usedLength: block.usedLength,
      cells: map.cells(block, 2048),
    })),
  };
}

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}

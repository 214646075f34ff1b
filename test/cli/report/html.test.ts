import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import { type Report, reportHtml } from '../../../lib/cli/report/html.ts';
import type { ReportData } from '../../../lib/cli/report/page/model.ts';
import type { CommandSummary, SectionSummary } from '../../../lib/migration/verify/summary.ts';
import {
  blockOf,
  counts,
  HOSTILE,
  hostileReport,
  recordedReport,
  reportOf,
  sectionOf,
} from '../../helpers/command/report-samples.ts';

/** The data in a page, as a browser finds it. */
function dataIn(html: string): ReportData {
  const json = /<script type="application\/json" id="report">([^<]*)<\/script>/.exec(html)?.[1];
  assert.ok(json !== undefined, 'the page has its data in one element');
  return JSON.parse(json) as ReportData;
}

async function dataOf(report: Report): Promise<ReportData> {
  return dataIn(await reportHtml(report));
}

/** How a state is packed. */
async function packed(state: unknown): Promise<unknown> {
  return (await dataOf(reportOf({ devices: { device: state } }))).devices[0]?.state;
}

describe("a report's page", () => {
  test('has no markup from the stream or from the command line', async () => {
    const html = await reportHtml(hostileReport());
    const plain = await reportHtml(reportOf());
    const tags = (page: string): string[] =>
      // The code itself is the same in every page.
      page.replaceAll(/<script>[\s\S]*?<\/script>/g, '').match(/<[a-z/!][^\s>]*/gi) ?? [];
    assert.deepEqual(tags(html), tags(plain));
    assert.ok(!html.includes('<img'));
    assert.match(html, /<title>&#60;\/script&#62;&#60;img src=x onerror=&#34;document/);
  });

  test('keeps hostile names as they are, as data', async () => {
    const data = await dataOf(hostileReport());
    assert.equal(data.title, HOSTILE);
    assert.equal(data.facts.machine, HOSTILE);
    assert.deepEqual(data.warnings, [HOSTILE]);
    assert.deepEqual(
      data.blocks.map(({ name }) => name),
      [HOSTILE, '__proto__', '\u2028\u202e\u0000'],
    );
    assert.deepEqual(
      data.devices.map(({ name }) => name),
      [HOSTILE, '__proto__', '-->', '<!--<script>'],
    );
    const state = data.devices[0]?.state as object;
    assert.deepEqual(Object.keys(state), ['__proto__', 'toString', HOSTILE]);
  });

  test('has no character in its data that ends an element or a line', async () => {
    const html = await reportHtml(hostileReport());
    const json = /id="report">([\s\S]*?)<\/script>/.exec(html)?.[1] ?? '';
    assert.doesNotMatch(json, /[<>&\u2028\u2029\n\r]/);
  });

  test('allows its own scripts and styles, and nothing else', async () => {
    const html = await reportHtml(hostileReport());
    const policy = (/Content-Security-Policy" content="([^"]*)"/.exec(html)?.[1] ?? '')
      .replaceAll('&#39;', "'")
      .split('; ');
    const digests = (tag: string): string[] =>
      [...html.matchAll(new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`, 'g'))].map(
        ([, code]) =>
          `'sha256-${createHash('sha256')
            .update(code as string)
            .digest('base64')}'`,
      );
    assert.equal(digests('script').length, 1);
    assert.equal(digests('style').length, 1);
    assert.deepEqual(policy, [
      "default-src 'none'",
      `script-src ${digests('script').join(' ')}`,
      `style-src ${digests('style').join(' ')}`,
      "base-uri 'none'",
      "form-action 'none'",
      "require-trusted-types-for 'script'",
      "trusted-types 'none'",
    ]);
    assert.ok(
      html.indexOf('Content-Security-Policy') < html.indexOf('<style>'),
      'the policy comes first',
    );
  });

  test('names nothing outside itself', async () => {
    const html = await reportHtml(reportOf());
    const markup = html.replaceAll(/<(script|style)\b[^>]*>[\s\S]*?<\/\1>/g, '');
    assert.doesNotMatch(markup, /\b(?:src|href|srcset|action)=/);
    assert.doesNotMatch(html, /@import|url\(/);
  });

  test('has the licence of uPlot', async () => {
    assert.match(await reportHtml(reportOf()), /MIT License[\s\S]*Leon Sorokin/);
  });

  test('is made of a recorded stream', async () => {
    const report = await recordedReport('microvm');
    const data = await dataOf(report);
    assert.equal(data.facts.machine, 'microvm');
    assert.equal(data.devices.length, Object.keys(report.summary.devices).length);
    assert.ok(data.devices.every(({ bytes, state }) => bytes !== null && state !== undefined));
    for (const { usedLength, cells } of data.blocks) {
      const [zero, content, , absent] = sums(cells) as [number, number, number, number];
      assert.equal((zero + content + absent) * 4096, usedLength);
    }
  });
});

/** Sums of the four counts over all cells. */
function sums(cells: readonly number[]): number[] {
  return [0, 1, 2, 3].map((at) => cells.reduce((sum, n, i) => (i % 4 === at ? sum + n : sum), 0));
}

describe('the sections in a report', () => {
  test('are one each, with all of their pieces', async () => {
    const ram = { sectionId: 2, bytes: 100 };
    const { sections, moreSections } = await dataOf(
      reportOf({
        sections: [
          sectionOf('ram', { ...ram, kind: 'start', offset: 20, bytes: 50 }),
          sectionOf('ram', { ...ram, kind: 'part', offset: 70 }),
          sectionOf('ram', { ...ram, kind: 'part', offset: 170 }),
          sectionOf('ram', { ...ram, kind: 'end', offset: 270, bytes: 9 }),
          sectionOf('dma', { sectionId: 3, instanceId: 1, versionId: 7, offset: 279, bytes: 11 }),
        ],
      }),
    );
    assert.deepEqual(moreSections, { count: 0, bytes: 0 });
    assert.deepEqual(sections, [
      {
        ...{ name: 'ram', sectionId: 2, instanceId: 0, versionId: 1 },
        ...{ kinds: { start: 1, part: 2, end: 1 }, count: 4, offset: 20, bytes: 259 },
        pieces: [
          { kind: 'start', count: 1, offset: 20, bytes: 50 },
          { kind: 'part', count: 1, offset: 70, bytes: 100 },
          { kind: 'part', count: 1, offset: 170, bytes: 100 },
          { kind: 'end', count: 1, offset: 270, bytes: 9 },
        ],
      },
      {
        ...{ name: 'dma', sectionId: 3, instanceId: 1, versionId: 7 },
        ...{ kinds: { full: 1 }, count: 1, offset: 279, bytes: 11, pieces: [] },
      },
    ]);
  });

  test('of 100 000 pieces take a small page, and lose no byte', async () => {
    const kindOf = (at: number): SectionSummary['kind'] =>
      at === 0 ? 'start' : at === 99_999 ? 'end' : 'part';
    const sections = Array.from({ length: 100_000 }, (_, at) =>
      sectionOf('ram', { kind: kindOf(at), offset: 10 * at, bytes: 10 }),
    );
    const html = await reportHtml(reportOf({ sections }));
    assert.ok(html.length < 300_000, `${html.length} characters`);
    const [section] = dataIn(html).sections;
    assert.deepEqual(section?.kinds, { start: 1, part: 99_998, end: 1 });
    assert.equal(section.bytes, 1_000_000);
    assert.ok(section.pieces.length <= 200);
    const total = (of: 'count' | 'bytes'): number =>
      section.pieces.reduce((sum, piece) => sum + piece[of], 0);
    assert.deepEqual([total('count'), total('bytes')], [100_000, 1_000_000]);
    let offset = 0;
    for (const piece of section.pieces) {
      assert.equal(piece.offset, offset);
      offset += piece.bytes;
    }
  });

  test('are the largest, of more than a page can hold', async () => {
    const sections = Array.from({ length: 60_000 }, (_, at) =>
      sectionOf(`device-${at}`, { sectionId: at, bytes: at }),
    );
    const data = await dataOf(reportOf({ sections }));
    const kept = data.sections.length;
    assert.ok(kept < 10_000);
    assert.equal(data.sections[0]?.bytes, 59_999);
    assert.equal(data.moreSections.count, 60_000 - kept);
    const bytes = data.sections.reduce((sum, section) => sum + section.bytes, 0);
    assert.equal(bytes + data.moreSections.bytes, (59_999 * 60_000) / 2);
  });

  test('of a name that another one has are apart', async () => {
    const sections = [sectionOf('a', { sectionId: 1 }), sectionOf('a', { sectionId: 2 })];
    assert.equal((await dataOf(reportOf({ sections }))).sections.length, 2);
  });
});

describe('the order of the stream in a report', () => {
  const commandAt = (offset: number, name: string, more: object = {}): CommandSummary => ({
    ...{ offset, bytes: 9, number: 2, name },
    ...more,
  });

  test('folds adjacent entries of one kind, and lists the fields of commands', async () => {
    const { events, moreEvents } = await dataOf(
      reportOf({
        sections: [
          sectionOf('ram', { kind: 'start', offset: 20 }),
          sectionOf('ram', { kind: 'part', offset: 60 }),
          sectionOf('block', { kind: 'part', offset: 90 }),
          sectionOf('ram', { kind: 'part', offset: 120 }),
          sectionOf('timer', { offset: 300 }),
        ],
        commands: [
          commandAt(10, 'PING', { value: 1 }),
          commandAt(150, 'POSTCOPY_RAM_DISCARD', {
            block: 'pc.ram',
            ranges: [
              { start: 0, length: 4096 },
              { start: 8192, length: 8192 },
            ],
          }),
          commandAt(190, 'POSTCOPY_RAM_DISCARD', { block: 'vga', ranges: [] }),
          commandAt(230, 'UNKNOWN', { number: 77 }),
        ],
      }),
    );
    assert.equal(moreEvents, 0);
    const none = { moreNames: 0, details: [] };
    assert.deepEqual(events, [
      {
        ...{ kind: 'command', count: 1, offset: 10, bytes: 9, names: [['PING', 1]] },
        ...{ moreNames: 0, details: ['value 1'] },
      },
      { kind: 'start', count: 1, offset: 20, bytes: 30, names: [['ram', 1]], ...none },
      {
        ...{ kind: 'part', count: 3, offset: 60, bytes: 90, ...none },
        names: [
          ['ram', 2],
          ['block', 1],
        ],
      },
      {
        ...{ kind: 'command', count: 2, offset: 150, bytes: 18, moreNames: 0 },
        names: [['POSTCOPY_RAM_DISCARD', 2]],
        details: ['block pc.ram, ranges 2 (12288 bytes)', 'block vga, ranges 0 (0 bytes)'],
      },
      {
        ...{ kind: 'command', count: 1, offset: 230, bytes: 9, names: [['UNKNOWN', 1]] },
        ...{ moreNames: 0, details: ['number 77'] },
      },
      { kind: 'full', count: 1, offset: 300, bytes: 30, names: [['timer', 1]], ...none },
    ]);
  });

  test('is bounded when nothing can be folded, and counts the rest', async () => {
    const sections = Array.from({ length: 30_000 }, (_, at) =>
      sectionOf(`device-${at}`, { sectionId: at, kind: at % 2 === 0 ? 'start' : 'part' }),
    );
    const { events, moreEvents } = await dataOf(reportOf({ sections }));
    assert.ok(events.length < 5000);
    assert.equal(events.length + moreEvents, 30_000);
  });

  test('names some of many devices, and counts the others', async () => {
    const sections = Array.from({ length: 100 }, (_, at) => sectionOf(`device-${at}`));
    const [event] = (await dataOf(reportOf({ sections }))).events;
    assert.equal(event?.count, 100);
    assert.equal(event.names.length + event.moreNames, 100);
    assert.ok(event.names.length < 10);
  });
});

describe('the devices in a report', () => {
  test('distinguish integers, bytes and structures', async () => {
    const state = {
      number: 5,
      flag: true,
      nothing: null,
      large: '18446744073709551615',
      low: '-9223372036854775808',
      digits: '0000000000000005',
      eight: '1234567890123456',
      bytes: '00ff7e',
      tail: '01000a0000000000',
      zeros: '00000000',
      empty: '',
      other: 'neither',
      list: [1, '9007199254740992', { deep: 'ab' }],
    };
    assert.deepEqual(await packed(state), {
      number: 5,
      flag: true,
      nothing: null,
      large: '#18446744073709551615',
      low: '#-9223372036854775808',
      digits: '8:0000000000000005',
      // It would be a number if it were one: it is below 2^53.
      eight: '8:1234567890123456',
      bytes: '3:00ff7e',
      tail: '8:01000a',
      zeros: '4:',
      empty: '0:',
      other: '"neither',
      list: [1, '#9007199254740992', { deep: '1:ab' }],
    });
  });

  test('have the sizes of their sections', async () => {
    const { devices } = await dataOf(
      reportOf({
        sections: [
          sectionOf('dma', { bytes: 10 }),
          sectionOf('dma', { bytes: 20, instanceId: 1 }),
          sectionOf('dma', { bytes: 30, sectionId: 9 }),
          sectionOf('ram', { bytes: 40, kind: 'part' }),
        ],
        devices: { dma: {}, 'dma/1': {}, 'dma (section 9)': {}, ram: {} },
      }),
    );
    assert.deepEqual(
      devices.map(({ bytes }) => bytes),
      [10, 20, 30, null],
    );
  });

  test('that are too large stay without state, the others with it', async () => {
    const { devices } = await dataOf(
      reportOf({
        devices: {
          first: { a: 1 },
          large: { list: Array.from({ length: 6_000_000 }, () => 0) },
          last: { b: 2 },
        },
      }),
    );
    assert.deepEqual(devices, [
      { name: 'first', bytes: null, state: { a: 1 } },
      { name: 'large', bytes: null },
      { name: 'last', bytes: null, state: { b: 2 } },
    ]);
  });

  test('have of many bytes the first', async () => {
    const state = (await packed({ vram: 'a5'.repeat(1_000_000) })) as { vram: string };
    assert.match(state.vram, /^1000000!(?:a5)+$/);
    assert.ok(state.vram.length < 600_000);
  });
});

describe('guest memory in a report', () => {
  const ramOf = (names: readonly string[]): Partial<Report['summary']> => ({
    ram: {
      pageSize: 4096,
      rounds: 0,
      perRound: [],
      blocks: names.map((name) => blockOf(name, { usedLength: 2048 * 4096 })),
    },
  });
  const mapOf = (name: string): Report['maps'][number] => ({
    name,
    usedLength: 2048 * 4096,
    cells: Array.from({ length: 2048 }, (_, at) => ({
      ...{ offset: 4096 * at, bytes: 4096, zero: at % 2, data: (at + 1) % 2, resent: 0, absent: 0 },
    })),
  });

  test('has the cells of each block', async () => {
    const [block] = (await dataOf(reportOf(ramOf(['a']), [mapOf('a')]))).blocks;
    assert.equal(block?.cellBytes, 4096);
    assert.deepEqual(block.cells.slice(0, 8), [0, 1, 0, 0, 1, 0, 0, 0]);
    assert.equal(block.cells.length, 4 * 2048);
  });

  test('has fewer cells of each when the blocks are many, and loses no page', async () => {
    const names = Array.from({ length: 1000 }, (_, at) => `block-${at}`);
    const { blocks } = await dataOf(reportOf(ramOf(names), names.map(mapOf)));
    for (const { cellBytes, cells } of blocks) {
      assert.ok(cells.length / 4 <= 128);
      assert.ok((cellBytes * cells.length) / 4 >= 2048 * 4096);
      assert.deepEqual(sums(cells), [1024, 1024, 0, 0]);
    }
  });

  test('knows of blocks without a map, and of maps alone', async () => {
    const { blocks } = await dataOf(reportOf(ramOf(['a', 'b']), [mapOf('b'), mapOf('c')]));
    assert.deepEqual(
      blocks.map(({ name, cells, records }) => [name, cells.length > 0, records !== null]),
      [
        ['a', false, true],
        ['b', true, true],
        ['c', true, false],
      ],
    );
  });

  test('has rounds folded when they are many, and loses none', async () => {
    const perRound = Array.from({ length: 1000 }, () => counts({ zero: 1, xbzrle: 2 }));
    const summary = { ram: { pageSize: 4096, rounds: 1000, perRound, blocks: [] } };
    const { rounds } = await dataOf(reportOf(summary));
    assert.ok(rounds.length <= 300);
    assert.deepEqual(rounds[0], { first: 1, last: 4, pages: counts({ zero: 4, xbzrle: 8 }) });
    assert.equal(rounds.at(-1)?.last, 1000);
    assert.equal(
      rounds.reduce((sum, { pages }) => sum + pages.zero, 0),
      1000,
    );
  });
});

test('a report has the first of very many warnings, and counts the others', async () => {
  const warnings = Array.from({ length: 5000 }, (_, at) => `warning ${at} ${'.'.repeat(5000)}`);
  const html = await reportHtml(reportOf({ warnings }));
  const data = dataIn(html);
  assert.equal(data.warnings.length + data.moreWarnings, 5000);
  assert.ok(html.length < 2_000_000);
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { summarizeParts } from '../../../lib/cli/commands/json.ts';
import { showTimeLine } from '../../../lib/cli/commands/time-line.ts';
import type { SectionKind } from '../../../lib/migration/format/events.ts';
import type { SectionSummary } from '../../../lib/migration/verify/summary.ts';
import { reportOf, sectionOf } from '../../helpers/command/report-samples.ts';

/** Sections of 10 bytes that follow each other, as `NAME KIND`. */
function sections(...pieces: string[]): SectionSummary[] {
  const ids = ['ram', 'dirty-bitmap', 'vfio'];
  return pieces.map((piece, index) => {
    const [name, kind] = piece.split(' ') as [string, SectionKind];
    const sectionId = ids.includes(name) ? ids.indexOf(name) : 100 + index;
    return sectionOf(name, { kind, sectionId, offset: 10 * index, bytes: 10 });
  });
}

function repeat(count: number, ...pieces: string[]): string[] {
  return Array.from({ length: count }, () => pieces).flat();
}

/** The lines of a time line, without offsets and sizes. */
function timeLine(...pieces: string[]): string[] {
  const text = showTimeLine(reportOf({ sections: sections(...pieces) }).summary);
  return text
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((line) => line.replace(/^ +\d+ {2}/, '').replace(/ {2,}[\d.]+ \w+$/, ''))
    .filter((line) => !line.includes('VM description'));
}

describe('the time line', () => {
  test('has one line for consecutive pieces of one section, and for consecutive devices', () => {
    assert.deepEqual(
      timeLine('ram start', ...repeat(3, 'ram part'), 'ram end', 'timer full', 'cpu full'),
      ['ram START', 'ram PART × 3', 'ram END', 'devices × 2'],
    );
  });

  test('has one line for sections whose parts take turns', () => {
    const parts = repeat(24_864, 'ram part', 'dirty-bitmap part');
    assert.deepEqual(timeLine('ram start', 'dirty-bitmap start', ...parts, 'ram end'), [
      'ram START',
      'dirty-bitmap START',
      'ram PART, dirty-bitmap PART × 24864',
      'ram END',
    ]);
  });

  test('prints the number of parts of each section if the numbers differ', () => {
    const parts = ['ram part', 'ram part', 'vfio part', 'ram part'];
    assert.deepEqual(timeLine(...parts), ['ram PART × 3, vfio PART']);
  });

  test('keeps the order of sections whose parts do not take turns', () => {
    const parts = ['ram part', 'ram part', 'dirty-bitmap part', 'vfio part'];
    assert.deepEqual(timeLine(...parts), ['ram PART × 2', 'dirty-bitmap PART', 'vfio PART']);
  });

  test('names some of many sections whose parts take turns', () => {
    const names = ['a part', 'b part', 'c part', 'd part', 'e part', 'f part'];
    assert.deepEqual(timeLine(...repeat(5, ...names)), [
      'a PART, b PART, c PART, d PART and PARTs of 2 more sections × 5',
    ]);
  });

  test('does not fold parts across the end of a section', () => {
    assert.deepEqual(timeLine('ram part', 'ram end', 'ram part'), [
      'ram PART',
      'ram END',
      'ram PART',
    ]);
  });
});

describe('the parts of sections in JSON', () => {
  test('are one entry for each section, with the number and the bytes of all', () => {
    const pieces = ['ram start', ...repeat(3, 'ram part', 'vfio part'), 'ram end', 'cpu full'];
    assert.deepEqual(
      summarizeParts(sections(...pieces)).map((entry) => [
        `${entry.name} ${entry.kind}`,
        entry.offset,
        entry.bytes,
        'count' in entry ? entry.count : undefined,
      ]),
      [
        ['ram start', 0, 10, undefined],
        ['ram part', 10, 30, 3],
        ['vfio part', 20, 30, 3],
        ['ram end', 70, 10, undefined],
        ['cpu full', 80, 10, undefined],
      ],
    );
  });

  test('are as in the list if there is only one', () => {
    const list = sections('ram start', 'ram part', 'ram end');
    assert.deepEqual(summarizeParts(list), list);
  });

  test('leave the list of the summary as it is', () => {
    const list = sections('ram part', 'ram part');
    summarizeParts(list);
    assert.deepEqual(list, sections('ram part', 'ram part'));
  });
});

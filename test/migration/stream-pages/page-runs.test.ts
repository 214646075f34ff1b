import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  findRun,
  MAX_PAGES,
  PageRunsBuilder,
} from '../../../lib/migration/stream-pages/page-runs.ts';

const STRIDE = 4104;

function listed(builder: PageRunsBuilder): number[][] {
  const { length, pages, counts, positions } = builder.finish();
  return Array.from({ length }, (_, at) => [
    pages[at] as number,
    counts[at] as number,
    positions[at] as number,
  ]);
}

test('adjacent pages that are adjacent in the stream are one run', () => {
  const builder = new PageRunsBuilder(STRIDE);
  builder.add(0, 1, 100);
  builder.add(1, 1, 100 + STRIDE);
  builder.add(2, 2, 100 + 2 * STRIDE);
  builder.add(4, 1, 9 + 100 + 4 * STRIDE);
  builder.add(9, 1, 9 + 100 + 5 * STRIDE);
  assert.deepEqual(listed(builder), [
    [0, 4, 100],
    [4, 1, 109 + 4 * STRIDE],
    [9, 1, 109 + 5 * STRIDE],
  ]);
});

test('a later copy replaces a part of a run', () => {
  const builder = new PageRunsBuilder(STRIDE);
  builder.add(0, 10, 0);
  builder.add(3, 2, 100_000);
  builder.addZeros(7, 1);
  assert.deepEqual(listed(builder), [
    [0, 3, 0],
    [3, 2, 100_000],
    [5, 2, 5 * STRIDE],
    [8, 2, 8 * STRIDE],
  ]);
});

test('pages of zeros without a copy before them take no run', () => {
  const builder = new PageRunsBuilder(STRIDE);
  builder.addZeros(0, 1_000_000);
  builder.add(5, 1, 50);
  builder.addZeros(6, 1000);
  builder.addZeros(5, 1);
  builder.addZeros(5, 1);
  assert.deepEqual(listed(builder), []);
});

test('the last copy wins, whatever the order of copies', () => {
  const PAGES = 5000;
  let seed = 4711;
  const next = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return (seed >>> 8) % below;
  };
  const builder = new PageRunsBuilder(STRIDE);
  const places = new Float64Array(PAGES).fill(-1);
  let position = 1;
  // Enough runs to drop replaced ones several times on the way.
  for (let turn = 0; turn < 400_000; turn++) {
    const page = next(PAGES);
    const count = Math.min(1 + next(4), PAGES - page);
    if (next(5) === 0) {
      builder.addZeros(page, count);
      places.fill(-1, page, page + count);
    } else {
      builder.add(page, count, position);
      for (let at = 0; at < count; at++) places[page + at] = position + at * STRIDE;
      position += count * STRIDE + 9;
    }
  }
  const runs = builder.finish();
  const found = new Float64Array(PAGES).fill(-1);
  let end = 0;
  for (let at = 0; at < runs.length; at++) {
    const page = runs.pages[at] as number;
    assert.ok(page >= end);
    end = page + (runs.counts[at] as number);
    for (let of = page; of < end; of++) {
      found[of] = (runs.positions[at] as number) + (of - page) * STRIDE;
    }
  }
  assert.deepEqual(found, places);
  for (let page = 0; page < PAGES; page++) {
    const run = findRun(runs, page);
    const covers = run >= 0 && page < (runs.pages[run] as number) + (runs.counts[run] as number);
    assert.equal(covers, places[page] !== -1);
  }
});

test('a guest with too many pages is refused', () => {
  const builder = new PageRunsBuilder(STRIDE);
  builder.add(MAX_PAGES - 1, 1, 0);
  builder.add(MAX_PAGES, 1, 0);
  assert.throws(() => builder.finish(), { code: 'ENOTSUP' });
});

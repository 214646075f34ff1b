import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { PageSet } from '../../../lib/migration/memory/page-set.ts';

function runs(set: PageSet, first: number, end: number): number[][] {
  return [...set.runs(first, end)].map((run) => [...run]);
}

test('runs are in order and join across words and chunks', () => {
  const set = new PageSet();
  set.add(8190, 16_386);
  set.add(31, 33);
  set.add(2 ** 40, 2 ** 40 + 1);
  assert.deepEqual(runs(set, 0, 2 ** 41), [
    [31, 33],
    [8190, 16_386],
    [2 ** 40, 2 ** 40 + 1],
  ]);
  assert.deepEqual(runs(set, 32, 8191), [
    [32, 33],
    [8190, 8191],
  ]);
  assert.deepEqual(runs(set, 5, 5), []);
  assert.equal(set.count(0, 2 ** 41), 2 + 8196 + 1);
  assert.equal(set.count(32, 8191), 2);
  assert.equal(set.count(5, 5), 0);
});

test('removed pages are gone, and removing absent pages changes nothing', () => {
  const set = new PageSet();
  set.add(0, 20_000);
  set.remove(100, 19_000);
  set.remove(2 ** 45, 2 ** 50);
  assert.deepEqual(runs(set, 0, 2 ** 50), [
    [0, 100],
    [19_000, 20_000],
  ]);
  assert.equal(set.has(99), true);
  assert.equal(set.has(100), false);
});

test('a set behaves like a plain list of numbers under random operations', () => {
  const range = fc.tuple(
    fc.boolean(),
    fc.integer({ min: 0, max: 20_000 }),
    fc.integer({ min: 0, max: 9000 }),
  );
  fc.assert(
    fc.property(fc.array(range, { maxLength: 12 }), range, (steps, [, from, length]) => {
      const set = new PageSet();
      const model = new Uint8Array(30_000);
      for (const [isAdded, first, size] of steps) {
        if (isAdded) set.add(first, first + size);
        else set.remove(first, first + size);
        model.fill(isAdded ? 1 : 0, first, first + size);
      }
      const seen = new Uint8Array(30_000);
      let last = -1;
      for (const [first, end] of set.runs(from, from + length)) {
        assert.ok(first > last && end > first);
        last = end;
        seen.fill(1, first, end);
      }
      const wanted = new Uint8Array(30_000);
      wanted.set(model.subarray(from, from + length), from);
      assert.deepEqual(seen, wanted);
      assert.equal(
        set.count(from, from + length),
        wanted.reduce((sum, one) => sum + one, 0),
      );
      for (let page = 0; page < 30_000; page += 7) assert.equal(set.has(page), model[page] === 1);
    }),
    { numRuns: 60 },
  );
});

test('a set of scattered pages is refused before it takes much memory', () => {
  const set = new PageSet(3);
  for (const page of [0, 2 ** 20, 2 ** 30]) set.add(page, page + 1);
  assert.throws(
    () => set.add(2 ** 40, 2 ** 40 + 1),
    (error: unknown) => error instanceof QemuFileError && error.code === 'ENOMEM',
  );
  assert.equal(set.has(2 ** 30), true);
  set.add(1, 8000);
});

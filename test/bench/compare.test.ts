import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { slowerRows } from '../../bench/harness/compare.ts';
import type { Row } from '../../bench/harness/row.ts';

function row(fields: Partial<Row>): Row {
  return {
    name: 'a',
    value: 10,
    unit: 'GB/s',
    against: [],
    ratio: 1,
    spread: 0,
    mustReach: '',
    ok: null,
    ...fields,
  };
}

describe('a comparison with an earlier run', () => {
  test('names a row whose ratio to the floor fell by more than the noise', () => {
    const found = slowerRows([row({})], [row({ value: 20, ratio: 0.5 })]);
    assert.deepEqual(found, [{ name: 'a', factor: 2 }]);
  });

  test('takes less of a time for better', () => {
    const before = [row({ unit: 'ns', ratio: 1 })];
    assert.deepEqual(slowerRows(before, [row({ unit: 'ns', ratio: 0.5 })]), []);
    assert.deepEqual(slowerRows(before, [row({ unit: 'ns', ratio: 3 })]), [
      { name: 'a', factor: 3 },
    ]);
  });

  test('lets a row fall within the spread of both runs', () => {
    assert.deepEqual(slowerRows([row({ spread: 0.1 })], [row({ ratio: 0.8, spread: 0.1 })]), []);
  });

  test('with a tolerance compares ratios only', () => {
    assert.deepEqual(slowerRows([row({})], [row({ ratio: 0.6 })], 2), []);
    assert.deepEqual(slowerRows([row({})], [row({ ratio: 0.4 })], 2), [{ name: 'a', factor: 2.5 }]);
    const bare = row({ ratio: null });
    assert.deepEqual(slowerRows([bare], [row({ ratio: null, value: 1 })], 2), []);
  });

  test('passes over rows that the earlier run does not have', () => {
    assert.deepEqual(slowerRows([], [row({ ratio: 0.1 })]), []);
  });
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FaultTimes } from '../../../../lib/vm/lazy/page-server/fault-times.ts';

test('quantiles are right to 5 %, and the greatest time is exact', () => {
  const times = new FaultTimes();
  assert.deepEqual(times.quantiles, { p50: 0, p99: 0, max: 0 });
  for (let count = 1; count <= 1000; count++) times.add(count / 100);
  const { p50, p99, max } = times.quantiles;
  assert.ok(p50 >= 5 && p50 <= 5.25, String(p50));
  assert.ok(p99 >= 9.9 && p99 <= 10, String(p99));
  assert.equal(max, 10);
});

test('times below a microsecond and above an hour are counted', () => {
  const times = new FaultTimes();
  times.add(0);
  times.add(1e9);
  assert.equal(times.quantiles.max, 1e9);
  assert.ok(times.quantiles.p50 <= 0.001);
});

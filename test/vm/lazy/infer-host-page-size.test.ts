import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { inferHostPageSize } from '../../../lib/vm/lazy/infer-host-page-size.ts';

const MIB = 1 << 20;

describe('the page size of a destination', () => {
  test('is at most 2 MiB where such pages came whole', () => {
    // 1024 target pages: the first 2 MiB are there, the others not.
    const bitmap = new Uint8Array(128).fill(0xff, 0, 64);
    assert.equal(inferHostPageSize(4 * MIB, bitmap, 4096), 2 * MIB);
  });

  test('is smaller where larger ones came in part, or do not fit the block', () => {
    const bitmap = new Uint8Array(128);
    bitmap.fill(0xff, 0, 2);
    assert.equal(inferHostPageSize(4 * MIB, bitmap, 4096), 65_536);
    bitmap[0] = 0x0f;
    bitmap[1] = 0;
    assert.equal(inferHostPageSize(4 * MIB, bitmap, 4096), 16_384);
    bitmap[0] = 1;
    assert.equal(inferHostPageSize(4 * MIB, bitmap, 4096), 4096);
    assert.equal(inferHostPageSize(12_288, new Uint8Array(8), 4096), 4096);
  });
});

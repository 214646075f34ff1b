import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ZeroRuns } from '../../../adapters/file/zero-runs.ts';

const BLOCK = 4096;

/** Return the runs of a batch as text: `d` and `z` with the number of bytes. */
function runs(buffers: readonly Uint8Array[], offset = 0, holesFrom = 0): string {
  const zeroRuns = new ZeroRuns();
  zeroRuns.scan(buffers, offset, holesFrom);
  return zeroRuns.lengths
    .map((bytes, index) => `${index % 2 === 0 ? 'd' : 'z'}${bytes}`)
    .filter((run) => run !== 'd0')
    .join(' ');
}

const data = (bytes: number): Uint8Array => new Uint8Array(bytes).fill(7);
const zeros = (bytes: number): Uint8Array => new Uint8Array(bytes);

describe('runs of a batch', () => {
  test('are one run where there are only data or only zeros', () => {
    assert.equal(runs([data(10 * BLOCK + 5)]), 'd40965');
    assert.equal(runs([zeros(10 * BLOCK + 5)]), 'z40965');
  });

  test('alternate at the blocks of the file', () => {
    const batch = Buffer.concat([zeros(BLOCK), data(BLOCK), zeros(2 * BLOCK), data(3)]);
    assert.equal(runs([batch]), 'z4096 d4096 z8192 d3');
  });

  test('count blocks from the start of the file, not of the batch', () => {
    const batch = Buffer.concat([data(96), zeros(BLOCK), data(BLOCK)]);
    assert.equal(runs([batch], 4000), 'd96 z4096 d4096');
    assert.equal(runs([batch], 0), 'd8288');
  });

  test('have no zeros of less than a block between data', () => {
    const batch = Buffer.concat([data(1), zeros(2 * BLOCK - 2), data(1)]);
    assert.equal(runs([batch]), 'd8192');
  });

  test('treat the part of a block at the start and the end of a batch like a block', () => {
    assert.equal(runs([zeros(96), data(BLOCK), zeros(5)], 4000), 'z96 d4096 z5');
  });

  test('join blocks that several buffers hold', () => {
    assert.equal(runs([zeros(1000), zeros(3000), zeros(96), data(BLOCK)]), 'z4096 d4096');
    assert.equal(runs([zeros(1000), data(1), zeros(3095), zeros(BLOCK)]), 'd4096 z4096');
    assert.equal(runs([data(BLOCK), zeros(0), zeros(10), zeros(BLOCK - 10)]), 'd4096 z4096');
  });

  test('find a single byte anywhere in a block', () => {
    for (const at of [0, 1, 7, 8, 100, 2047, 2048, 4094, 4095]) {
      const batch = zeros(3 * BLOCK);
      batch[BLOCK + at] = 1;
      assert.equal(runs([batch]), 'z4096 d4096 z4096', `byte ${at}`);
    }
  });

  test('take zeros before an offset for data', () => {
    assert.equal(runs([zeros(4 * BLOCK)], 0, BLOCK), 'd4096 z12288');
    assert.equal(runs([zeros(4 * BLOCK)], 0, BLOCK + 1), 'd8192 z8192');
    assert.equal(runs([zeros(4 * BLOCK)], 0, 100 * BLOCK), 'd16384');
  });

  test('are right beyond 4 GiB', () => {
    const offset = 2 ** 40 - 96;
    assert.equal(runs([data(96), zeros(BLOCK), data(BLOCK)], offset), 'd96 z4096 d4096');
  });

  test('of an empty batch do not exist', () => {
    assert.equal(runs([]), '');
    assert.equal(runs([zeros(0)]), '');
  });
});

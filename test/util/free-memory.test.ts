import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import zlib from 'node:zlib';
import { freeMemory } from '../../lib/util/free-memory.ts';

describe('freeMemory', () => {
  it('leaves the memory of small buffers as it is', () => {
    const small = Buffer.from('a few bytes');
    freeMemory(small);
    assert.equal(small.toString(), 'a few bytes');
  });

  it('takes compressed bytes, which Node 24 and later keep among the small buffers', () => {
    const neighbour = Buffer.from('a few bytes');
    for (const size of [100, 1000, 1 << 20]) freeMemory(zlib.deflateSync(Buffer.alloc(size)));
    assert.equal(neighbour.toString(), 'a few bytes');
  });

  it('frees the memory of a large buffer where Node can', () => {
    const bytes = new Uint8Array(1 << 20).fill(1);
    freeMemory(bytes);
    const canFree = 'transfer' in ArrayBuffer.prototype;
    assert.equal(bytes.length, canFree ? 0 : 1 << 20);
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { applyXbzrle, xbzrleFault } from '../../../lib/migration/ram/xbzrle.ts';
import { hex, pattern } from '../../helpers/bytes.ts';

const PAGE = 4096;

/** Encoding and the bytes that differ from a page of zeros, by offset. */
const VECTORS: readonly (readonly [encoded: string, changes: Record<number, string>])[] = [
  ['64 04 aa bb cc dd', { 100: 'aa bb cc dd' }],
  ['00 01 aa', { 0: 'aa' }],
  ['ac 02 02 11 22 ba 05 01 33', { 300: '11 22', 1000: '33' }],
  ['ff 1f 01 77', { 4095: '77' }],
  ['00 01 01 03 01 02', { 0: '01', 4: '02' }],
];

function changed(base: Uint8Array, changes: Record<number, string>): Buffer {
  const page = Buffer.from(base);
  for (const [offset, bytes] of Object.entries(changes)) hex(bytes).copy(page, Number(offset));
  return page;
}

describe('XBZRLE', () => {
  for (const [encoded, changes] of VECTORS) {
    it(`applies ${encoded} on a page of zeros and on another`, () => {
      assert.equal(xbzrleFault(hex(encoded), PAGE), null);
      for (const base of [Buffer.alloc(PAGE), pattern(PAGE)]) {
        const page = Buffer.from(base);
        applyXbzrle(page, hex(encoded));
        assert.deepEqual(page, changed(base, changes));
      }
    });
  }

  it('takes lengths of one byte that are written in two', () => {
    assert.equal(xbzrleFault(hex('80 00 81 00 aa'), PAGE), null);
    const page = Buffer.alloc(PAGE);
    applyXbzrle(page, hex('80 00 81 00 aa'));
    assert.deepEqual(page, changed(Buffer.alloc(PAGE), { 0: 'aa' }));
  });

  it('takes the longest run, in a page that has room for it', () => {
    const encoded = Buffer.concat([hex('00 ff 7f'), pattern(0x3fff)]);
    assert.equal(xbzrleFault(encoded, 65536), null);
    const page = Buffer.alloc(65536);
    applyXbzrle(page, encoded);
    assert.deepEqual(page, Buffer.concat([pattern(0x3fff), Buffer.alloc(65536 - 0x3fff)]));
  });

  it('takes a run that ends where the page does', () => {
    assert.equal(xbzrleFault(hex('fc 1f 04 01 02 03 04'), PAGE), null);
  });

  const FAULTS: readonly (readonly [encoded: string, fault: RegExp])[] = [
    ['', /^0 encoded bytes, not 3 to 4096$/],
    ['00 01', /^2 encoded bytes, not 3 to 4096$/],
    ['00 01 aa 05', /^run 3 \(kept bytes\) at offset 3 is truncated$/],
    ['00 01 aa 05 01', /^run 4 \(changed bytes\) at offset 4 is truncated$/],
    ['00 01 aa 85 00', /^run 4 \(changed bytes\) at offset 5 is truncated$/],
    ['00 01 aa 00 01 bb', /^run 3 \(kept bytes\) at offset 3 is empty$/],
    ['00 01 aa 80 00 01 bb', /^run 3 \(kept bytes\) at offset 3 is empty$/],
    ['05 00 aa', /^run 2 \(changed bytes\) at offset 1 is empty$/],
    ['05 80 00 aa', /^run 2 \(changed bytes\) at offset 1 is empty$/],
    ['80 80 01 aa', /^run 1 \(kept bytes\) at offset 0 has a length of more than 2 bytes$/],
    ['00 80 80 aa', /^run 2 \(changed bytes\) at offset 1 has a length of more than 2 bytes$/],
    ['00 04 aa bb cc', /^run 2 \(changed bytes\) at offset 1 lacks 1 of its 4 bytes$/],
    ['81 20 01 aa', /^run 1 \(kept bytes\) at offset 0 ends at byte 4097 of a page of 4096$/],
    ['80 20 01 aa', /^run 2 \(changed bytes\) at offset 2 ends at byte 4097 of a page of 4096$/],
    ['ff 7f 01 aa', /^run 1 \(kept bytes\) at offset 0 ends at byte 16383 of a page of 4096$/],
  ];
  for (const [encoded, fault] of FAULTS) {
    it(`refuses ${encoded === '' ? 'nothing' : encoded}`, () => {
      assert.match(xbzrleFault(hex(encoded), PAGE) ?? '', fault);
    });
  }

  it('refuses an encoding longer than its page', () => {
    const encoded = Buffer.concat([hex('00 81 20'), Buffer.alloc(4097)]);
    assert.match(xbzrleFault(encoded, PAGE) ?? '', /^4100 encoded bytes, not 3 to 4096$/);
  });

  it('finds a fault in every beginning of an encoding', () => {
    const encoded = hex('ac 02 02 11 22 ba 05 01 33');
    for (let length = 0; length < encoded.length; length++) {
      // After the second run the encoding is whole.
      const whole = length === 5;
      assert.equal(xbzrleFault(encoded.subarray(0, length), PAGE) === null, whole, `${length}`);
    }
  });

  it('does not touch bytes beyond the page, and ends, for any input', () => {
    const memory = Buffer.alloc(3 * PAGE);
    const page = memory.subarray(PAGE, 2 * PAGE);
    for (let seed = 1; seed < 500; seed++) {
      const encoded = Buffer.from({ length: seed % 64 } as ArrayLike<number>).map(
        (_, at) => (seed * 2654435761 + at * 40503 * seed) >>> 13,
      );
      applyXbzrle(page, encoded);
    }
    assert.deepEqual(memory.subarray(0, PAGE), Buffer.alloc(PAGE));
    assert.deepEqual(memory.subarray(2 * PAGE), Buffer.alloc(PAGE));
  });
});

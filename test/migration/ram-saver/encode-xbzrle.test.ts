import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { applyXbzrle, xbzrleFault } from '../../../lib/migration/ram/xbzrle.ts';
import {
  encodeXbzrle,
  type PageView,
  pageView,
  SAME,
  TOO_LONG,
} from '../../../lib/migration/ram-saver/encode-xbzrle.ts';

function encode(old: Uint8Array, page: Uint8Array, room = page.length): Buffer | number {
  const target = Buffer.alloc(room);
  const length = encodeXbzrle(viewOf(old), viewOf(page), target);
  return length > 0 ? target.subarray(0, length) : length;
}

function viewOf(bytes: Uint8Array): PageView {
  return pageView(Uint8Array.from(bytes).buffer, 0, bytes.length);
}

function pageWith(changes: Readonly<Record<number, number>>): Buffer {
  const page = Buffer.alloc(4096);
  for (const [at, value] of Object.entries(changes)) page[Number(at)] = value;
  return page;
}

describe('the changes of a page of zeros', () => {
  const vectors: readonly (readonly [changes: Record<number, number>, encoded: string])[] = [
    [{ 100: 0xaa, 101: 0xbb, 102: 0xcc, 103: 0xdd }, '64 04 aa bb cc dd'],
    [{ 0: 0xaa }, '00 01 aa'],
    [{ 300: 0x11, 301: 0x22, 1000: 0x33 }, 'ac 02 02 11 22 ba 05 01 33'],
    [{ 4095: 0x77 }, 'ff 1f 01 77'],
    [{ 0: 1, 4: 2 }, '00 01 01 03 01 02'],
  ];
  for (const [changes, encoded] of vectors) {
    test(`are encoded as ${encoded}`, () => {
      const expected = Buffer.from(encoded.replaceAll(' ', ''), 'hex');
      assert.deepEqual(encode(Buffer.alloc(4096), pageWith(changes)), expected);
    });
  }
});

test('a page that did not change has no encoding', () => {
  assert.equal(encode(pageWith({ 7: 1 }), pageWith({ 7: 1 })), SAME);
});

test('a page of which all changed is too long', () => {
  assert.equal(encode(Buffer.alloc(4096), Buffer.alloc(4096, 1)), TOO_LONG);
});

test('runs beyond what two length bytes express are too long', () => {
  const page = Buffer.alloc(65_536);
  page[16_383] = 1;
  assert.deepEqual(encode(Buffer.alloc(65_536), page), Buffer.from('ff7f0101', 'hex'));
  page[16_383] = 0;
  page[16_384] = 1;
  assert.equal(encode(Buffer.alloc(65_536), page), TOO_LONG);
});

test('what is encoded becomes the page again, within the length of a page', () => {
  const bytes = fc.uint8Array({ minLength: 1024, maxLength: 1024 });
  const changes = fc.array(fc.tuple(fc.nat(1023), fc.integer({ min: 1, max: 255 })), {
    maxLength: 400,
  });
  fc.assert(
    fc.property(bytes, changes, (old, list) => {
      const page = Buffer.from(old);
      for (const [at, difference] of list) page[at] = ((page[at] as number) + difference) & 0xff;
      const encoded = encode(old, page);
      if (encoded === SAME) {
        assert.ok(page.equals(old));
        return;
      }
      if (typeof encoded === 'number') return;
      assert.equal(xbzrleFault(encoded, 1024), null);
      const decoded = Buffer.from(old);
      applyXbzrle(decoded, encoded);
      assert.ok(decoded.equals(page));
    }),
  );
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { PageView } from '../../../lib/migration/ram-saver/encode-xbzrle.ts';
import { PageBuffer } from '../../../lib/migration/ram-saver/page-buffer.ts';

describe('a page is all zeros', () => {
  for (const pageSize of [1024, 4096, 65_536]) {
    test(`only if each of its ${pageSize} bytes is, whatever is in the pages beside it`, () => {
      const buffer = new PageBuffer(pageSize, 3);
      const all = buffer.runs[3] as Buffer;
      all.fill(0xff);
      const page = (buffer.pages[1] as PageView).bytes;
      page.fill(0);
      assert.deepEqual(
        [0, 1, 2].map((at) => buffer.isZero(at)),
        [false, true, false],
      );
      for (let at = 0; at < pageSize; at++) {
        page[at] = 0x80;
        assert.equal(buffer.isZero(1), false, `byte ${at}`);
        page[at] = 0;
      }
      assert.equal(buffer.isZero(1), true);
    });
  }
});

test('runs and pages are views of the same memory', () => {
  const buffer = new PageBuffer(1024, 4);
  (buffer.runs[3] as Buffer).fill(7);
  assert.deepEqual(
    buffer.pages.map(({ bytes }) => bytes[1023]),
    [7, 7, 7, 0],
  );
  assert.deepEqual(
    buffer.runs.map(({ length }) => length),
    [0, 1024, 2048, 3072, 4096],
  );
});

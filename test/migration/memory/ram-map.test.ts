import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { RamBlock } from '../../../lib/migration/format/events.ts';
import { RamMap } from '../../../lib/migration/memory/ram-map.ts';

const PAGE = 4096;

function block(index: number, pages: number): RamBlock {
  return {
    index,
    name: `block-${index}`,
    usedLength: pages * PAGE,
    hostPageSize: null,
    address: null,
    pages: { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 },
  };
}

/** Cells as `zero data resent absent`. */
function shown(map: RamMap, of: RamBlock, most: number): string[] {
  return map
    .cells(of, most)
    .map(({ zero, data, resent, absent }) => `${zero} ${data} ${resent} ${absent}`);
}

describe('a map of RAM', () => {
  const [first, second] = [block(0, 10), block(1, 4)];
  const mapped = (): RamMap => {
    const map = new RamMap();
    map.blocks([first, second], PAGE);
    return map;
  };

  test('divides a block into at most the given number of cells, the last one smaller', () => {
    const map = mapped();
    assert.deepEqual(
      map.cells(first, 4).map(({ offset, bytes }) => [offset / PAGE, bytes / PAGE]),
      [
        [0, 3],
        [3, 3],
        [6, 3],
        [9, 1],
      ],
    );
    assert.equal(map.cells(first, 100).length, 10);
    assert.equal(map.cells(first, 1).length, 1);
    assert.deepEqual(map.cells(block(0, 0), 8), []);
  });

  test('shows how each page was sent, or that it was not', () => {
    const map = mapped();
    map.page(first, 0, new Uint8Array(2 * PAGE));
    map.zero(first, 2 * PAGE, 3);
    map.xbzrle(second, 3 * PAGE);
    assert.deepEqual(shown(map, first, 5), ['0 2 0 0', '2 0 0 0', '1 0 0 1', '0 0 0 2', '0 0 0 2']);
    assert.deepEqual(shown(map, second, 1), ['0 1 0 3']);
  });

  test('counts a page once, by its last record, and as resent', () => {
    const map = mapped();
    map.page(first, 0, new Uint8Array(PAGE));
    map.zero(first, 0, 1);
    map.zero(first, PAGE, 2);
    map.page(first, PAGE, new Uint8Array(PAGE));
    map.page(first, PAGE, new Uint8Array(PAGE));
    assert.deepEqual(shown(map, first, 10).slice(0, 4), [
      '1 0 1 0',
      '0 1 1 0',
      '1 0 0 0',
      '0 0 0 1',
    ]);
    // A run over pages of which some have come.
    map.zero(first, 0, 10);
    assert.deepEqual(shown(map, first, 1), ['10 0 3 0']);
  });

  test('keeps blocks apart when the list grows', () => {
    const map = new RamMap();
    map.blocks([first], PAGE);
    map.page(first, 9 * PAGE, new Uint8Array(PAGE));
    map.blocks([first, second], PAGE);
    map.page(second, 0, new Uint8Array(PAGE));
    assert.deepEqual(shown(map, first, 1), ['0 1 0 9']);
    assert.deepEqual(shown(map, second, 1), ['0 1 0 3']);
  });

  test('starts over when the page size changes', () => {
    const map = mapped();
    map.page(first, 0, new Uint8Array(PAGE));
    map.blocks([first, second], 1024);
    assert.deepEqual(shown(map, first, 1), ['0 0 0 40']);
    map.page(first, 1024, new Uint8Array(1024));
    assert.deepEqual(shown(map, first, 20)[0], '0 1 0 1');
  });

  test('reports scattered pages as incomplete and shows the rest', () => {
    const huge = block(0, 2 ** 38);
    const map = new RamMap();
    map.blocks([huge], PAGE);
    const page = new Uint8Array(PAGE);
    for (let index = 0; index < 40_000 && !map.isIncomplete; index += 1) {
      map.page(huge, index * 5_000_000 * PAGE, page);
    }
    assert.equal(map.isIncomplete, true);
    assert.equal(map.cells(huge, 64).length, 64);
    map.zero(huge, 0, 1);
  });
});

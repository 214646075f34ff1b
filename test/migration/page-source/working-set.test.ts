import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  decodeWorkingSet,
  encodeWorkingSet,
} from '../../../lib/migration/page-source/working-set.ts';
import { fakeSource } from '../../vm/lazy/fake-source.ts';

const source = fakeSource([
  ['pc.ram', 64, []],
  ['vga.vram', 16, []],
]);
const set = [
  { block: 1, page: 3, count: 2 },
  { block: 0, page: 32, count: 32 },
];

const TEXT =
  '{"format":"qemu-file working set","version":1,"pageSize":4096,' +
  '"blocks":[{"name":"pc.ram","usedLength":262144},{"name":"vga.vram","usedLength":65536}],' +
  '"ranges":[[1,3,2],[0,32,32]]}\n';

test('a working set keeps blocks, pages and order', () => {
  assert.equal(encodeWorkingSet(set, source), TEXT);
  assert.deepEqual(decodeWorkingSet(TEXT, source), set);
});

test('a working set fits a guest whose blocks are in another order', () => {
  const other = fakeSource([
    ['vga.vram', 16, []],
    ['pc.bios', 16, []],
    ['pc.ram', 64, []],
  ]);
  assert.deepEqual(decodeWorkingSet(TEXT, other), [
    { block: 0, page: 3, count: 2 },
    { block: 2, page: 32, count: 32 },
  ]);
});

for (const [name, from, to, why] of [
  ['of another page size', '"pageSize":4096', '"pageSize":8192', /do not have 4096 bytes/],
  ['of a block that the guest lacks', 'pc.ram', 'x\\u001b', /no RAM block "x\\u\{1b\}"/],
  ['of a block of another size', '262144', '262145', /"pc.ram" had another size/],
  ['of another version', '"version":1', '"version":2', /version 2, not 1/],
  ['of another format', 'working set', 'shopping list', /not a working set/],
  ['with a range beyond its block', '32,32', '33,32', /beyond its block/],
  ['with a range of an unknown block', '[0,', '[2,', /not one/],
  ['with a negative page', '[0,32', '[0,-32', /not one/],
  ['with an empty range', '32,32', '32,0', /not one/],
  ['with a huge range', '32,32', '32,9e99', /not one/],
  ['with a range of text', '[0,32,32]', '"0"', /not one/],
  ['that names pages again', '[[', '[[0,0,64],[', /more pages than the guest has/],
  ['without ranges', '"ranges"', '"rangers"', /no ranges/],
  ['that is no JSON', '{', '', /not a working set/],
] as const) {
  test(`a working set ${name} does not fit`, () => {
    const result = decodeWorkingSet(TEXT.replace(from, to), source);
    assert.equal(typeof result, 'string');
    assert.match(result as string, why);
  });
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import {
  MemoryPageStore,
  type PageStore,
  PlacedStore,
  SpillingStore,
  shareStore,
} from '../../../lib/migration/memory/page-store.ts';
import { TrackedStore } from '../../helpers/guests/page-stores.ts';

function read(store: PageStore, at: number, length: number): Buffer {
  const target = Buffer.alloc(length, 0xee);
  store.read(at, target);
  return target;
}

test('a memory store returns written bytes across chunks, and zeros elsewhere', () => {
  const store = new MemoryPageStore();
  const bytes = Buffer.from(Array.from({ length: 50_000 }, (_, index) => index % 251));
  store.write(16_000, bytes);
  assert.deepEqual(read(store, 16_000, 50_000), bytes);
  assert.deepEqual(
    read(store, 15_998, 4),
    Buffer.from([0, 0, bytes[0] as number, bytes[1] as number]),
  );
  assert.deepEqual(read(store, 66_000, 3), Buffer.alloc(3));
});

test('a memory store copies its input', () => {
  const store = new MemoryPageStore();
  const bytes = Buffer.from('abcd');
  store.write(0, bytes);
  bytes.fill(0);
  assert.equal(read(store, 0, 4).toString(), 'abcd');
});

test('a memory store zeroes a range and frees the chunks in it', () => {
  const store = new MemoryPageStore();
  store.write(0, Buffer.alloc(4 * 16_384, 0xaa));
  assert.equal(store.allocated, 4 * 16_384);
  store.zero(16_380, 2 * 16_384 + 10);
  assert.equal(store.allocated, 2 * 16_384);
  assert.deepEqual(read(store, 16_378, 4), Buffer.from('aaaa0000', 'hex'));
  assert.deepEqual(read(store, 49_156, 4), Buffer.from('0000aaaa', 'hex'));
  store.zero(7, 0);
  assert.deepEqual(read(store, 7, 1), Buffer.from('aa', 'hex'));
});

test('scattered pages take one chunk of memory each', () => {
  const store = new MemoryPageStore();
  for (let page = 0; page < 64; page++) store.write(page * 2 ** 44, Buffer.alloc(4096, page + 1));
  assert.equal(store.allocated, 64 * 16_384);
  assert.equal(read(store, 63 * 2 ** 44, 1)[0], 64);
  store.zero(0, 2 ** 50);
  assert.equal(store.allocated, 0);
});

test('a memory store refuses a write past its limit', () => {
  const store = new MemoryPageStore(2 * 16_384);
  store.write(0, Buffer.alloc(16_384, 1));
  store.write(2 ** 40, Buffer.alloc(16, 2));
  assert.throws(
    () => store.write(2 ** 41, Buffer.alloc(1, 3)),
    (error: unknown) => error instanceof QemuFileError && error.code === 'ENOMEM',
  );
  store.write(100, Buffer.alloc(1, 9));
  assert.equal(read(store, 100, 1)[0], 9);
  assert.equal(read(store, 2 ** 40, 1)[0], 2);
});

test('a spilling store moves its contents to another store before it exceeds its limit', () => {
  const made: TrackedStore[] = [];
  const store = new SpillingStore(() => {
    const next = new TrackedStore();
    made.push(next);
    return next;
  }, 8 * 16_384);
  store.write(2 ** 40, Buffer.alloc(4096, 0xab));
  store.write(5, Buffer.from('first'));
  assert.equal(store.hasSpilled, false);
  assert.equal(made.length, 0);
  for (let page = 1; page < 20; page++) store.write(page * 2 ** 20, Buffer.alloc(4096, page));
  assert.equal(store.hasSpilled, true);
  assert.equal(made.length, 1);
  assert.equal(read(store, 5, 5).toString(), 'first');
  assert.deepEqual(read(store, 2 ** 40 + 4094, 4), Buffer.from('abab0000', 'hex'));
  for (let page = 1; page < 20; page++) assert.equal(read(store, page * 2 ** 20, 1)[0], page);
  store.zero(5, 5);
  assert.deepEqual(read(made[0] as TrackedStore, 5, 5), Buffer.alloc(5));
  store.close();
  assert.equal(made[0]?.isClosed, true);
});

test('a spilling store stays in memory if the move fails, and closes the new store', () => {
  const full = new TrackedStore();
  full.write = () => {
    throw new QemuFileError('ENOSPC', 'no room');
  };
  const store = new SpillingStore(() => full, 4 * 16_384);
  store.write(0, Buffer.from('kept'));
  assert.throws(
    () => store.write(2 ** 30, Buffer.alloc(65_536)),
    (error: unknown) => error instanceof QemuFileError && error.code === 'ENOSPC',
  );
  assert.equal(full.isClosed, true);
  assert.equal(store.hasSpilled, false);
  assert.equal(read(store, 0, 4).toString(), 'kept');
});

test('a placed store splits a call over its placements', () => {
  const below = new MemoryPageStore();
  const store = new PlacedStore(below, [
    { at: 0, length: 10, to: 100 },
    { at: 10, length: 10, to: 1000 },
  ]);
  store.write(6, Buffer.from('abcdefgh'));
  assert.equal(read(below, 106, 4).toString(), 'abcd');
  assert.equal(read(below, 1000, 4).toString(), 'efgh');
  assert.equal(read(store, 6, 8).toString(), 'abcdefgh');
  store.zero(8, 4);
  assert.equal(read(store, 6, 8).toString('latin1'), 'ab\0\0\0\0gh');
  assert.deepEqual(read(below, 110, 4), Buffer.alloc(4));
});

test('a placed store refuses positions outside its placements', () => {
  const below = new MemoryPageStore();
  const store = new PlacedStore(below, [{ at: 0, length: 10, to: 0 }]);
  assert.throws(() => store.write(8, Buffer.from('abcd')), RangeError);
  assert.throws(() => store.zero(10, 1), RangeError);
  assert.throws(() => store.read(-1, Buffer.alloc(1)), RangeError);
  assert.equal(read(below, 10, 2).toString('latin1'), '\0\0');
});

test('blocks that share a store do not overlap, and do not close it', () => {
  const below = new TrackedStore();
  const next = shareStore(below);
  const first = next({ usedLength: 4096 });
  const second = next({ usedLength: 2 ** 40 });
  const third = next({ usedLength: 4096 });
  first.write(0, Buffer.alloc(4096, 1));
  second.write(2 ** 40 - 4096, Buffer.alloc(4096, 2));
  third.write(0, Buffer.alloc(4096, 3));
  assert.equal(read(first, 4095, 1)[0], 1);
  assert.equal(read(second, 0, 1)[0], 0);
  assert.equal(read(second, 2 ** 40 - 1, 1)[0], 2);
  assert.equal(read(third, 0, 1)[0], 3);
  assert.throws(() => first.write(65_536, Buffer.alloc(1)), RangeError);
  first.close();
  assert.equal(below.isClosed, false);
});

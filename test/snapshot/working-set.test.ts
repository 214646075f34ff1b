import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryStorage, type ObjectStorage } from '../../adapters/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { encodeWorkingSet } from '../../lib/vm/index.ts';
import { MadeGuest, memoryDigest, PAGE } from '../helpers/guests/made-guest.ts';

/** 200 pages, of which every tenth is needed first. */
const GUEST = new MadeGuest(20_000).fill(0, 2000, 'guest');
const SET = Array.from({ length: 200 }, (_, index) => ({ block: 0, page: index * 10, count: 1 }));
const SET_TEXT = encodeWorkingSet(SET, GUEST.pages);

/** Storage that counts the ranges that are read. */
function countedStorage(): { storage: ObjectStorage; ranges: () => number } {
  const storage = memoryStorage();
  const getRange = storage.getRange.bind(storage);
  let count = 0;
  storage.getRange = (key, offset, length, options) => {
    count += 1;
    return getRange(key, offset, length, options);
  };
  return { storage, ranges: () => count };
}

async function keysOf(storage: ObjectStorage, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list(prefix)) keys.push(key);
  return keys.sort();
}

/** Read the pages of the set, and return how many ranges of packs that took. */
async function rangesOfSet(
  store: SnapshotStore,
  name: string,
  ranges: () => number,
): Promise<number> {
  const reader = await new SnapshotStore(store.storage).reader(name, { workingSet: true });
  const before = ranges();
  const page = new Uint8Array(PAGE);
  reader.pages.readAhead(reader.workingSet);
  for (const { block, page: at } of SET) {
    await reader.pages.read(block, at * PAGE, page);
    assert.deepEqual(Buffer.from(page), GUEST.memory.get(at));
  }
  return ranges() - before;
}

test('a set is kept with a snapshot, and read only if it is asked for', async () => {
  const store = new SnapshotStore(memoryStorage());
  await store.writer('one').writeGuest(GUEST);
  await (await store.reader('one')).keepWorkingSet(SET);
  const again = await store.reader('one', { workingSet: true });
  assert.deepEqual(again.workingSet, SET);
  assert.deepEqual(again.warnings, []);
  assert.deepEqual((await store.reader('one')).workingSet, []);
});

test('a snapshot without a set has none, without a warning', async () => {
  const store = new SnapshotStore(memoryStorage());
  await store.writer('one').writeGuest(GUEST);
  const reader = await store.reader('one', { workingSet: true });
  assert.deepEqual([reader.workingSet, reader.warnings], [[], []]);
});

test('the pages of a set that is known are packed together: few requests read them', async () => {
  const { storage, ranges } = countedStorage();
  const store = new SnapshotStore(storage);
  await store.writer('unknown').writeGuest(GUEST);
  await (await store.reader('unknown')).keepWorkingSet(SET);
  await store.writer('known', { workingSet: SET_TEXT }).writeGuest(GUEST);
  const scattered = await rangesOfSet(store, 'unknown', ranges);
  const together = await rangesOfSet(store, 'known', ranges);
  // 2000 pages in 63 frames, and 200 pages in 7 frames, and the head of the pack.
  assert.ok(scattered >= 9, `${scattered} requests`);
  assert.equal(together, 2);
  const known = await store.reader('known');
  assert.equal(await memoryDigest(known), await memoryDigest(GUEST));
});

test('the set of a parent holds for its children, and what they change of it is packed together', async () => {
  const { storage, ranges } = countedStorage();
  const store = new SnapshotStore(storage);
  await store.writer('base', { workingSet: SET_TEXT }).writeGuest(GUEST);
  const changed = GUEST.clone();
  for (const { page } of SET.slice(100)) changed.fill(page, 1, 'changed');
  changed.fill(15_000, 300, 'new');
  await store.writer('child', { parent: 'base' }).writeGuest(changed);
  await store.writer('grandchild', { parent: 'child' }).writeGuest(changed);
  const child = await new SnapshotStore(storage).reader('child', { workingSet: true });
  assert.deepEqual(child.workingSet, SET);
  assert.equal(await memoryDigest(child), await memoryDigest(changed));
  const before = ranges();
  const page = new Uint8Array(PAGE);
  const again = await new SnapshotStore(storage).reader('child', { workingSet: true });
  again.pages.readAhead(again.workingSet);
  for (const { page: at } of SET) await again.pages.read(0, at * PAGE, page);
  assert.ok(ranges() - before <= 4, `${ranges() - before} requests: two packs, two heads`);
  const grandchild = await store.reader('grandchild', { workingSet: true });
  assert.deepEqual(grandchild.workingSet, SET);
  assert.equal(grandchild.info.dataBytes, child.info.dataBytes);
});

test('pages of a set that come again and again are stored right', async () => {
  const store = new SnapshotStore(memoryStorage());
  const twice = GUEST.clone();
  for (const { page } of SET) twice.memory.set(page, GUEST.memory.get(0) as Buffer);
  await store.writer('one', { workingSet: SET_TEXT }).writeGuest(twice);
  const reader = await store.reader('one');
  assert.equal(await memoryDigest(reader), await memoryDigest(twice));
});

const OTHER = new MadeGuest(30_000);
for (const [name, text, why] of [
  ['of another guest', encodeWorkingSet(SET, OTHER.pages), /RAM block "ram" had another size/],
  ['that is not a set', '[]', /not a working set/],
] as const) {
  test(`a set ${name} is not used: the snapshot is written, with a warning`, async () => {
    const store = new SnapshotStore(memoryStorage());
    const warnings: string[] = [];
    const onWarning = (reason: string): void => void warnings.push(reason);
    await store.writer('one', { workingSet: text, onWarning }).writeGuest(GUEST);
    assert.match(warnings.join(), why);
    const reader = await store.reader('one', { workingSet: true });
    assert.deepEqual(reader.workingSet, []);
    assert.equal(await memoryDigest(reader), await memoryDigest(GUEST));
  });
}

test('a damaged set is reported by fsck and by a reader, which does without it', async () => {
  const storage = memoryStorage();
  const store = new SnapshotStore(storage);
  await store.writer('one', { workingSet: SET_TEXT }).writeGuest(GUEST);
  const [key = ''] = await keysOf(storage, 'working-sets/');
  const bytes = await storage.get(key, 1 << 20);
  bytes.writeUInt8(bytes.readUInt8(100) ^ 1, 100);
  await storage.put(key, [bytes]);
  const { damage } = await store.fsck();
  assert.deepEqual(
    damage.map(({ key: damaged, snapshots }) => [damaged, snapshots]),
    [[key, ['one']]],
  );
  const reader = await store.reader('one', { workingSet: true });
  assert.deepEqual(reader.workingSet, []);
  assert.match(reader.warnings.join(), /damaged: its SHA-256/);
  const warnings: string[] = [];
  const onWarning = (reason: string): void => void warnings.push(reason);
  await store.writer('child', { parent: 'one', onWarning }).writeGuest(GUEST.clone('later'));
  assert.match(warnings.join(), /damaged: its SHA-256/);
  await store.copy('one', new SnapshotStore(memoryStorage()));
});

test('a copy has the set; gc removes it with the map of its snapshot', async () => {
  const storage = memoryStorage();
  const store = new SnapshotStore(storage);
  await store.writer('one', { workingSet: SET_TEXT }).writeGuest(GUEST);
  const other = new SnapshotStore(memoryStorage());
  await store.copy('one', other);
  assert.deepEqual((await other.reader('one', { workingSet: true })).workingSet, SET);
  await store.gc({ graceMs: 0 });
  assert.equal((await keysOf(storage, 'working-sets/')).length, 1);
  await store.remove('one');
  await store.gc({ graceMs: 0 });
  assert.deepEqual(await keysOf(storage, ''), ['qemu-file-store']);
  assert.deepEqual((await other.fsck({ deep: true })).unknown, []);
});

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { memoryStorage } from '../../adapters/index.ts';
import { openScratchStore } from '../../lib/extract/index.ts';
import { collectSavedGuest } from '../../lib/migration/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { MadeGuest, memoryDigest, PAGE } from '../helpers/guests/made-guest.ts';

const FIXTURES = new URL('../fixtures/', import.meta.url);

async function* chunks(bytes: Buffer, size: number): AsyncGenerator<Uint8Array, void> {
  for (let at = 0; at < bytes.length; at += size) {
    yield await Promise.resolve(bytes.subarray(at, at + size));
  }
}

function newStore(): SnapshotStore {
  return new SnapshotStore(memoryStorage());
}

test('a guest that was written is read: sections, description, memory', async () => {
  const store = newStore();
  const guest = new MadeGuest(5000).fill(10, 1500, 'a').fill(4999, 1, 'b');
  const info = await store.writer('one').writeGuest(guest);
  assert.equal(info.ramBytes, 5002 * PAGE);
  assert.equal(info.dataBytes, 1501 * PAGE);
  const read = await store.reader('one');
  assert.deepEqual(read.sections, guest.sections);
  assert.deepEqual(read.ram, guest.ram);
  assert.deepEqual(Buffer.from(read.descriptionText as Uint8Array), guest.descriptionText);
  assert.deepEqual(
    [...read.pages.extents(0)],
    [
      { at: 10 * PAGE, length: 1500 * PAGE },
      { at: 4999 * PAGE, length: PAGE },
    ],
  );
  assert.deepEqual([...read.pages.extents(1)], []);
  assert.equal(await memoryDigest(read), await memoryDigest(guest));
  assert.equal(await memoryDigest(read, PAGE), await memoryDigest(guest));
});

for (const file of readdirSync(FIXTURES).filter((name) => name.endsWith('.mig.gz'))) {
  if (/postcopy|offset/.test(file) || file.includes('.ch')) continue;
  test(`${file}: what is written and read is what the stream has`, async () => {
    const bytes = gunzipSync(readFileSync(new URL(file, FIXTURES)));
    const channels = readdirSync(FIXTURES)
      .filter((name) => name.startsWith(`${file.slice(0, -'.mig.gz'.length)}.ch`))
      .map((name) => gunzipSync(readFileSync(new URL(name, FIXTURES))));
    using scratch = openScratchStore();
    const options = { onFault: () => {} };
    const guest = await collectSavedGuest(chunks(bytes, 65_536), {
      ...options,
      channels: channels.map((channel) => chunks(channel, 65_536)),
      store: scratch.store,
    });
    const store = newStore();
    await store.writer('one').writeStream(chunks(bytes, 65_536), {
      ...options,
      channels: channels.map((channel) => chunks(channel, 65_536)),
    });
    const read = await store.reader('one');
    assert.equal(await memoryDigest(read), await memoryDigest(guest));
    assert.deepEqual(read.configuration, guest.configuration);
    assert.deepEqual(
      read.sections.map((section) => ({ ...section, body: Buffer.from(section.body) })),
      guest.sections.map((section) => ({ ...section, body: Buffer.from(section.body) })),
    );
  });
}

test('a child costs what changed, and is read without its parent', async () => {
  const store = newStore();
  const base = new MadeGuest(20_000).fill(0, 2000, 'a');
  const first = await store.writer('base').writeGuest(base);
  const changed = base.clone('another state').fill(1000, 200, 'changed');
  changed.memory.delete(1700);
  const child = await store.writer('child', { parent: 'base' }).writeGuest(changed);
  assert.equal(child.parent, 'base');
  assert.ok(first.ownBytes < 2000 * PAGE * 1.02, `${first.ownBytes}`);
  assert.ok(child.ownBytes < 200 * PAGE * 1.1, `${child.ownBytes}`);
  await store.remove('base');
  const read = await store.reader('child');
  assert.equal(await memoryDigest(read), await memoryDigest(changed));
});

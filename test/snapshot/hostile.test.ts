import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import { memoryStorage, type ObjectStorage } from '../../adapters/index.ts';
import { QemuFileError } from '../../lib/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { MadeGuest, memoryDigest, PAGE, pageOf } from '../helpers/guests/made-guest.ts';
import { collidingPages } from '../helpers/xxh64.ts';

const GUEST = new MadeGuest(200).fill(3, 60, 'guest');

async function filled(): Promise<{ storage: ObjectStorage; store: SnapshotStore }> {
  const storage = memoryStorage();
  const store = new SnapshotStore(storage);
  await store.writer('one').writeGuest(GUEST);
  return { storage, store };
}

function isCode(...codes: string[]): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof QemuFileError, String(error));
    assert.ok(codes.includes(error.code), error.message);
    return true;
  };
}

async function keyOf(storage: ObjectStorage, prefix: string): Promise<string> {
  for await (const { key } of storage.list(prefix)) return key;
  throw new Error(`no ${prefix}`);
}

function manifest(fields: object): Buffer {
  const text = JSON.stringify(fields);
  return Buffer.from(`${text}\n${createHash('sha256').update(text).digest('hex')}\n`);
}

/** A map by the format's description, with a digest of its own. */
function map(
  body: Buffer,
  { magic = 'QFILEMAP', version = 1, codec = 0, length = body.length } = {},
): {
  bytes: Buffer;
  digest: string;
} {
  const header = Buffer.alloc(9);
  header.writeUInt32BE(version, 0);
  header.writeUInt8(codec, 4);
  header.writeUInt32BE(length, 5);
  const bytes = Buffer.concat([Buffer.from(magic), header, body]);
  return { bytes, digest: createHash('sha256').update(bytes).digest('hex') };
}

/** The fields of a map's body before its packs: no sections, pages of 4 KiB, one block of four pages. */
const BODY_START = Buffer.concat([
  Buffer.of(0, 1),
  Buffer.alloc(12),
  Buffer.of(0, 0, 0, 0x80, 0x20, 1, 3),
  Buffer.from('ram'),
  Buffer.of(0x80, 0x80, 1, 0, 0),
]);

describe('a damaged object', () => {
  for (const prefix of ['packs/', 'maps/', 'snapshots/', 'qemu-file-store']) {
    test(`in ${prefix}, with any bit flipped, is found before it is used`, async () => {
      const { storage } = await filled();
      const key = await keyOf(storage, prefix);
      const whole = await storage.get(key, 1 << 24);
      const step = Math.max(1, Math.floor(whole.length / 40));
      for (let at = 0; at < whole.length; at += step) {
        const flipped = Buffer.from(whole);
        flipped[at] = (flipped[at] as number) ^ (1 << (at % 8));
        await storage.put(key, [flipped]);
        const fresh = new SnapshotStore(storage);
        const read = async (): Promise<string> => memoryDigest(await fresh.reader('one'));
        const isListOfPages = prefix === 'packs/' && at > whole.length - 60 * 32;
        if (isListOfPages) {
          // Only a child is compared with it.
          assert.equal(await read(), await memoryDigest(GUEST));
          await assert.rejects(
            fresh.writer('child', { parent: 'one' }).writeGuest(GUEST),
            isCode('EBADMSG'),
          );
        } else if (prefix !== 'qemu-file-store' || !(await isSameMark(flipped))) {
          await assert.rejects(read(), isCode('EBADMSG', 'ENOTSUP'), `byte ${at}`);
        }
        if (prefix === 'qemu-file-store') continue;
        const { damage } = await fresh.fsck({ deep: true });
        assert.deepEqual(
          damage.map(({ snapshots }) => snapshots),
          [['one']],
          `byte ${at}`,
        );
      }
      await storage.put(key, [whole]);
    });
  }

  test('that is missing, or cut, is named with the snapshot that it hurts', async () => {
    for (const prefix of ['packs/', 'maps/']) {
      for (const cut of [true, false]) {
        const { storage, store } = await filled();
        const key = await keyOf(storage, prefix);
        const whole = await storage.get(key, 1 << 24);
        if (cut) await storage.put(key, [whole.subarray(0, Math.floor(whole.length / 2))]);
        else await storage.remove(key);
        const { damage } = await store.fsck();
        assert.deepEqual(
          damage.map((each) => [each.key, each.snapshots]),
          [[key, ['one']]],
        );
        const fresh = new SnapshotStore(storage);
        await assert.rejects(
          (async () => memoryDigest(await fresh.reader('one')))(),
          isCode('EBADMSG'),
        );
      }
    }
  });

  test('that has a page is named with its place', async () => {
    const { storage, store } = await filled();
    const key = await keyOf(storage, 'packs/');
    await storage.remove(key);
    const { pages } = await store.reader('one');
    const block = pages.blocks.findIndex((_, at) => [...pages.extents(at)].length > 0);
    const { name } = pages.blocks[block] as { name: string };
    const [extent] = [...pages.extents(block)];
    assert.ok(extent);
    const place = `0x${extent.at.toString(16)} of the RAM block "${name}"`;
    await assert.rejects(
      async () => pages.read(block, extent.at, Buffer.alloc(pages.pageSize)),
      (error: Error) => {
        assert.ok(error.message.includes(`${key} is damaged: it is missing; the page at ${place}`));
        return true;
      },
    );
  });

  test('that no snapshot needs is named, and hurts none', async () => {
    const { storage, store } = await filled();
    await store.remove('one');
    const key = await keyOf(storage, 'packs/');
    await storage.put(key, [Buffer.from('too short')]);
    const { damage } = await store.fsck();
    assert.deepEqual(
      damage.map((each) => [each.key, each.snapshots]),
      [[key, []]],
    );
  });
});

async function isSameMark(bytes: Buffer): Promise<boolean> {
  await Promise.resolve();
  try {
    const { format, version } = JSON.parse(bytes.toString()) as Record<string, unknown>;
    return format === 'qemu-file-store' && version === 1;
  } catch {
    return false;
  }
}

describe('a hostile manifest', () => {
  const good = {
    format: 'qemu-file-snapshot',
    version: 1,
    name: 'bad',
    parent: null,
    machine: null,
    ramBytes: 1,
    dataBytes: 1,
    ownBytes: 1,
    sharedBytes: 0,
    savedAt: '2026-01-01T00:00:00Z',
    map: { sha256: 'a'.repeat(64), bytes: 100 },
  };
  for (const [what, fields, codes] of [
    ['that names itself as its parent', { parent: 'bad' }, ['EBADMSG']],
    ['with a path as its parent', { parent: '../../etc' }, ['EBADMSG']],
    ['of another snapshot', { name: 'other' }, ['EBADMSG']],
    ['of a later version', { version: 2 }, ['ENOTSUP']],
    ['with a path as its map', { map: { sha256: '../x', bytes: 1 } }, ['EBADMSG']],
    ['with a negative size', { ramBytes: -1 }, ['EBADMSG']],
    ['with a map that is not there', {}, ['EBADMSG']],
  ] as const) {
    test(`${what} is refused`, async () => {
      const { storage, store } = await filled();
      await storage.put('snapshots/bad', [manifest({ ...good, ...fields })]);
      await assert.rejects(store.reader('bad'), isCode(...codes));
      const { damage } = await store.fsck();
      assert.deepEqual(
        damage.map(({ snapshots }) => snapshots),
        [['bad']],
      );
    });
  }
});

describe('a hostile map', () => {
  const pack = (pages: number, frames: number): Buffer =>
    Buffer.concat([Buffer.alloc(32, 7), Buffer.of(100, pages, frames)]);
  for (const [what, made] of [
    ['of a later version', map(BODY_START, { version: 2 })],
    ['with an unknown codec', map(BODY_START, { codec: 9 })],
    ['that claims 4 GiB', map(BODY_START, { codec: 2, length: 0xffffffff })],
    ['that begins otherwise', map(BODY_START, { magic: 'QFILEMAX' })],
    ['that ends in its blocks', map(BODY_START.subarray(0, 20))],
    [
      'with a million packs in no bytes',
      map(Buffer.concat([BODY_START, Buffer.of(0x80, 0x80, 0x3f)])),
    ],
    [
      'with a pack of no pages',
      map(Buffer.concat([BODY_START, Buffer.of(1), pack(0, 0), Buffer.of(0)])),
    ],
    [
      'with a run beyond its packs',
      map(Buffer.concat([BODY_START, Buffer.of(1), pack(2, 1), Buffer.of(1, 0, 3, 0)])),
    ],
    [
      'with a run beyond its blocks',
      map(Buffer.concat([BODY_START, Buffer.of(1), pack(9, 1), Buffer.of(1, 0, 9, 0)])),
    ],
    [
      'with a run before the first page',
      map(Buffer.concat([BODY_START, Buffer.of(1), pack(2, 1), Buffer.of(1, 0, 1, 1)])),
    ],
    ['with an endless integer', map(Buffer.concat([BODY_START, Buffer.alloc(12, 0xff)]))],
    ['with bytes after its end', map(Buffer.concat([BODY_START, Buffer.of(0, 0, 1)]))],
  ] as const) {
    test(`${what} is refused`, async () => {
      const { storage, store } = await filled();
      await storage.put(`maps/${made.digest}`, [made.bytes]);
      const fields = { name: 'bad', parent: null, machine: null, ramBytes: 1, dataBytes: 1 };
      const sizes = { ownBytes: 1, sharedBytes: 0, savedAt: '2026-01-01T00:00:00Z' };
      const named = { map: { sha256: made.digest, bytes: made.bytes.length } };
      await storage.put('snapshots/bad', [
        manifest({ format: 'qemu-file-snapshot', version: 1, ...fields, ...sizes, ...named }),
      ]);
      await assert.rejects(store.reader('bad'), isCode('EBADMSG'));
    });
  }

  test('with no packs and no runs is a guest of zeros, by the description of the format', async () => {
    const { storage, store } = await filled();
    const made = map(Buffer.concat([BODY_START, Buffer.of(0, 0)]));
    await storage.put(`maps/${made.digest}`, [made.bytes]);
    const fields = { name: 'ok', parent: null, machine: null, ramBytes: 1, dataBytes: 1 };
    const sizes = { ownBytes: 1, sharedBytes: 0, savedAt: '2026-01-01T00:00:00Z' };
    const named = { map: { sha256: made.digest, bytes: made.bytes.length } };
    await storage.put('snapshots/ok', [
      manifest({ format: 'qemu-file-snapshot', version: 1, ...fields, ...sizes, ...named }),
    ]);
    const { pages } = await store.reader('ok');
    assert.deepEqual(
      pages.blocks.map(({ name, usedLength }) => [name, usedLength]),
      [['ram', 4 * PAGE]],
    );
    assert.deepEqual([...pages.extents(0)], []);
  });
});

test('a place that is not a store is neither read nor written', async () => {
  const storage = memoryStorage();
  await storage.put('photos/cat', [Buffer.from('meow')]);
  const store = new SnapshotStore(storage);
  await assert.rejects(store.reader('one'), isCode('ENOENT'));
  await assert.rejects(store.list(), isCode('ENOENT'));
  await assert.rejects(store.writer('one').writeGuest(GUEST), isCode('EINVAL'));
  await storage.put('qemu-file-store', [Buffer.from('{"format":"qemu-file-store","version":2}')]);
  await assert.rejects(store.writer('one').writeGuest(GUEST), isCode('ENOTSUP'));
});

test('an invalid name is refused', async () => {
  const { store } = await filled();
  for (const name of ['', 'a/b', 'a\0b', '.hidden', '-x', 'ä', 'x'.repeat(129), '..']) {
    assert.throws(() => store.writer(name), isCode('EINVAL'), name);
    await assert.rejects(store.reader(name), isCode('EINVAL'), name);
    await assert.rejects(store.remove(name), isCode('EINVAL'), name);
  }
});

test('pages with the same XXH64 and different bytes stay different', async () => {
  const [a, b] = collidingPages(PAGE);
  assert.notDeepEqual(a, b);
  const store = new SnapshotStore(memoryStorage());
  const parent = new MadeGuest(10);
  parent.memory.set(1, a);
  await store.writer('parent').writeGuest(parent);
  const child = new MadeGuest(10);
  child.memory.set(1, b);
  child.memory.set(2, a);
  child.memory.set(3, pageOf('other'));
  child.memory.set(4, b);
  await store.writer('child', { parent: 'parent' }).writeGuest(child);
  assert.equal(await memoryDigest(await store.reader('child')), await memoryDigest(child));
  assert.equal(await memoryDigest(await store.reader('parent')), await memoryDigest(parent));
});

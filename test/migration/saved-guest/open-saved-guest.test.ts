import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { appendFileSync, truncateSync, writeFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { after, test } from 'node:test';
import { openFrom } from '../../../adapters/index.ts';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { unwrap } from '../../../lib/migration/containers/unwrap.ts';
import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';
import { collectSavedGuest } from '../../../lib/migration/saved-guest/collect-saved-guest.ts';
import { openSavedGuest } from '../../../lib/migration/saved-guest/open-saved-guest.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { type Recording, recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { libvirtImage } from '../../helpers/streams/libvirt-image.ts';
import {
  be64,
  blockList,
  configuration,
  end,
  eos,
  FLAG,
  header,
  page,
  piece,
  section,
  stream,
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';

const PAGE = 4096;
const folder = makeTempDir();
after(() => folder.remove());

async function open(bytes: Uint8Array, name = 'stream', offset = 0): Promise<SavedGuest> {
  const path = folder.join(name);
  writeFileSync(path, bytes);
  const file = await openFrom({ scheme: 'file', path, offset });
  return openSavedGuest(await unwrap(file));
}

async function contents({ pages }: SavedGuest, block: number): Promise<Buffer> {
  const bytes = Buffer.alloc(pages.blocks[block]?.usedLength ?? 0, 0xee);
  await pages.read(block, 0, bytes);
  return bytes;
}

async function checkRecorded(guest: SavedGuest, { facts }: Recording): Promise<void> {
  for (const { name, used, sha256 } of facts.ram) {
    const index = guest.pages.blocks.findIndex((block) => block.name === name);
    const bytes = await contents(guest, index);
    assert.equal(bytes.length, used);
    assert.equal(createHash('sha256').update(bytes).digest('hex'), sha256, name);
    let at = 0;
    for (const extent of guest.pages.extents(index)) {
      assert.ok(extent.at >= at && extent.length > 0);
      assert.ok(bytes.subarray(at, extent.at).every((byte) => byte === 0));
      at = extent.at + extent.length;
    }
    assert.ok(bytes.subarray(at).every((byte) => byte === 0));
  }
}

function mainOf(name: string): { made: Recording; bytes: Buffer; offset: number } {
  const made = recording(name);
  const main = made.files.find(({ kind }) => kind === 'main' || kind === 'image');
  assert.ok(main);
  return { made, bytes: unpack(main), offset: main.streamAt ?? 0 };
}

for (const name of [
  'pc',
  'q10-pc',
  'microvm',
  'no-footers',
  'return-path',
  'postcopy',
  'q10-mapped-ram',
  'q10-mapped-ram-offset',
  'savevm',
]) {
  test(`the memory of a recorded stream is QEMU's, read at any place: ${name}`, async () => {
    const { made, bytes, offset } = mainOf(name);
    const guest = await open(bytes, name, offset);
    await checkRecorded(guest, made);
    await guest.close();
  });
}

test('the memory of a stream in a save image of libvirt is read: raw', async () => {
  const { made, bytes } = mainOf('pc');
  const guest = await open(libvirtImage(bytes, { streamAt: 4096 }), 'raw');
  await checkRecorded(guest, made);
  await guest.close();
});

test('the memory of a stream in a save image of libvirt is read: sparse', async () => {
  const { made, bytes, offset } = mainOf('q10-mapped-ram-offset');
  const guest = await open(
    libvirtImage(bytes.subarray(offset), { format: 6, streamAt: offset }),
    'sparse',
  );
  await checkRecorded(guest, made);
  await guest.close();
});

for (const name of ['pc', 'xbzrle', 'compress', 'q10-mapped-ram']) {
  test(`the memory of a stream that passes is collected: ${name}`, async () => {
    const { made, bytes } = mainOf(name);
    const chunks: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += 70_001) chunks.push(bytes.subarray(at, at + 70_001));
    const store = (): MemoryPageStore => new MemoryPageStore();
    const guest = await collectSavedGuest(Readable.from(chunks), { store });
    await checkRecorded(guest, made);
    await guest.close();
  });
}

function frameOf(guest: SavedGuest): Partial<SavedGuest> {
  return { ...guest, pages: undefined, close: undefined } as unknown as Partial<SavedGuest>;
}

test('the sections of a guest are the same from a file and from a stream that passes', async () => {
  const { bytes } = mainOf('pc');
  const guest = await open(bytes);
  const store = (): MemoryPageStore => new MemoryPageStore();
  const passed = await collectSavedGuest(Readable.from([bytes]), { store });
  assert.deepEqual(frameOf(passed), frameOf(guest));
  await guest.close();
});

const machine = configuration('pc-i440fx-7.2');
const device = section('full', 5, ['dev', 0, 1], '12345678');
const data = (fill: number): Buffer => Buffer.alloc(PAGE, fill);

function guestBytes(...records: Buffer[]): Buffer {
  return stream(
    header,
    machine,
    section('start', 2, ['ram', 0, 4], blockList(['a', 8 * PAGE], ['b', 2 * PAGE]), eos),
    piece('part', 2, ...records, eos),
    piece('end', 2, eos),
    device,
    end,
  );
}

test('everything beside RAM is kept as it was sent', async () => {
  const guest = await open(guestBytes(page('a', 0, data(1))));
  assert.deepEqual(guest.configuration?.machine, 'pc-i440fx-7.2');
  assert.deepEqual(Buffer.from(guest.configurationBytes ?? []), machine);
  assert.equal(guest.hasFooters, true);
  assert.deepEqual(guest.ram, { sectionId: 2, instanceId: 0, versionId: 4 });
  assert.equal(guest.descriptionText, null);
  assert.deepEqual(
    guest.sections.map(({ kind, name, body }) => [kind, name, Buffer.from(body).toString('hex')]),
    [['full', 'dev', '12345678']],
  );
  await guest.close();
});

test('the last copy of a page is read, and a page that became zeros is zeros', async () => {
  const guest = await open(
    guestBytes(
      page('a', 0, data(1)),
      page(null, PAGE, data(2)),
      page(null, 2 * PAGE, data(3)),
      page(null, 3 * PAGE, data(4)),
      page('b', PAGE, data(5)),
      page('a', PAGE, data(6)),
      zeroPage(null, 2 * PAGE),
      zeroPage(null, 7 * PAGE),
      page(null, 6 * PAGE, data(7)),
      page(null, 5 * PAGE, data(8)),
    ),
  );
  const a = Buffer.concat([1, 6, 0, 4, 0, 8, 7, 0].map(data));
  assert.deepEqual(await contents(guest, 0), a);
  assert.deepEqual(await contents(guest, 1), Buffer.concat([data(0), data(5)]));
  assert.deepEqual(
    [...guest.pages.extents(0)],
    [
      { at: 0, length: 2 * PAGE },
      { at: 3 * PAGE, length: PAGE },
      { at: 5 * PAGE, length: 2 * PAGE },
    ],
  );
  const part = Buffer.alloc(3 * PAGE);
  await guest.pages.read(0, 4 * PAGE, part);
  assert.deepEqual(part, a.subarray(4 * PAGE, 7 * PAGE));
  await guest.close();
});

test('a page whose record was changed in the file is an error that names block and page', async () => {
  const bytes = guestBytes(page('a', 0, data(1)), page(null, PAGE, data(2)));
  const guest = await open(bytes, 'changed');
  const at = bytes.indexOf(be64(PAGE + FLAG.page + FLAG.continue));
  be64(2 * PAGE + FLAG.page + FLAG.continue).copy(bytes, at);
  writeFileSync(folder.join('changed'), bytes);
  await assert.rejects(contents(guest, 0), (error: unknown) => {
    assert.ok(error instanceof QemuFileError);
    assert.equal(error.code, 'EBADMSG');
    assert.match(error.reason, /page at 0x1000 of "a"/);
    return true;
  });
  assert.throws(() => guest.pages.checkUnchanged?.(), { code: 'EIO' });
  await guest.close();
});

test('a page is read without waiting, and not after a read that took the time of a device', async (t) => {
  // Page 1 was sent so often that pages 0 and 2 are in different extents.
  const copies = Array.from({ length: 70 }, () => page(null, PAGE, data(9)));
  const bytes = guestBytes(page('a', 0, data(1)), ...copies, page(null, 2 * PAGE, data(3)));
  const target = Buffer.alloc(PAGE);
  const quick = await open(bytes, 'quick');
  assert.equal(quick.pages.readNow?.(0, 0, target), true);
  assert.deepEqual(target, Buffer.from(data(1)));
  assert.equal(quick.pages.readNow?.(0, 2 * PAGE, target), true);
  assert.deepEqual(target, Buffer.from(data(3)));
  // A page of zeros has no place.
  assert.equal(quick.pages.readNow?.(0, 5 * PAGE, target), false);
  await quick.close();
  const slow = await open(bytes, 'slow');
  let nowMs = performance.now();
  t.mock.method(performance, 'now', () => {
    nowMs += 5;
    return nowMs;
  });
  assert.equal(slow.pages.readNow?.(0, 0, target), true);
  assert.equal(slow.pages.readNow?.(0, 2 * PAGE, target), false);
  assert.equal(slow.pages.readNow?.(0, 0, target), true);
  nowMs += 100;
  assert.equal(slow.pages.readNow?.(0, 2 * PAGE, target), true);
  await slow.close();
});

test('a file that was truncated while it was open is an error that names block and page', async () => {
  const guest = await open(guestBytes(page('a', 0, data(1)), page(null, PAGE, data(2))), 'cut');
  truncateSync(folder.join('cut'), 3000);
  await assert.rejects(contents(guest, 0), (error: unknown) => {
    assert.ok(error instanceof QemuFileError);
    assert.equal(error.code, 'EIO');
    assert.match(error.reason, /pages from 0x0 of "a" cannot be read: .* ends .* too early/);
    return true;
  });
  await guest.close();
});

test('a file that grew while it was open has changed', async () => {
  const guest = await open(guestBytes(page('a', 0, data(1))), 'grown');
  await guest.pages.checkUnchanged?.();
  appendFileSync(folder.join('grown'), 'x');
  assert.throws(() => guest.pages.checkUnchanged?.(), { code: 'EIO' });
  await guest.close();
});

for (const [name, why] of [
  ['xbzrle', /XBZRLE pages.*qemu-file compact/],
  ['compress', /not sent as they are.*qemu-file compact/],
  ['multifd-none', /multifd channels.*qemu-file compact/],
  ['q10-multifd-zstd', /multifd channels.*qemu-file compact/],
] as const) {
  test(`a stream without random access is refused with the command that converts it: ${name}`, async () => {
    const { bytes } = mainOf(name);
    await assert.rejects(open(bytes, name), (error: unknown) => {
      assert.ok(error instanceof QemuFileError);
      assert.equal(error.code, 'ENOTSUP');
      assert.match(error.reason, why);
      return true;
    });
  });
}

test('a compressed stream is refused with the command that converts it', async () => {
  const made = recording('pc');
  const path = folder.join('pc.mig.gz');
  const { gzipSync } = await import('node:zlib');
  writeFileSync(path, gzipSync(unpack(made.files[0] as { file: string })));
  const file = await openFrom({ scheme: 'file', path, offset: 0 });
  await assert.rejects(openSavedGuest(await unwrap(file)), (error: unknown) => {
    assert.ok(error instanceof QemuFileError);
    assert.equal(error.code, 'ENOTSUP');
    assert.match(error.reason, /in gzip.*qemu-file compact/);
    return true;
  });
});

test('a truncated stream is refused', async () => {
  const bytes = guestBytes(page('a', 0, data(1)));
  await assert.rejects(open(bytes.subarray(0, -20)), { code: 'ENODATA' });
});

test('a stream without RAM is refused', async () => {
  await assert.rejects(open(stream(header, machine, device, end)), { code: 'ENOTSUP' });
});

test('an aborted pass rejects', async () => {
  const path = folder.join('aborted');
  writeFileSync(path, guestBytes());
  const file = await openFrom({ scheme: 'file', path, offset: 0 });
  const signal = AbortSignal.abort();
  await assert.rejects(openSavedGuest(await unwrap(file), { signal }), { code: 'ECANCELED' });
});

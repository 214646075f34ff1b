import assert from 'node:assert/strict';
import { test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { temporarySparseFile } from '../../../lib/extract/sparse-file.ts';
import type { RamBlock } from '../../../lib/migration/format/events.ts';
import {
  MemoryPageStore,
  type PageStore,
  SpillingStore,
  shareStore,
} from '../../../lib/migration/memory/page-store.ts';
import { RamImage } from '../../../lib/migration/memory/ram-image.ts';
import { Digest, loadDigest } from '../../../lib/util/digest.ts';
import { TrackedStore } from '../../helpers/guests/page-stores.ts';

const PAGE = 4096;

function block(index: number, name: string, usedLength: number): RamBlock {
  const pages = { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 };
  return { index, name, usedLength, hostPageSize: null, address: null, pages };
}

function memoryImage(...blocks: RamBlock[]): RamImage {
  const image = new RamImage({ store: () => new MemoryPageStore() });
  image.blocks(blocks, PAGE);
  return image;
}

function contents(image: RamImage, of: RamBlock): Buffer {
  const target = Buffer.alloc(of.usedLength, 0xee);
  image.read(of, 0, target);
  return target;
}

function fails(code: string) {
  return (error: unknown) => error instanceof QemuFileError && error.code === code;
}

test('the last of several copies of a page is kept, and pages not sent are zeros', () => {
  const ram = block(0, 'pc.ram', 6 * PAGE);
  const image = memoryImage(ram);
  image.page(ram, PAGE, Buffer.alloc(2 * PAGE, 1));
  image.page(ram, 2 * PAGE, Buffer.alloc(PAGE, 2));
  image.page(ram, 5 * PAGE, Buffer.alloc(PAGE, 3));
  image.zero(ram, 5 * PAGE, 1);
  image.zero(ram, 3 * PAGE, 1);
  image.page(ram, 3 * PAGE, Buffer.alloc(PAGE, 4));
  const wanted = Buffer.alloc(6 * PAGE);
  wanted
    .fill(1, PAGE)
    .fill(2, 2 * PAGE)
    .fill(4, 3 * PAGE)
    .fill(0, 4 * PAGE);
  assert.deepEqual(contents(image, ram), wanted);
  assert.deepEqual([...image.extents(ram)], [{ at: PAGE, length: 3 * PAGE }]);
});

test('an XBZRLE delta is applied to a page, to zeros, or to a page not sent yet', () => {
  const ram = block(0, 'pc.ram', 4 * PAGE);
  const image = memoryImage(ram);
  image.page(ram, 0, Buffer.alloc(PAGE, 0x11));
  image.xbzrle(ram, 0, Buffer.from('6404aabbccdd', 'hex'));
  image.page(ram, PAGE, Buffer.alloc(PAGE, 0x22));
  image.zero(ram, PAGE, 1);
  image.xbzrle(ram, PAGE, Buffer.from('ff1f0177', 'hex'));
  image.xbzrle(ram, 2 * PAGE, Buffer.from('0001aa', 'hex'));
  const wanted = Buffer.alloc(4 * PAGE).fill(0x11, 0, PAGE);
  wanted.set([0xaa, 0xbb, 0xcc, 0xdd], 100);
  wanted[2 * PAGE - 1] = 0x77;
  wanted[2 * PAGE] = 0xaa;
  assert.deepEqual(contents(image, ram), wanted);
  assert.deepEqual([...image.extents(ram)], [{ at: 0, length: 3 * PAGE }]);
});

test('an invalid XBZRLE delta leaves the page unchanged', () => {
  const ram = block(0, 'pc.ram', PAGE);
  const image = memoryImage(ram);
  image.page(ram, 0, Buffer.alloc(PAGE, 0x11));
  for (const encoded of ['', '00', '000166ff', 'ff1f0201', 'ffff01aa']) {
    assert.throws(
      () => image.xbzrle(ram, 0, Buffer.from(encoded, 'hex')),
      fails('EBADMSG'),
      encoded,
    );
  }
  assert.deepEqual(contents(image, ram), Buffer.alloc(PAGE, 0x11));
});

test('blocks are separate, and those without a store are not kept', async () => {
  const blocks = [block(0, 'pc.ram', 2 * PAGE), block(1, 'vga', PAGE), block(2, '__proto__', PAGE)];
  const [ram, vga, other] = blocks as [RamBlock, RamBlock, RamBlock];
  const image = new RamImage({
    store: ({ name }) => (name === 'vga' ? null : new MemoryPageStore()),
  });
  image.blocks(blocks, PAGE);
  for (const each of blocks) {
    image.page(each, 0, Buffer.alloc(PAGE, each.index + 1));
    image.xbzrle(each, 0, Buffer.from('0001aa', 'hex'));
  }
  image.zero(vga, 0, 1);
  assert.equal(image.storeOf(vga), null);
  assert.deepEqual(contents(image, ram).subarray(0, 2), Buffer.from([0xaa, 1]));
  assert.deepEqual(contents(image, other).subarray(0, 2), Buffer.from([0xaa, 3]));
  assert.deepEqual([...image.extents(other)], [{ at: 0, length: PAGE }]);
  assert.throws(() => image.read(vga, 0, Buffer.alloc(1)), fails('EINVAL'));
  assert.throws(() => [...image.extents(vga)], fails('EINVAL'));
  await assert.rejects(image.digest(vga), fails('EINVAL'));
});

test('reading outside a block fails', () => {
  const ram = block(0, 'pc.ram', PAGE);
  const image = memoryImage(ram);
  for (const at of [-1, PAGE - 1, Number.NaN]) {
    assert.throws(() => image.read(ram, at, Buffer.alloc(2)), fails('EINVAL'));
  }
});

test('zero pages reach a store only where pages were written', () => {
  const store = new TrackedStore();
  const ram = block(0, 'pc.ram', 2 ** 50);
  const image = new RamImage({ store: () => store });
  image.blocks([ram], PAGE);
  image.page(ram, 5 * PAGE, Buffer.alloc(3 * PAGE, 1));
  image.page(ram, 2 ** 49, Buffer.alloc(PAGE, 1));
  for (let page = 0; page < 5; page++) image.zero(ram, page * PAGE, 1);
  assert.deepEqual(store.zeroed, []);
  image.zero(ram, 0, 2 ** 38);
  image.zero(ram, 0, 2 ** 38);
  assert.deepEqual(store.zeroed, [
    [5 * PAGE, 3 * PAGE],
    [2 ** 49, PAGE],
  ]);
  assert.deepEqual([...image.extents(ram)], []);
});

test('the digest covers all bytes of the block in every kind of store', async () => {
  await loadDigest();
  const length = 1_000 * PAGE;
  const wanted = Buffer.alloc(length);
  const pages = [0, 1, 2, 70, 300, 301, 999];
  for (const page of pages) wanted.fill(page + 1, page * PAGE, (page + 1) * PAGE);
  const expected = new Digest();
  expected.update(wanted);
  const spilled = new SpillingStore(() => temporarySparseFile(), 65_536);
  for (const store of [new MemoryPageStore(), temporarySparseFile(), spilled]) {
    const ram = block(0, 'pc.ram', length);
    const image = new RamImage({ store: () => store });
    image.blocks([ram], PAGE);
    for (const page of pages) {
      image.page(ram, page * PAGE, wanted.subarray(page * PAGE, (page + 1) * PAGE));
    }
    assert.equal(await image.digest(ram), expected.hex());
    image.close();
  }
});

test('the digest of a block without pages is that of zeros', async () => {
  const ram = block(0, 'pc.ram', PAGE);
  const none = block(1, 'none', 0);
  const image = memoryImage(ram, none);
  const zeros = new Digest();
  zeros.update(Buffer.alloc(PAGE));
  assert.equal(await image.digest(ram), zeros.hex());
  assert.equal(await image.digest(none), 'ef46db3751d8e999');
});

test('a long digest can be aborted', async () => {
  const ram = block(0, 'pc.ram', 2 ** 50);
  const image = memoryImage(ram);
  const controller = new AbortController();
  const digest = image.digest(ram, { signal: controller.signal });
  setImmediate(() => controller.abort());
  await assert.rejects(digest, fails('ECANCELED'));
});

test('scattered pages of huge blocks in a shared store take little memory', () => {
  const stores: PageStore[] = [];
  const shared = new MemoryPageStore();
  const next = shareStore(shared);
  const image = new RamImage({
    store: (each) => {
      const store = next(each);
      stores.push(store);
      return store;
    },
  });
  const blocks = Array.from({ length: 1024 }, (_, index) => block(index, `b${index}`, 2 ** 40));
  image.blocks(blocks, PAGE);
  for (const each of blocks) image.page(each, 2 ** 40 - PAGE, Buffer.alloc(PAGE, each.index));
  assert.ok(shared.allocated <= 1024 * 16_384);
  for (const each of [0, 1, 1023]) {
    const of = blocks[each] as RamBlock;
    assert.deepEqual([...image.extents(of)], [{ at: 2 ** 40 - PAGE, length: PAGE }]);
    const target = Buffer.alloc(1);
    image.read(of, 2 ** 40 - 1, target);
    assert.equal(target[0], each & 0xff);
  }
});

test('page sizes of 1 KiB and 64 KiB work', () => {
  for (const size of [1024, 65_536]) {
    const ram = block(0, 'ram', 5 * size);
    const image = new RamImage({ store: () => new MemoryPageStore() });
    image.blocks([ram], size);
    image.page(ram, size, Buffer.alloc(size, 1));
    image.page(ram, 4 * size, Buffer.alloc(size, 2));
    image.zero(ram, 0, 2);
    image.xbzrle(ram, 2 * size, Buffer.from('000155', 'hex'));
    const wanted = Buffer.alloc(5 * size).fill(2, 4 * size);
    wanted[2 * size] = 0x55;
    assert.deepEqual(contents(image, ram), wanted);
  }
});

test('closing closes the stores, once', () => {
  const store = new TrackedStore();
  const ram = block(0, 'pc.ram', PAGE);
  const image = new RamImage({ store: () => store });
  image.blocks([ram], PAGE);
  image.close();
  image.close();
  assert.equal(store.isClosed, true);
  assert.equal(image.storeOf(ram), null);
  image.page(ram, 0, Buffer.alloc(PAGE, 1));
});

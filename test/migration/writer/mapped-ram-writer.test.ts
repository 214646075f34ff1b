// The layout of a mapped-ram file, byte by byte (expected bytes are laid out by hand).
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { openTo } from '../../../adapters/index.ts';
import { MappedRamWriter } from '../../../lib/migration/writer/mapped-ram-writer.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { be32, be64, counted, stream } from '../../helpers/streams/stream-bytes.ts';

const PAGE = 4096;
const MIB = 1 << 20;
const block = (name: string, pages: number) => ({
  name,
  usedLength: pages * PAGE,
  hostPageSize: null,
  address: null,
});

/** Return an entry of the list, with the places of its bitmap and its pages. */
function entry(name: string, pages: number, bitmapAt: number, pagesAt: number): Buffer {
  const places = stream(be32(1), be64(PAGE), be64(bitmapAt), be64(pagesAt));
  return stream(counted(name), be64(pages * PAGE), places);
}

describe('a mapped-ram file', () => {
  for (const start of [0, 0x3000]) {
    test(`has each page at its place, at offset ${start} of its file`, async () => {
      await using dir = makeTempDir();
      const path = dir.join('file');
      const file = await openTo({ scheme: 'file', path, offset: start });
      file.putBuffer(Buffer.from('before'));
      const writer = new MappedRamWriter(file, PAGE);
      await writer.listBlocks([block('a', 70), block('b', 1)]);
      file.putBuffer(Buffer.from('after'));
      const pages = Buffer.alloc(3 * PAGE, 'first');
      writer.page(0, 0, pages);
      writer.page(0, 67 * PAGE, pages);
      // Sent again: the last content wins.
      pages.fill('again');
      writer.page(0, PAGE, pages.subarray(0, PAGE));
      writer.zero(0, 2 * PAGE, 1);
      writer.zero(0, 68 * PAGE, 2);
      writer.page(1, 0, pages.subarray(0, PAGE));
      await writer.ready();
      await writer.finish();
      assert.equal(file.tellFast(), 2 * MIB + PAGE + 5 - start);
      await file.close();

      const first = Buffer.alloc(3 * PAGE, 'first').subarray(0, PAGE);
      const bytes = fs.readFileSync(path);
      const at = (offset: number, length: number): Buffer =>
        bytes.subarray(offset, offset + length);
      const [bitmapA, endA] = [start + 6 + 8 + 10 + 28, MIB + 70 * PAGE];
      const bitmapB = endA + 10 + 28;
      assert.ok(at(start, 6).equals(Buffer.from('before')));
      assert.ok(at(start + 6, 8).equals(be64(71 * PAGE + 4)));
      assert.ok(at(start + 14, 38).equals(entry('a', 70, bitmapA, MIB)));
      // Pages 0, 1 and 67 of 70: page i is bit i mod 8 of byte i / 8.
      assert.ok(at(bitmapA, 16).equals(stream('0300000000000000 0800000000000000')));
      assert.ok(at(MIB, PAGE).equals(first));
      assert.ok(at(MIB + PAGE, PAGE).equals(pages.subarray(0, PAGE)));
      assert.ok(at(MIB + 67 * PAGE, PAGE).equals(first));
      assert.ok(at(endA, 38).equals(entry('b', 1, bitmapB, 2 * MIB)));
      assert.ok(at(bitmapB, 8).equals(stream('0100000000000000')));
      assert.ok(at(2 * MIB, PAGE).equals(pages.subarray(0, PAGE)));
      assert.ok(at(2 * MIB + PAGE, 100).equals(Buffer.from('after')));
      const { size, blocks } = fs.statSync(path);
      assert.equal(size, 2 * MIB + PAGE + 5);
      assert.ok(blocks * 512 < MIB, 'the rest are holes');
    });
  }

  test('takes more pages than are gathered', async () => {
    await using dir = makeTempDir();
    const path = dir.join('file');
    const file = await openTo({ scheme: 'file', path, offset: 0 });
    const writer = new MappedRamWriter(file, PAGE);
    await writer.listBlocks([block('a', 3000)]);
    const page = Buffer.alloc(PAGE);
    for (let index = 2999; index >= 0; index--) {
      page.writeUInt32BE(index + 1);
      writer.page(0, index * PAGE, page);
      await writer.ready();
    }
    await writer.finish();
    await file.close();
    const bytes = fs.readFileSync(path);
    for (let index = 0; index < 3000; index++) {
      assert.equal(bytes.readUInt32BE(MIB + index * PAGE), index + 1);
    }
  });

  test('refuses pages outside their block, and blocks that are not whole pages', async () => {
    await using dir = makeTempDir();
    const file = await openTo({ scheme: 'file', path: dir.join('file'), offset: 0 });
    const writer = new MappedRamWriter(file, PAGE);
    await writer.listBlocks([block('a', 2)]);
    const page = Buffer.alloc(PAGE);
    for (const write of [
      () => writer.page(0, 2 * PAGE, page),
      () => writer.page(0, 100, page),
      () => writer.page(1, 0, page),
      () => writer.page(0, 0, page.subarray(1)),
      () => writer.zero(0, PAGE, 2),
    ]) {
      assert.throws(write, { code: 'EINVAL', message: /not whole pages inside RAM block/ });
    }
    const small = { ...block('b', 1), usedLength: 1024 };
    await assert.rejects(writer.listBlocks([small]), { code: 'ENOTSUP' });
    file.destroy();
  });

  test('cannot be written where nothing can seek', async () => {
    const writer = new MappedRamWriter(
      new QemuFile({ writevBuffer: ([bytes]) => bytes?.length ?? 0 }),
      PAGE,
    );
    await assert.rejects(writer.listBlocks([block('a', 1)]), { code: 'ESPIPE' });
  });
});

// A guest is written while its stream is read, as far as its pages come in the order in which they are written.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { openFrom, openTo } from '../../../adapters/index.ts';
import { unwrap } from '../../../lib/migration/containers/unwrap.ts';
import type { StreamLayout } from '../../../lib/migration/guest-writer/guest-writer.ts';
import { OrderedCopy } from '../../../lib/migration/rewrite/ordered-copy.ts';
import { openSavedGuestWith } from '../../../lib/migration/saved-guest/open-saved-guest.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { readStream } from '../../helpers/reading/read-stream.ts';
import {
  type Bytes,
  blockList,
  configuration,
  end,
  eos,
  header,
  page,
  piece,
  section,
  stream,
  vmDescription,
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';

const PAGE = 4096;
const A: Buffer = Buffer.alloc(PAGE, 0xaa);
const B: Buffer = Buffer.alloc(PAGE, 0xbb);
const ZEROS: Buffer = Buffer.alloc(PAGE);

/** Return a stream of two blocks, of three pages and of two, with these records. */
function guestOf(...records: readonly Bytes[]): Buffer {
  return guestWith('pc.ram', records);
}

/** The same with another name of the first block. */
function guestWith(name: string, records: readonly Bytes[]): Buffer {
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList([name, 3 * PAGE], ['vga', 2 * PAGE]), eos),
    piece('part', 2, ...records, eos),
    piece('end', 2, eos),
    end,
    vmDescription({ page_size: PAGE, devices: [] }),
  );
}

/** Copy a stream; return the file that was written, and whether that is the whole guest. */
async function copied(
  bytes: Buffer,
  layout: StreamLayout,
  names?: ReadonlyMap<string, string>,
): Promise<[Buffer, boolean]> {
  await using dir = makeTempDir();
  const [fromPath, path] = [dir.join('from'), dir.join('to')];
  fs.writeFileSync(fromPath, bytes);
  const to = await openTo({ scheme: 'file', path, offset: 0 });
  const copy = new OrderedCopy(to, layout, undefined, names);
  const from = await openFrom({ scheme: 'file', path: fromPath, offset: 0 });
  const guest = await openSavedGuestWith(await unwrap(from), {}, copy);
  const isWhole = await copy.finish(guest);
  await guest.close();
  await to.close();
  return [fs.readFileSync(path), isWhole];
}

describe('a guest that is written while its stream is read', () => {
  test('has its pages as they came, and pages that never came as zeros', async () => {
    const from = guestOf(page('pc.ram', PAGE, A), page('vga', PAGE, B));
    const [file, isWhole] = await copied(from, 'sequential');
    assert.ok(isWhole);
    const records = [
      zeroPage('pc.ram', 0),
      page(null, PAGE, A),
      zeroPage(null, 2 * PAGE),
      zeroPage('vga', 0),
      page(null, PAGE, B),
    ];
    assert.deepEqual(file, guestOf(...records));
  });

  test('has new names of blocks, which must fit the stream', async () => {
    const from = guestOf(page('pc.ram', 0, A), zeroPage(null, PAGE), zeroPage(null, 2 * PAGE));
    const [file, isWhole] = await copied(from, 'sequential', new Map([['pc.ram', 'mem']]));
    assert.ok(isWhole);
    const records = [
      page('mem', 0, A),
      zeroPage(null, PAGE),
      zeroPage(null, 2 * PAGE),
      zeroPage('vga', 0),
      zeroPage(null, PAGE),
    ];
    assert.deepEqual(file, guestWith('mem', records));
    for (const names of [new Map([['other', 'mem']]), new Map([['pc.ram', 'vga']])]) {
      const refused = copied(from, 'sequential', names);
      await assert.rejects(refused, { code: 'EINVAL', operation: 'renameBlocks' });
    }
  });

  test('has pages of zeros as such, also where they were sent as pages', async () => {
    const from = guestOf(page('pc.ram', 0, ZEROS), page(null, PAGE, A), zeroPage('vga', 0));
    const [file, isWhole] = await copied(from, 'sequential');
    assert.ok(isWhole);
    const records = [
      zeroPage('pc.ram', 0),
      page(null, PAGE, A),
      zeroPage(null, 2 * PAGE),
      zeroPage('vga', 0),
      zeroPage(null, PAGE),
    ];
    assert.deepEqual(file, guestOf(...records));
  });

  for (const [what, records] of [
    ['a page that comes twice', [page('pc.ram', 0, A), page(null, 0, B)]],
    ['a page before the last one', [page('pc.ram', PAGE, A), page(null, 0, B)]],
    ['a block before the last one', [page('vga', 0, A), page('pc.ram', 0, B)]],
    ['a page that becomes zeros', [page('pc.ram', 0, A), zeroPage(null, 0)]],
  ] as const) {
    test(`is not written as a sequence with ${what}`, async () => {
      const [, isWhole] = await copied(guestOf(...records), 'sequential');
      assert.equal(isWhole, false);
    });

    test(`has the last contents in a mapped-ram file with ${what}`, async () => {
      const from = guestOf(...records);
      const [file, isWhole] = await copied(from, 'mapped-ram');
      assert.ok(isWhole);
      const { ram } = await readStream([file]);
      assert.deepEqual(ram, (await readStream([from])).ram);
    });
  }
});

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { brotliCompressSync, brotliDecompressSync } from 'node:zlib';
import { openFrom } from '../../../adapters/index.ts';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { unwrap } from '../../../lib/migration/containers/unwrap.ts';
import { decodePageIndex } from '../../../lib/migration/page-index/decode-page-index.ts';
import { PageIndexBuilder } from '../../../lib/migration/page-index/page-index-builder.ts';
import { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import { openSavedGuest } from '../../../lib/migration/saved-guest/open-saved-guest.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import {
  be32,
  be64,
  blockList,
  configuration,
  counted,
  end,
  eos,
  header,
  page,
  piece,
  section,
  stream,
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';
import { xxh64 as xxh64Hex } from '../../helpers/xxh64.ts';

const PAGE = 4096;
const EXTENT = 262_144;
const folder = makeTempDir();
after(() => folder.remove());

const xxh64 = (bytes: Uint8Array): bigint => BigInt(`0x${xxh64Hex(bytes)}`);

/** Index a stream as it is read, in chunks of an odd size. */
async function indexOf(bytes: Buffer): Promise<Uint8Array | string> {
  const builder = await PageIndexBuilder.create();
  async function* chunks(): AsyncGenerator<Buffer> {
    for (let at = 0; at < bytes.length; at += 100_003) {
      const chunk = bytes.subarray(at, at + 100_003);
      builder.addBytes(chunk);
      yield chunk;
    }
  }
  const reader = new MigrationReader(chunks(), { pages: builder.pages });
  for await (const event of reader) builder.addEvent(event);
  return builder.finish(reader.ram);
}

async function built(bytes: Buffer): Promise<Buffer> {
  const index = await indexOf(bytes);
  assert.ok(typeof index !== 'string', String(index));
  return Buffer.from(index);
}

async function open(bytes: Uint8Array, index: Uint8Array): Promise<SavedGuest> {
  const path = folder.join('stream');
  rmSync(path, { force: true });
  writeFileSync(path, bytes);
  return openSavedGuest(await unwrap(await openFrom({ scheme: 'file', path, offset: 0 })), {
    index,
  });
}

async function contents({ pages }: SavedGuest, block: number): Promise<Buffer> {
  const bytes = Buffer.alloc(pages.blocks[block]?.usedLength ?? 0, 0xee);
  await pages.read(block, 0, bytes);
  return bytes;
}

const data = (fill: number): Buffer => Buffer.alloc(PAGE, fill);
const machine = configuration('pc-i440fx-7.2');
const start = section('start', 2, ['ram', 0, 4], blockList(['a', 8 * PAGE]), eos);

/** 1 page, 1 of zeros, 2 pages; and then the first one again. */
const SMALL = stream(
  header,
  machine,
  start,
  piece('part', 2, page('a', 0, data(1)), zeroPage(null, PAGE), eos),
  piece('part', 2, page(null, 2 * PAGE, data(3)), page(null, 3 * PAGE, data(4)), eos),
  piece('end', 2, page('a', 0, data(5)), eos),
  section('full', 5, ['dev', 0, 1], '12345678'),
  end,
);

/** Bytes of an index of `SMALL` before its tables. */
const HEAD = 16 + 4 + 4 + 8 + 3 * 4 + 4;

/** Returns an index with other tables than those at its end, compressed. */
function compressed(
  index: Buffer,
  tables: Uint8Array = brotliCompressSync(index.subarray(HEAD, -8)),
): Buffer {
  const body = stream(index.subarray(0, HEAD), Buffer.from(tables));
  return stream(body, be64(xxh64(body)));
}

/** Returns an index with its tables as they are before they are compressed. */
function decompressed(index: Buffer): Buffer {
  const tables = brotliDecompressSync(index.subarray(HEAD, -8));
  const body = stream(index.subarray(0, HEAD), tables);
  return stream(body, be64(xxh64(body)));
}

interface Changes {
  size?: number;
  skipped?: number;
  /** Bytes by which the section of the device is said to be elsewhere. */
  moved?: number;
}

/** The index of `SMALL` by hand, with its tables as they are before they are compressed. */
function plainIndex(changes: Changes = {}): Buffer {
  const startBytes = header.length + machine.length + start.length;
  const word = 8;
  const named = word + 2;
  const footer = 5;
  // PART: type and id, records, EOS, footer.
  const first = 5 + named + PAGE + word + 1 + 8 + footer;
  const second = 5 + 2 * (word + PAGE) + 8 + footer;
  const parts = [startBytes, startBytes + first + second] as const;
  const endBytes = 5 + named + PAGE + 8 + footer;
  const newest = parts[1] + 5 + named;
  const later = startBytes + first + 5 + word;
  const device = 5 + 1 + 3 + 8 + 4;
  const varint = (value: number): Buffer =>
    value < 128
      ? Buffer.of(value)
      : stream(Buffer.of((value % 128) + 128), varint(Math.floor(value / 128)));
  const skipped = changes.skipped ?? 1;
  const moved = changes.moved ?? 0;
  const back = newest + (word + PAGE) + skipped * (word + 1) - later;
  const body = stream(
    Buffer.from('qemu-file index\n'),
    be32(3),
    be32(PAGE),
    be64(changes.size ?? SMALL.length),
    be32(1),
    be32(2),
    be32(2),
    be32(Number(xxh64(SMALL) & 0xffffffffn)),
    stream(counted('a'), be64(8 * PAGE), Buffer.of(0, 0)),
    stream(varint(header.length), varint(machine.length)),
    Buffer.of(0, 0),
    Buffer.of(1),
    stream(varint(header.length + machine.length), varint(start.length - footer)),
    stream(varint(footer + first + second + endBytes + moved), varint(device)),
    stream(varint(0), varint(1), varint(newest * 2)),
    stream(varint(skipped), varint(2), varint(back * 2 - 1)),
  );
  return stream(body, be64(xxh64(body)));
}

const smallIndex = (changes: Changes = {}): Buffer => compressed(plainIndex(changes));

function rejects(promise: Promise<unknown>, code: string, reason: RegExp): Promise<void> {
  return assert.rejects(promise, (error: unknown) => {
    assert.ok(error instanceof QemuFileError);
    assert.equal(error.code, code);
    assert.match(error.reason, reason);
    return true;
  });
}

for (const name of ['pc', 'q10-pc', 'microvm', 'no-footers', 'return-path']) {
  test(`a recorded stream is opened with its index as without: ${name}`, async () => {
    const made = recording(name);
    const main = made.files.find(({ kind }) => kind === 'main');
    assert.ok(main);
    const bytes = unpack(main);
    const index = await built(bytes);
    const guest = await open(bytes, index);
    for (const { name: block, sha256 } of made.facts.ram) {
      const at = guest.pages.blocks.findIndex((found) => found.name === block);
      const memory = await contents(guest, at);
      assert.equal(createHash('sha256').update(memory).digest('hex'), sha256);
    }
    const path = folder.join('other');
    writeFileSync(path, bytes);
    const other = await openSavedGuest(
      await unwrap(await openFrom({ scheme: 'file', path, offset: 0 })),
    );
    const frameOf = (from: SavedGuest): object => ({ ...from, pages: null, close: null });
    assert.deepEqual(frameOf(guest), frameOf(other));
    await Promise.all([guest.close(), other.close()]);
  });
}

test('an index has the bytes that its format says', async () => {
  const index = await built(SMALL);
  assert.deepEqual(decompressed(index), plainIndex());
  assert.equal(index.readBigUInt64BE(index.length - 8), xxh64(index.subarray(0, -8)));
});

for (const version of [2, 4]) {
  test(`an index of another version is refused: ${version}`, () => {
    const body = smallIndex().subarray(0, -8);
    body.writeUInt32BE(version, 16);
    assert.throws(() => decodePageIndex(stream(body, be64(xxh64(body)))), {
      code: 'ENOTSUP',
      message: new RegExp(`version ${version}, not 3; remove it or make a new one`),
    });
  });
}

test('tables that cannot be decompressed, or become too large, are refused', () => {
  const index = smallIndex();
  for (const tables of [
    Buffer.alloc(0),
    Buffer.from('tables'),
    brotliCompressSync(Buffer.alloc(1 << 24)),
  ]) {
    assert.throws(() => decodePageIndex(compressed(index, tables)), {
      code: 'EBADMSG',
      message: /its tables cannot be decompressed/,
    });
  }
});

test('a guest opened with its index has the last copy of each page', async () => {
  const guest = await open(SMALL, smallIndex());
  assert.deepEqual(await contents(guest, 0), Buffer.concat([5, 0, 3, 4, 0, 0, 0, 0].map(data)));
  assert.deepEqual(
    guest.sections.map(({ name, body }) => [name, Buffer.from(body).toString('hex')]),
    [['dev', '12345678']],
  );
  await guest.close();
});

test('only what is read of a stream with an index is read from its file', async () => {
  const pages = Array.from({ length: 200 }, (_, index) =>
    page(null, (index + 1) * PAGE, data(index)),
  );
  const bytes = stream(
    header,
    machine,
    section('start', 2, ['ram', 0, 4], blockList(['a', 256 * PAGE]), eos),
    piece('part', 2, page('a', 0, data(1)), ...pages, eos),
    piece('end', 2, eos),
    end,
  );
  const index = await built(bytes);
  // Damage in the middle of the stream, which opening does not read.
  bytes.fill(0, EXTENT + 100, EXTENT + 200);
  const guest = await open(bytes, index);
  const target = Buffer.alloc(PAGE);
  await guest.pages.read(0, 0, target);
  assert.deepEqual(target, data(1));
  await rejects(
    Promise.resolve(guest.pages.read(0, 70 * PAGE, target)),
    'EBADMSG',
    /pages from 0x46000 of "a" cannot be read: .*bytes 262144 to 524288 have another digest/,
  );
  await guest.close();
});

test('an index of another file is refused', async () => {
  const other = Buffer.from(SMALL);
  other[other.length - 8] = 0x99;
  await rejects(open(other, smallIndex()), 'EBADMSG', /another digest.*remove the index/);
});

test('an index of a longer file is refused', async () => {
  await rejects(open(SMALL, smallIndex({ size: SMALL.length + 1 })), 'EBADMSG', /for a stream of/);
  await rejects(open(SMALL.subarray(0, -1), smallIndex()), 'EBADMSG', /for a stream of/);
});

test('an index that names other places for sections is refused', async () => {
  for (const moved of [-1, 1]) {
    await rejects(open(SMALL, smallIndex({ moved })), 'EBADMSG', /bytes \d+ to \d+ are not what/);
  }
});

test('a device whose bytes changed is noticed, although its state is not decoded', async () => {
  const bytes = Buffer.from(SMALL);
  bytes[SMALL.indexOf('12345678', 0, 'hex') + 1] = 0x35;
  await rejects(open(bytes, smallIndex()), 'EBADMSG', /another digest/);
});

test('an index that gives the place of another page is noticed by the record there', async () => {
  // The pages 2 and 3 are said to be 4 and 5.
  const guest = await open(SMALL, smallIndex({ skipped: 3 }));
  await rejects(contents(guest, 0), 'EBADMSG', /page at 0x4000 of "a" is not where it was/);
  await guest.close();
});

let index: Buffer;
before(async () => {
  index = await built(SMALL);
});

test('each truncated index is refused', () => {
  for (let length = 0; length < index.length; length++) {
    assert.throws(() => decodePageIndex(index.subarray(0, length)), { code: 'EBADMSG' });
  }
});

test('each damaged byte of an index is noticed', () => {
  for (let at = 0; at < index.length; at++) {
    const copy = Buffer.from(index);
    copy[at] = (copy[at] as number) ^ 0x10;
    assert.throws(() => decodePageIndex(copy), QemuFileError);
  }
});

test('no forged index leads outside of the stream or the blocks', () => {
  const body = plainIndex().subarray(0, -8);
  for (let at = 20; at < body.length; at++) {
    for (const value of [0x00, 0x01, 0x7f, 0x80, 0xff]) {
      const copy = Buffer.from(body);
      copy[at] = value;
      let decoded: ReturnType<typeof decodePageIndex>;
      try {
        decoded = decodePageIndex(compressed(stream(copy, be64(0n))));
      } catch (error) {
        assert.ok(error instanceof QemuFileError);
        continue;
      }
      const pages = decoded.blocks.reduce(
        (sum, block) => sum + block.usedLength / decoded.pageSize,
        0,
      );
      for (let run = 0; run < decoded.runs.length; run++) {
        const position = decoded.runs.positions[run] as number;
        const count = decoded.runs.counts[run] as number;
        const last = position + (count - 1) * decoded.runs.stride + decoded.pageSize;
        assert.ok(position >= 8 && last <= decoded.size);
        assert.ok((decoded.runs.pages[run] as number) + count <= pages);
      }
      for (const { from, to } of decoded.sections) assert.ok(from < to && to <= decoded.size);
    }
  }
});

for (const [name, why] of [
  ['xbzrle', /XBZRLE/],
  ['compress', /not sent as they are/],
  ['q10-multifd-none', /multifd/],
  ['q10-mapped-ram', /mapped-ram file, whose bitmaps are its index/],
] as const) {
  test(`a stream whose pages an index cannot place gets none, and is read to its end: ${name}`, async () => {
    const made = recording(name);
    assert.match(String(await indexOf(unpack(made.files[0] as { file: string }))), why);
  });
}

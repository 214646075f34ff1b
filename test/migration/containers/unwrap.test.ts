import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import zlib, { gzipSync } from 'node:zlib';
import { memoryOps } from '../../../adapters/memory/memory.ts';
import { openFrom } from '../../../adapters/open.ts';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import {
  type UnwrapOptions,
  type Unwrapped,
  unwrap,
} from '../../../lib/migration/containers/unwrap.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { cutAt, hex, piecesOf, turn } from '../../helpers/bytes.ts';
import { corpus, corpusBytes } from '../../helpers/streams/corpus.ts';
import { libvirtImage } from '../../helpers/streams/libvirt-image.ts';
import { qcow2 } from '../../helpers/streams/qcow2-bytes.ts';
import { header, stream, workedExample } from '../../helpers/streams/stream-bytes.ts';
import { isSettled, pattern } from '../../helpers/transports/backend.ts';
import { Feed, Source } from '../../helpers/transports/backends.ts';
import { within } from '../../helpers/until.ts';

const STREAM = workedExample();
const PACKED = gzipSync(STREAM);

/** A file that cannot seek. */
function pipe(...chunks: readonly Uint8Array[]): QemuFile {
  return new QemuFile(new Source(chunks));
}

/** A file that can. */
function stored(bytes: Uint8Array): QemuFile {
  return new QemuFile(memoryOps(bytes), { writable: false });
}

async function rest(file: QemuFile): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of file) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Unwrap, check the stream and close; return the description of the container. */
async function unwrapped(
  file: QemuFile,
  options: UnwrapOptions = {},
  expected: Buffer = STREAM,
): Promise<Omit<Unwrapped, 'file'>> {
  const { file: inner, ...facts } = await unwrap(file, options);
  assert.ok((await rest(inner)).equals(expected));
  await inner.close();
  assert.ok(file.destroyed);
  return facts;
}

/** The VM state of a snapshot: an image of 512-byte clusters. */
function imageOf(state: Uint8Array): Buffer {
  const cells = piecesOf(state, 512);
  return qcow2({ snapshots: [{ id: '3', name: 'snap', cells, vmStateSize: state.length }] }).bytes;
}

const BARE = { container: null, containers: [], fileOffset: 0, seekable: true };

describe('a bare stream', () => {
  test('is left as it is, in the same file', async () => {
    const file = stored(STREAM);
    const found = await unwrap(file);
    assert.equal(found.file, file);
    assert.equal(file.getPosition, 0);
    assert.deepEqual(await unwrapped(file), BARE);
  });

  test('from a pipe cannot seek', async () => {
    assert.deepEqual(await unwrapped(pipe(STREAM)), { ...BARE, seekable: false });
  });

  test('is recognised by its first four bytes, before more arrives', async () => {
    const feed = new Feed();
    const found = unwrap(new QemuFile(feed));
    await turn();
    feed.give(header.subarray(0, 4));
    assert.equal((await found).container, null);
  });

  test('can begin at an offset', async () => {
    const bytes = stream(Buffer.alloc(70_000, 1), STREAM);
    const facts = { ...BARE, fileOffset: 70_000 };
    assert.deepEqual(await unwrapped(stored(bytes), { offset: 70_000 }), facts);
    assert.deepEqual(await unwrapped(pipe(...piecesOf(bytes, 9999)), { offset: 70_000 }), {
      ...facts,
      seekable: false,
    });
    const packed = await unwrapped(pipe(gzipSync(bytes)), { offset: 70_000 });
    assert.deepEqual([packed.container, packed.fileOffset], ['gzip', 70_000]);
  });

  test('is not moved where the file has been opened at its offset', async () => {
    const file = stored(stream(Buffer.alloc(5000, 1), STREAM));
    await file.setOffset(5000);
    await file.fill(1);
    assert.deepEqual(await unwrapped(file, { offset: 5000 }), { ...BARE, fileOffset: 5000 });
    const read = stored(stream(Buffer.alloc(5000, 1), STREAM));
    await read.readSkip(5000);
    assert.deepEqual(await unwrapped(read), { ...BARE, fileOffset: 5000 });
  });

  test('cannot begin before the position of a pipe, nor after its end', async () => {
    const file = pipe(STREAM);
    await file.readSkip(10);
    await assert.rejects(unwrap(file, { offset: 5 }), { code: 'EINVAL' });
    await assert.rejects(unwrap(pipe(STREAM), { offset: 5000 }), { fault: 'truncated' });
    await assert.rejects(unwrap(pipe(STREAM), { offset: -1 }), RangeError);
    await assert.rejects(unwrap(stored(STREAM), { offset: 5000 }), { message: /empty/ });
  });

  test('has no snapshots', async () => {
    const file = pipe(STREAM);
    await assert.rejects(unwrap(file, { snapshot: 'x' }), { code: 'EINVAL' });
    assert.ok(file.destroyed);
  });
});

describe('a stream compressed with gzip', () => {
  const GZIP = { container: 'gzip', containers: ['gzip'], fileOffset: 0, seekable: false };

  test('is decompressed, however it is cut into chunks', async () => {
    for (let at = 1; at < PACKED.length; at++) {
      assert.deepEqual(await unwrapped(pipe(...cutAt(PACKED, [at]))), GZIP);
    }
    await unwrapped(pipe(...piecesOf(PACKED, 1)));
  });

  test('can have several members, and zeros after them, at every split', async () => {
    const bytes = stream(
      gzipSync(STREAM.subarray(0, 100)),
      gzipSync(STREAM.subarray(100)),
      Buffer.alloc(30),
    );
    for (let at = 1; at < bytes.length; at++) {
      await unwrapped(pipe(...cutAt(bytes, [at])));
    }
    await unwrapped(pipe(...piecesOf(bytes, 1)));
  });

  test('larger than all buffers is complete', async () => {
    const large = stream(header, pattern(3_000_000, 3), Buffer.alloc(3_000_000));
    await unwrapped(pipe(...piecesOf(gzipSync(large), 100_000)), {}, large);
  });

  test('is truncated at every place', async () => {
    for (let length = 2; length < PACKED.length; length += 3) {
      const file = pipe(PACKED.subarray(0, length));
      const read = unwrap(file).then(({ file: inner }) => rest(inner));
      await assert.rejects(read, { fault: 'truncated', position: length, message: /gzip/ });
      assert.ok(file.destroyed);
    }
  });

  test('that ends too early yields all bytes before', async () => {
    const large = stream(header, pattern(1_000_000));
    const whole = gzipSync(large);
    for (const length of [whole.length - 1, 700_000, 262_144]) {
      const { file } = await unwrap(pipe(...piecesOf(whole.subarray(0, length), 65_536)));
      const chunks: Uint8Array[] = [];
      const read = async (): Promise<void> => {
        for await (const chunk of file) chunks.push(chunk);
      };
      await assert.rejects(read(), { fault: 'truncated', position: length });
      const given = Buffer.concat(chunks);
      // The output of pattern() cannot be compressed.
      assert.ok(given.length > length - 1000 && given.equals(large.subarray(0, given.length)));
    }
  });

  test('is corrupt where a byte is wrong', async () => {
    const bytes = gzipSync(stream(header, pattern(2_000_000)));
    bytes[bytes.length - 6] = (bytes.at(-6) as number) ^ 1;
    const { file } = await unwrap(pipe(...piecesOf(bytes, 65_536)));
    await assert.rejects(rest(file), { fault: 'corrupt', code: 'EBADMSG', message: /data check/ });
    await assert.rejects(file.close(), { fault: 'corrupt' });
    const method = unwrap(pipe(hex('1f8b 01 00 00000000 0000')));
    await assert.rejects(method, { fault: 'corrupt', message: /gzip/ });
  });

  test('is corrupt where something else follows it', async () => {
    const { file } = await unwrap(pipe(PACKED, Buffer.from('and more')));
    await assert.rejects(rest(file), { fault: 'corrupt', position: PACKED.length });
  });

  test('fails with what its file fails with', async () => {
    const feed = new Feed();
    const { file } = await unwrapFed(feed);
    const failed = assert.rejects(rest(file), { code: 'EIO', message: /no more disks/ });
    await turn();
    feed.fail(new Error('no more disks'));
    await within(failed, { what: 'the failure' });
  });

  test('closes its file when it is closed, at every place', async () => {
    const large = gzipSync(stream(header, pattern(2_000_000)));
    for (const how of ['close', 'destroy'] as const) {
      for (const reads of [0, 1, 3]) {
        const file = pipe(...piecesOf(large, 50_000));
        const { file: inner } = await unwrap(file);
        for (let i = 0; i < reads; i++) await inner.readSkip(300_000);
        if (how === 'close') await inner.close();
        else inner.destroy();
        await within(file.close(), { what: 'the file' });
        assert.ok(inner.destroyed);
      }
    }
  });

  test('closes its file while it waits for bytes', async () => {
    const feed = new Feed();
    const { file } = await unwrapFed(feed);
    const read = assert.rejects(file.readSkip(1e6), { code: 'ECANCELED' });
    await turn();
    await within(file.close(), { what: 'the file' });
    await read;
    assert.deepEqual(feed.closes, [undefined]);
  });

  test('is closed with its file, also without a reader', async () => {
    const feed = new Feed();
    const { file, outer } = await unwrapFed(feed);
    const closed = new Promise((resolve) => file.once('close', resolve));
    outer.destroy();
    await within(closed, { what: 'the close' });
    await assert.rejects(file.readByte(), {
      code: 'ECANCELED',
      message: /compressed file was closed/,
    });
  });
});

/** Unwraps a file that has given half of a packed stream, and waits for more. */
async function unwrapFed(feed: Feed): Promise<{ file: QemuFile; outer: QemuFile }> {
  const outer = new QemuFile(feed);
  const found = unwrap(outer);
  await turn();
  feed.give(gzipSync(stream(header, pattern(100_000))).subarray(0, 70_000));
  const { file } = await found;
  return { file, outer };
}

describe('a stream compressed with something else', () => {
  const FORMATS: readonly [format: string, digits: string][] = [
    ['xz', 'fd377a585a00'],
    ['bzip2', '425a6839'],
    ['lzop', '894c5a4f000d0a1a0a'],
  ];

  for (const [format, digits] of FORMATS) {
    test(`is decompressed by the given function for ${format}`, async () => {
      const packed = stream(digits, Buffer.alloc(20));
      const asked: string[] = [];
      const file = pipe(packed);
      const facts = await unwrapped(file, {
        decompress: (name) => async (compressed) => {
          asked.push(name);
          assert.ok((await rest(compressed)).equals(packed));
          return pipe(STREAM);
        },
      });
      assert.deepEqual(facts, {
        container: format,
        containers: [format],
        fileOffset: 0,
        seekable: false,
      });
      assert.deepEqual(asked, [format]);
    });

    test(`is refused where there is nothing for ${format}`, async () => {
      const file = pipe(stream(digits, Buffer.alloc(20)));
      await assert.rejects(unwrap(file), { fault: 'unsupported', message: new RegExp(format) });
      assert.ok(file.destroyed);
    });
  }

  test('fails with the error of the decompressor', async () => {
    const failure = new QemuFileError('ENOTSUP', 'install it');
    const file = pipe(stream('fd377a585a00', Buffer.alloc(20)));
    const decompress = () => () => Promise.reject(failure);
    await assert.rejects(unwrap(file, { decompress }), failure);
    assert.ok(file.destroyed);
  });

  const { zstdCompressSync } = zlib as {
    zstdCompressSync?: (bytes: Uint8Array, options?: object) => Buffer;
  };
  const skip = zstdCompressSync === undefined && 'this Node.js has no zstd';
  const zstd = zstdCompressSync as (bytes: Uint8Array, options?: object) => Buffer;
  const ZSTD_C_CHECKSUM_FLAG = 201;
  const zstdWithChecksum = (bytes: Uint8Array) =>
    zstd(bytes, { params: { [ZSTD_C_CHECKSUM_FLAG]: 1 } });

  test('can be zstd, in several frames at every split', { skip }, async () => {
    const bytes = stream(zstd(STREAM.subarray(0, 100)), zstd(STREAM.subarray(100)));
    for (let at = 1; at < bytes.length; at++) {
      const { container } = await unwrapped(pipe(...cutAt(bytes, [at])));
      assert.equal(container, 'zstd');
    }
  });

  test('can be zstd with padding, cut at every split', { skip }, async () => {
    const bytes = stream(zstdWithChecksum(STREAM), Buffer.alloc(3));
    for (let at = 1; at < bytes.length; at++) await unwrapped(pipe(...cutAt(bytes, [at])));
  });

  test('is truncated in zstd wherever its last frame is cut', { skip }, async () => {
    const first = zstdWithChecksum(STREAM.subarray(0, 100));
    const bytes = stream(first, zstdWithChecksum(STREAM.subarray(100)));
    for (let size = first.length + 1; size < bytes.length; size++) {
      const { file } = await unwrap(pipe(bytes.subarray(0, size)));
      await assert.rejects(rest(file), { fault: 'truncated' }, `${size} bytes`);
    }
  });
});

describe('a stream in several wrappings', () => {
  test('is found in an image of libvirt', async () => {
    const libvirt = { xml: '<domain/>', cookie: null, wasRunning: true, format: 'raw' };
    const facts = {
      container: 'libvirt',
      containers: ['libvirt'],
      fileOffset: 104,
      seekable: true,
      libvirt,
    };
    const bytes = libvirtImage(STREAM, { streamAt: 104 });
    assert.deepEqual(await unwrapped(stored(bytes)), facts);
    const at = await unwrapped(stored(stream(Buffer.alloc(96, 1), bytes)), { offset: 96 });
    assert.equal(at.fileOffset, 200);
    const sparse = await unwrapped(stored(libvirtImage(STREAM, { format: 6, streamAt: 104 })));
    assert.deepEqual([sparse.libvirt?.format, sparse.fileOffset], ['sparse', 104]);
  });

  test('is found compressed in an image of libvirt, and that compressed again', async () => {
    const image = libvirtImage(PACKED, { format: 1, streamAt: 104 });
    const once = await unwrapped(stored(image));
    assert.deepEqual(once.containers, ['libvirt', 'gzip']);
    assert.deepEqual([once.fileOffset, once.seekable], [0, false]);
    const twice = await unwrapped(pipe(gzipSync(image)));
    assert.deepEqual([twice.container, twice.containers], ['gzip', ['gzip', 'libvirt', 'gzip']]);
    assert.equal(twice.libvirt?.format, 'gzip');
    const raw = await unwrapped(pipe(gzipSync(libvirtImage(STREAM, { streamAt: 104 }))));
    assert.equal(raw.fileOffset, 104);
  });

  test('must be compressed as the libvirt image declares', async () => {
    const wrong: readonly [number, Uint8Array, RegExp][] = [
      [0, PACKED, /is raw, but holds gzip-compressed data/],
      [1, STREAM, /is gzip, but holds a migration stream/],
      [6, Buffer.alloc(20), /is sparse, but holds an unknown file/],
      [3, PACKED, /is xz, but/],
    ];
    for (const [format, payload, said] of wrong) {
      const found = unwrap(stored(libvirtImage(payload, { format, streamAt: 104 })));
      await assert.rejects(found, { fault: 'corrupt', message: said, position: 104 });
    }
    const empty = unwrap(stored(libvirtImage(Buffer.alloc(0), { streamAt: 104 })));
    await assert.rejects(empty, { fault: 'truncated', message: /nothing/ });
  });

  test('is found in three of them, and not in four', async () => {
    const three = gzipSync(gzipSync(PACKED));
    assert.equal((await unwrapped(pipe(three))).containers.length, 3);
    const file = pipe(gzipSync(three));
    await assert.rejects(unwrap(file), { fault: 'unsupported', message: /more than 3/ });
    assert.ok(file.destroyed);
  });

  test('is found in the recordings', async (t) => {
    if (corpus('libvirt-save.img.gz') === undefined) return t.skip('no corpus');
    const image = corpusBytes('libvirt-save.img.gz');
    const facts = await unwrapped(
      await openFrom(`file:${corpus('libvirt-save.img.gz')}`),
      {},
      image.subarray(67_096),
    );
    assert.deepEqual([facts.containers, facts.fileOffset], [['gzip', 'libvirt'], 67_096]);
    assert.match(facts.libvirt?.xml ?? '', /^<domain type='qemu'>[\s\S]*<\/domain>\n$/);
    assert.match(facts.libvirt?.cookie ?? '', /^<cookie>[\s\S]*<\/cookie>\n$/);
    const offset = 65_536;
    for (const name of ['q10-file-offset.file.gz', 'q10-mapped-ram-offset.file.gz']) {
      const bytes = corpusBytes(name);
      const found = await unwrapped(stored(bytes), { offset }, bytes.subarray(offset));
      assert.deepEqual(found, { ...BARE, fileOffset: offset });
      await assert.rejects(unwrap(stored(bytes)), { message: /,offset=65536/ });
    }
  });
});

describe('the VM state of a snapshot in a qcow2 image', () => {
  test('is a file that can seek, and closes the image', async () => {
    const image = stored(imageOf(STREAM));
    const { file, snapshot, ...facts } = await unwrap(image);
    assert.deepEqual(facts, {
      container: 'qcow2',
      containers: ['qcow2'],
      fileOffset: 0,
      seekable: true,
    });
    assert.equal(snapshot?.name, 'snap');
    const some = Buffer.alloc(1000);
    await file.getBufferAt(some, 3000);
    assert.ok(some.equals(STREAM.subarray(3000, 4000)));
    assert.equal(await file.readBe32(), 0x5145564d);
    assert.equal(await file.setOffset(0, 'end'), STREAM.length);
    assert.equal(await file.setOffset(-100, 'current'), STREAM.length - 100);
    assert.ok((await file.readBuffer(100)).equals(STREAM.subarray(-100)));
    await file.setOffset(0);
    assert.ok((await rest(file)).equals(STREAM));
    await file.close();
    assert.ok(image.destroyed);
  });

  test('is chosen by name, and decompressed by the given function', async () => {
    const bytes = imageOf(STREAM);
    const readAt = async (target: Uint8Array, offset: number): Promise<number> =>
      Buffer.from(bytes).copy(target, 0, offset);
    const { snapshot } = await unwrapped(pipe(bytes), { readAt, snapshot: 'snap' });
    assert.equal(snapshot?.id, '3');
    await assert.rejects(unwrap(stored(bytes), { snapshot: 'other' }), {
      fault: 'not-a-stream',
      message: /"snap" \(id 3\)/,
    });
  });

  test('is refused where the image cannot be read at any offset', async () => {
    const bytes = imageOf(STREAM);
    for (const file of [pipe(bytes), pipe(gzipSync(bytes)), stored(gzipSync(bytes))]) {
      await assert.rejects(unwrap(file), { fault: 'unsupported', message: /seek/ });
      assert.ok(file.destroyed);
    }
  });

  test('is refused if it is not a stream', async () => {
    const file = stored(imageOf(Buffer.alloc(600, 7)));
    await assert.rejects(unwrap(file), { fault: 'corrupt', message: /not a migration stream/ });
    assert.ok(file.destroyed);
  });

  test('ends with the fault of the image, which closes it', async () => {
    const bytes = imageOf(STREAM);
    const image = stored(bytes.subarray(0, 4000));
    await assert.rejects(unwrap(image), { fault: 'truncated' });
    assert.ok(image.destroyed);
  });
});

describe('bytes that are not a stream', () => {
  test('is named', async () => {
    const others: readonly [Uint8Array, RegExp][] = [
      [hex('7f454c46 02010100 00000000'), /ELF file/],
      [hex('11223344 00000001 00000000'), /multifd channel/],
      [hex('16030102 00010001 fc0303'), /TLS/],
      [Buffer.from('hello, world'), /begins with 68 65 6c 6c 6f 2c 20 77/],
      [gzipSync('hello, world'), /in gzip: .* 68 65 6c 6c 6f 2c 20 77/],
    ];
    for (const [bytes, said] of others) {
      const file = stored(bytes);
      await assert.rejects(unwrap(file), { fault: 'not-a-stream', message: said, position: 0 });
      assert.ok(file.destroyed);
    }
  });

  test('is truncated if it is the beginning of one', async () => {
    for (const length of [0, 1, 3]) {
      const said = length === 0 ? /empty/ : new RegExp(`${length} bytes`);
      for (const file of [stored(STREAM.subarray(0, length)), pipe(STREAM.subarray(0, length))]) {
        await assert.rejects(unwrap(file), { fault: 'truncated', message: said });
      }
    }
    await assert.rejects(unwrap(pipe(gzipSync(''))), { fault: 'truncated', message: /in gzip/ });
    await assert.rejects(unwrap(pipe(hex('51'), hex('52'))), { fault: 'not-a-stream' });
  });

  for (const at of [1, 100, 32_765, 32_768, 65_536, 1_000_000]) {
    test(`names the stream that begins at byte ${at}`, async () => {
      const bytes = stream(Buffer.alloc(at, 'QEV'), STREAM);
      const said = new RegExp(`add ",offset=${at}";.* begins with 51`);
      await assert.rejects(unwrap(stored(bytes)), { fault: 'not-a-stream', message: said });
      const later = stored(stream(Buffer.alloc(10), bytes));
      await later.readSkip(10);
      await assert.rejects(unwrap(later), { message: new RegExp(`,offset=${at + 10}";`) });
      await assert.rejects(unwrap(stored(gzipSync(bytes))), { message: said });
    });
  }

  test('is not searched further than 1 MiB', async () => {
    const bytes = stream(Buffer.alloc(2 ** 21), STREAM);
    await assert.rejects(unwrap(stored(bytes)), ({ message }: Error) => !/offset/.test(message));
  });

  test('are refused at once if they arrive through a connection that stays open', async () => {
    const feed = new Feed();
    const found = unwrap(new QemuFile(feed));
    await turn();
    feed.give(Buffer.from('GET / HTTP/1.1\r\n'));
    await assert.rejects(found, { fault: 'not-a-stream' });
  });

  test('leaves nothing waiting when the file is closed meanwhile', async () => {
    const file = new QemuFile(new Feed());
    const found = unwrap(file);
    assert.equal(await isSettled(found), false);
    file.destroy();
    await assert.rejects(found, { code: 'ECANCELED' });
  });
});

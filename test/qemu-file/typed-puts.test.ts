import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { inflateSync } from 'node:zlib';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, turn, wrongly } from '../helpers/bytes.ts';
import { Sink } from '../helpers/transports/backends.ts';
import { BOTH, sunk } from './put/sunk.ts';

/** The puts of integers; what they are given may break their types. */
const PUT = {
  putByte: (file: QemuFile, value: number) => file.putByte(value),
  putSbyte: (file: QemuFile, value: number) => file.putSbyte(value),
  putBe16: (file: QemuFile, value: number) => file.putBe16(value),
  putSbe16: (file: QemuFile, value: number) => file.putSbe16(value),
  putBe32: (file: QemuFile, value: number) => file.putBe32(value),
  putSbe32: (file: QemuFile, value: number) => file.putSbe32(value),
  putBe64: (file: QemuFile, value: number) => file.putBe64(value),
  putSbe64: (file: QemuFile, value: number) => file.putSbe64(value),
};

type PutInteger = keyof typeof PUT;

const ENCODINGS: readonly (readonly [PutInteger, number | bigint, string])[] = [
  ['putByte', 0, '00'],
  ['putByte', 255, 'ff'],
  ['putByte', -0, '00'],
  ['putSbyte', -128, '80'],
  ['putSbyte', -1, 'ff'],
  ['putSbyte', 127, '7f'],
  ['putBe16', 0, '0000'],
  ['putBe16', 0x1234, '1234'],
  ['putBe16', 65535, 'ffff'],
  ['putSbe16', -32768, '8000'],
  ['putSbe16', -2, 'fffe'],
  ['putSbe16', 32767, '7fff'],
  ['putBe32', 0, '00000000'],
  ['putBe32', 0x5145564d, '5145564d'],
  ['putBe32', 4294967295, 'ffffffff'],
  ['putSbe32', -2147483648, '80000000'],
  ['putSbe32', -3, 'fffffffd'],
  ['putSbe32', 2147483647, '7fffffff'],
  ['putBe64', 0, '0000000000000000'],
  ['putBe64', -0, '0000000000000000'],
  ['putBe64', 4294967295, '00000000ffffffff'],
  ['putBe64', 4294967296, '0000000100000000'],
  ['putBe64', 0x0012345678abcdef, '0012345678abcdef'],
  ['putBe64', 9007199254740991, '001fffffffffffff'],
  ['putBe64', 0n, '0000000000000000'],
  ['putBe64', 0x0123456789abcdefn, '0123456789abcdef'],
  ['putBe64', 9007199254740992n, '0020000000000000'],
  ['putBe64', 18446744073709551615n, 'ffffffffffffffff'],
  ['putSbe64', 0, '0000000000000000'],
  ['putSbe64', -1, 'ffffffffffffffff'],
  ['putSbe64', -4294967296, 'ffffffff00000000'],
  ['putSbe64', -4294967297, 'fffffffeffffffff'],
  ['putSbe64', 9007199254740991, '001fffffffffffff'],
  ['putSbe64', -9007199254740991, 'ffe0000000000001'],
  ['putSbe64', -1n, 'ffffffffffffffff'],
  ['putSbe64', 9223372036854775807n, '7fffffffffffffff'],
  ['putSbe64', -9223372036854775808n, '8000000000000000'],
];

/** For each method the first integers on either side that do not fit, and those only a bigint may say. */
const TOO_FAR: readonly (readonly [PutInteger, readonly (number | bigint)[]])[] = [
  ['putByte', [-1, 256, 2 ** 32, -(2 ** 32)]],
  ['putSbyte', [-129, 128, 255, 2 ** 32]],
  ['putBe16', [-1, 65536, 2 ** 32]],
  ['putSbe16', [-32769, 32768, 65535]],
  ['putBe32', [-1, 4294967296, 2 ** 53]],
  ['putSbe32', [-2147483649, 2147483648, 4294967295]],
  ['putBe64', [-1, 2 ** 53, 2 ** 64, -1n, 18446744073709551616n]],
  ['putSbe64', [2 ** 53, -(2 ** 53), 9223372036854775808n, -9223372036854775809n]],
];

const NO_INTEGERS: readonly unknown[] = [
  1.5,
  -0.5,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  '5',
  '',
  undefined,
  null,
  true,
  [7],
];

describe('integers', () => {
  for (const answering of BOTH) {
    test(`are put most significant byte first, signed ones as two's complement (${answering})`, async () => {
      for (const [method, value, digits] of ENCODINGS) {
        const { sink, file } = sunk(answering);
        PUT[method](file, wrongly(value));
        await file.flush();
        assert.equal(sink.written.toString('hex'), digits, `${method}(${value})`);
      }
    });
  }

  test('that do not fit throw RangeError, and nothing is staged', async () => {
    const { sink, file } = sunk();
    for (const [method, values] of TOO_FAR) {
      for (const value of [...values, ...NO_INTEGERS]) {
        const what = `${method}(${String(value)})`;
        assert.throws(() => PUT[method](file, wrongly(value)), RangeError, what);
        assert.throws(() => PUT[method](file, wrongly(value)), new RegExp(method), what);
        assert.equal(file.tellFast(), 0, what);
      }
    }
    await file.flush();
    assert.equal(sink.calls.length, 0);
    assert.equal(file.getError(), 0);
    file.putBe16(0xbeef);
    await file.flush();
    assert.deepEqual(sink.written, hex('beef'));
  });

  test('given as bigint where a number fits throw, and nothing is staged', () => {
    const { file } = sunk();
    for (const [name, put] of Object.entries(PUT)) {
      if (!name.endsWith('64')) assert.throws(() => put(file, wrongly(1n)), name);
    }
    assert.equal(file.tellFast(), 0);
  });
});

describe('a counted string', () => {
  test('is a length byte and UTF-8 without terminator', async () => {
    const { sink, file } = sunk();
    file.putCountedString('ram');
    file.putCountedString('');
    file.putCountedString('é€');
    await file.flush();
    assert.deepEqual(sink.written, hex('03 72616d 00 05 c3a9 e282ac'));
  });

  test('is the same at every place of the staging area, ASCII or not', async () => {
    for (const [text, bytes] of [
      ['pc.ram', '0670632e72616d'],
      ['é', '02c3a9'],
      ['', '00'],
      ['ab\u{1f600}', '066162f09f9880'],
    ] as const) {
      for (let before = 0; before <= 16; before++) {
        const sink = new Sink();
        const file = new QemuFile(sink, { stagingSize: 16 });
        for (let i = 0; i < before; i++) file.putByte(0xee);
        file.putCountedString(text);
        file.putByte(0xdd);
        await file.flush();
        assert.equal(sink.written.toString('hex'), `${'ee'.repeat(before)}${bytes}dd`);
      }
    }
  });

  test('puts counted strings of one length, in turn and repeatedly, each with its own bytes', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    const texts = ['abc', 'abc', 'abc', 'xyz', 'abc', 'aé', 'aéb', 'aéb', 'aéb', 'xyz', 'xyz'];
    for (const text of texts) file.putCountedString(text);
    await file.flush();
    const wanted = texts.map((text) => {
      const bytes = Buffer.from(text);
      return Buffer.concat([Buffer.of(bytes.length), bytes]);
    });
    assert.ok(sink.written.equals(Buffer.concat(wanted)));
  });

  test('keeps the places of staged runs apart when a staging block is used again', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    const wanted: Buffer[] = [];
    const page = Buffer.alloc(5000, 0x77);
    for (const sizes of [[8, 8, 8], [8, 4, 8], [1], [8, 8, 8, 8], [16, 8]]) {
      for (const size of sizes) {
        const bytes = pattern(size);
        file.putBuffer(bytes);
        file.putBufferAsync(page);
        wanted.push(bytes, page);
      }
      await file.flush();
    }
    assert.ok(sink.written.equals(Buffer.concat(wanted)));
  });

  test('can have 255 bytes, not 256, and the length counts bytes', async () => {
    const { sink, file } = sunk();
    file.putCountedString('x'.repeat(255));
    assert.throws(() => file.putCountedString('x'.repeat(256)), RangeError);
    assert.throws(() => file.putCountedString('é'.repeat(128)), RangeError);
    await file.flush();
    assert.deepEqual(sink.written, Buffer.concat([hex('ff'), Buffer.alloc(255, 'x')]));
  });
});

describe('putBuffer', () => {
  test('copies buffers of 0 to 40 bytes, each at its place', async () => {
    const { sink, file } = sunk();
    const buffers = Array.from({ length: 41 }, (_, size) => pattern(100).subarray(size, 2 * size));
    for (const bytes of buffers) file.putBuffer(bytes);
    await file.flush();
    assert.deepEqual(sink.written, Buffer.concat(buffers));
  });

  test('copies: the caller can reuse its memory at once', async () => {
    const { sink, file } = sunk('async');
    const memory = hex('010203');
    file.putBuffer(memory);
    memory.fill(0xff);
    await file.flush();
    assert.deepEqual(sink.written, hex('010203'));
  });

  test('of nothing puts nothing', async () => {
    const { sink, file } = sunk();
    file.putBuffer(new Uint8Array(0));
    await file.flush();
    assert.equal(sink.calls.length, 0);
  });

  for (const answering of BOTH) {
    test(`larger than the staging area arrives whole, at most 32768 bytes at once (${answering})`, async () => {
      const { sink, file } = sunk(answering);
      const bytes = pattern(100_001);
      file.putByte(0xaa);
      file.putBuffer(bytes);
      await file.flush();
      assert.deepEqual(sink.written, Buffer.concat([hex('aa'), bytes]));
      assert.deepEqual(sink.shape, [[32768], [32768], [32768], [1698]]);
    });
  }

  test('refuses a value that is not a Uint8Array', () => {
    const { file } = sunk();
    for (const wrong of ['text', [1, 2], new ArrayBuffer(4), undefined, null, 7]) {
      assert.throws(() => file.putBuffer(wrongly(wrong)), TypeError);
      assert.throws(() => file.putBufferAsync(wrongly(wrong)), TypeError);
      assert.throws(() => file.putCompressionData(wrongly(wrong)), TypeError);
    }
    assert.equal(file.tellFast(), 0);
  });
});

describe('a detached buffer', () => {
  function detached(): Uint8Array {
    const bytes = new Uint8Array(16);
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
    return bytes;
  }

  test('is refused by every put, and nothing is staged', async () => {
    const { sink, file } = sunk();
    let released = 0;
    assert.throws(() => file.putBuffer(detached()), TypeError);
    assert.throws(() => file.putBufferAsync(detached(), () => released++), TypeError);
    assert.throws(() => file.putCompressionData(detached()), TypeError);
    await file.flush();
    assert.equal(sink.calls.length, 0);
    assert.equal(file.getError(), 0);
    assert.equal(released, 0);
  });

  for (const answering of BOTH) {
    test(`that was attached when it was put latches EFAULT, and nothing wrong is sent (${answering})`, async () => {
      const { sink, file } = sunk(answering);
      const bytes = new Uint8Array(16);
      let released = 0;
      file.putByte(1);
      file.putBufferAsync(bytes, () => released++);
      file.putByte(2);
      structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
      await assert.rejects(file.flush(), { code: 'EFAULT' });
      assert.equal(file.error?.code, 'EFAULT');
      assert.equal(sink.calls.length, 0);
      assert.equal(released, 1);
    });
  }

  test('in a limited batch is noticed before later bytes are sent', async () => {
    const { sink, file } = sunk('sync', { maxBandwidth: 500_000 });
    const gone = new Uint8Array(10_000).fill(1);
    file.putBufferAsync(gone);
    file.putBufferAsync(new Uint8Array(10_000).fill(2));
    structuredClone(gone.buffer, { transfer: [gone.buffer] });
    await assert.rejects(file.flush(), { code: 'EFAULT' });
    assert.equal(sink.calls.length, 0);
  });
});

describe('putBufferAsync', () => {
  for (const answering of BOTH) {
    test(`passes the same memory to the backend, with its contents at the time of sending (${answering})`, async () => {
      const { sink, file } = sunk(answering);
      const page = Buffer.alloc(4096, 1);
      file.putBe32(0x01020304);
      file.putBufferAsync(page);
      file.putBe32(0x05060708);
      page.fill(9);
      await file.flush();
      const [call] = sink.calls;
      assert.deepEqual(sink.shape, [[4, 4096, 4]]);
      assert.equal(call?.buffers[1]?.buffer, page.buffer);
      assert.equal(call?.buffers[1]?.byteOffset, page.byteOffset);
      assert.deepEqual(
        sink.written,
        Buffer.concat([hex('01020304'), Buffer.alloc(4096, 9), hex('05060708')]),
      );
    });

    test(`releases once, after the backend took the batch (${answering})`, async () => {
      const { sink, file } = sunk(answering);
      const log: string[] = [];
      sink.misbehave = (length) => {
        log.push('write');
        return answering === 'sync' ? length : Promise.resolve(length);
      };
      file.putBufferAsync(pattern(10), () => log.push('release 1'));
      file.putByte(1);
      file.putBufferAsync(pattern(10), () => log.push('release 2'));
      assert.deepEqual(log, []);
      await file.flush();
      await file.close();
      assert.deepEqual(log, ['write', 'release 1', 'release 2']);
    });

    test(`releases once when the backend fails (${answering})`, async () => {
      const { sink, file } = sunk(answering);
      let released = 0;
      sink.misbehave = () => (answering === 'sync' ? -5 : Promise.reject(new Error('gone')));
      file.putBufferAsync(pattern(10), () => released++);
      await assert.rejects(file.flush(), { code: 'EIO' });
      await assert.rejects(file.close(), { code: 'EIO' });
      assert.equal(released, 1);
    });
  }

  test('releases not before an asynchronous backend has answered', async () => {
    const { sink, file } = sunk('manual');
    let released = 0;
    file.putBufferAsync(pattern(10), () => released++);
    const flushed = file.flush();
    await turn();
    assert.equal(released, 0);
    sink.take();
    await flushed;
    assert.equal(released, 1);
  });

  test('releases waiting buffers when the file is destroyed, and those in flight after their batch', async () => {
    const { sink, file } = sunk('manual');
    const log: string[] = [];
    file.putBufferAsync(pattern(10), () => log.push('in flight'));
    file.putBufferAsync(Buffer.alloc(40_000), () => log.push('in flight, too'));
    void file.flush();
    file.putBufferAsync(pattern(10), () => log.push('waiting'));
    file.destroy();
    assert.deepEqual(log, ['waiting']);
    sink.take();
    await turn();
    assert.deepEqual(log, ['waiting', 'in flight', 'in flight, too']);
  });

  test('releases a buffer after an error, although it is not sent', async () => {
    const { file } = sunk();
    file.setError(-5);
    let released = 0;
    file.putBufferAsync(pattern(10), () => released++);
    await turn();
    assert.equal(released, 1);
  });

  test('of no bytes adds no entry, and releases with the next flush', async () => {
    const { sink, file } = sunk();
    let released = 0;
    file.putBufferAsync(new Uint8Array(0), () => released++);
    assert.equal(released, 0);
    await file.flush();
    assert.equal(released, 1);
    assert.equal(sink.calls.length, 0);
    file.putByte(1);
    file.putBufferAsync(new Uint8Array(0), () => released++);
    file.putByte(2);
    await file.flush();
    assert.equal(released, 2);
    assert.deepEqual(sink.shape, [[2]]);
  });

  test('latches the error of an onRelease that throws, and continues releasing', async () => {
    const { sink, file } = sunk();
    let released = 0;
    const oops = new Error('no pages left');
    file.putBufferAsync(pattern(10), () => {
      throw oops;
    });
    file.putBufferAsync(pattern(10), () => released++);
    await assert.rejects(file.flush(), { code: 'EIO', cause: oops, operation: 'onRelease' });
    assert.equal(sink.written.length, 20);
    assert.equal(released, 1);
  });

  test('lets onRelease put the next page, on and on, without recursion', async () => {
    const { sink, file } = sunk();
    const pages = 200_000;
    let put = 0;
    const next = (): void => {
      if (put >= pages) return;
      put += 1;
      file.putByte(put & 0xff);
      file.putBufferAsync(page, next);
    };
    const page = Buffer.alloc(16);
    for (let at = 0; at < 32; at += 1) next();
    while (file.writableLength > 0) await file.flush();
    assert.equal(file.error, null);
    assert.equal(file.tellFast(), pages * 17);
    assert.ok(sink.calls.every((call) => call.buffers.length <= 64));
  });
});

describe('putCompressionData', () => {
  test('puts a be32 length and zlib data, and returns the number of bytes put', async () => {
    const { sink, file } = sunk();
    const page = pattern(4096);
    file.putByte(0xaa);
    const put = file.putCompressionData(page);
    file.putByte(0xbb);
    await file.flush();
    const { written } = sink;
    assert.deepEqual(sink.shape, [[put + 2]]);
    assert.equal(written[0], 0xaa);
    assert.equal(written.readUInt32BE(1), put - 4);
    assert.deepEqual(inflateSync(written.subarray(5, 1 + put)), page);
    assert.equal(written[1 + put], 0xbb);
  });

  test('counts only the 4 length bytes against the rate limit', () => {
    const { file } = sunk('sync', { autoFlush: false });
    file.setRateLimit(4);
    file.putCompressionData(pattern(4096));
    assert.equal(file.rateLimitExceeded(), false);
    file.putByte(1);
    assert.equal(file.rateLimitExceeded(), true);
  });

  test('flushes a file with a backend when room is short, and returns -1 when it never fits', async () => {
    const { sink, file } = sunk('sync', { autoFlush: false });
    file.putBuffer(pattern(32000));
    assert.ok(file.putCompressionData(pattern(4096)) > 0);
    assert.deepEqual(sink.shape, [[32000]]);
    assert.equal(file.putCompressionData(pattern(32768)), -1);
    // 32764 is the room after the length: the bound of 32743 bytes is 13 + 7 + 1 more.
    assert.ok(file.putCompressionData(Buffer.alloc(32743)) > 0);
    assert.equal(file.putCompressionData(Buffer.alloc(32745)), -1);
    await file.flush();
    assert.equal(file.getError(), 0);
  });

  test('does not flush a file without a backend: -1 when it does not fit', () => {
    const file = new QemuFile({});
    file.putBuffer(pattern(30000));
    assert.equal(file.putCompressionData(pattern(4096)), -1);
    assert.equal(file.tellFast(), 30000);
    assert.ok(file.putCompressionData(pattern(100)) > 0);
  });

  test('returns -1 after an error, also one of its own flush', () => {
    const { sink, file } = sunk('sync', { autoFlush: false });
    file.putBuffer(pattern(32000));
    sink.misbehave = () => -5;
    assert.equal(file.putCompressionData(pattern(4096)), -1);
    assert.equal(file.getError(), -5);
    assert.equal(file.putCompressionData(pattern(10)), -1);
  });
});

describe('putQemuFile', () => {
  test('moves the staged bytes of a file without backend, by-reference bytes included, and empties it', async () => {
    const { sink, file } = sunk();
    const source = new QemuFile({});
    let released = 0;
    source.putBe16(0x0102);
    source.putBufferAsync(hex('030405'), () => released++);
    source.putByte(6);
    source.write(hex('07'));
    file.putByte(0);
    assert.equal(file.putQemuFile(source), 7);
    assert.equal(released, 1);
    assert.equal(source.tellFast(), 0);
    assert.equal(file.putQemuFile(source), 0);
    file.putByte(8);
    await file.flush();
    assert.deepEqual(sink.shape, [[9]]);
    assert.deepEqual(sink.written, hex('000102030405060708'));
    source.putByte(9);
    assert.equal(file.putQemuFile(source), 1);
    await file.flush();
    assert.deepEqual(sink.written, hex('00010203040506070809'));
  });

  test('into a file with an error empties the source and returns the full length', () => {
    const { file } = sunk();
    const source = new QemuFile({});
    source.putBe32(1);
    file.setError(-5);
    assert.equal(file.putQemuFile(source), 4);
    assert.equal(source.tellFast(), 0);
  });

  test('into a file that was ended throws EBADF and leaves the source as it is', () => {
    const { file } = sunk();
    const source = new QemuFile({});
    source.putBe32(1);
    file.end();
    assert.throws(() => file.putQemuFile(source), { code: 'EBADF' });
    assert.equal(source.tellFast(), 4);
  });

  test('of a file into itself throws EINVAL', () => {
    const file = new QemuFile({});
    file.putByte(1);
    assert.throws(() => file.putQemuFile(file), { code: 'EINVAL' });
    assert.equal(file.tellFast(), 1);
  });

  test('of a buffer that was detached meanwhile latches EFAULT', async () => {
    const { sink, file } = sunk();
    const source = new QemuFile({});
    const bytes = new Uint8Array(16);
    source.putByte(1);
    source.putBufferAsync(bytes);
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
    file.putQemuFile(source);
    await assert.rejects(file.flush(), { code: 'EFAULT' });
    assert.equal(sink.calls.length, 0);
  });

  test('calls back the writes of the source', async () => {
    const { file } = sunk();
    const source = new QemuFile({});
    const called = new Promise((resolve) => source.write(hex('0102'), resolve));
    file.putQemuFile(source);
    await called;
    source.putByte(3);
    assert.equal(source.tellFast(), 1);
  });

  test('a file without backend takes a staging area full and no more: ENOBUFS', () => {
    const file = new QemuFile({});
    file.putBuffer(pattern(32768));
    assert.equal(file.getError(), 0);
    assert.equal(file.isWritable(), false);
    file.putByte(1);
    assert.equal(file.error?.code, 'ENOBUFS');
  });
});

describe('a file that cannot be written', () => {
  const getBuffer = (): number => 0;
  for (const [what, file] of [
    ['has no writevBuffer', () => new QemuFile({ getBuffer })],
    ['was made with writable: false', () => new QemuFile(new Sink(), { writable: false })],
  ] as const) {
    test(`because it ${what} throws EBADF for puts; a flush does nothing`, async () => {
      const reader = file();
      assert.equal(reader.isWritable(), false);
      assert.throws(() => reader.putByte(1), { code: 'EBADF' });
      assert.throws(() => reader.putBuffer(hex('01')), { code: 'EBADF' });
      assert.throws(() => reader.putBufferAsync(hex('01')), { code: 'EBADF' });
      assert.throws(() => reader.putCompressionData(hex('01')), { code: 'EBADF' });
      assert.throws(() => reader.putCountedString('a'), { code: 'EBADF' });
      await reader.flush();
      assert.equal(reader.getError(), 0);
      assert.equal(await reader.close(), 0);
    });
  }

  test('rejects a flush once an error is latched', async () => {
    const reader = new QemuFile({ getBuffer });
    reader.setError(-5);
    await assert.rejects(reader.flush(), { code: 'EIO' });
  });

  test('for want of a backend has nothing to wait for in a flush', async () => {
    const staging = new QemuFile({});
    staging.putByte(1);
    await staging.flush();
    assert.equal(staging.tellFast(), 1);
  });
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { cutAt, hex, pattern, piecesOf, turn, wrongly } from '../helpers/bytes.ts';
import { countedSignal } from '../helpers/counted-signal.ts';
import { readSome } from '../helpers/read-some.ts';
import { Feed, Source, type SourceOptions } from '../helpers/transports/backends.ts';

interface Field {
  name: string;
  digits: string;
  value: unknown;
  get(file: QemuFile): unknown;
  read(file: QemuFile, signal?: AbortSignal): Promise<unknown>;
}

/** One value of each kind, as bytes and as the result of the get. */
const FIELDS: readonly Field[] = [
  {
    name: 'Byte',
    digits: 'ff',
    value: 255,
    get: (file) => file.getByte(),
    read: (file, signal) => file.readByte({ signal }),
  },
  {
    name: 'Sbyte',
    digits: 'ff',
    value: -1,
    get: (file) => file.getSbyte(),
    read: (file, signal) => file.readSbyte({ signal }),
  },
  {
    name: 'Be16',
    digits: 'fffe',
    value: 65534,
    get: (file) => file.getBe16(),
    read: (file, signal) => file.readBe16({ signal }),
  },
  {
    name: 'Sbe16',
    digits: 'fffe',
    value: -2,
    get: (file) => file.getSbe16(),
    read: (file, signal) => file.readSbe16({ signal }),
  },
  {
    name: 'Be32',
    digits: 'fffffffd',
    value: 4294967293,
    get: (file) => file.getBe32(),
    read: (file, signal) => file.readBe32({ signal }),
  },
  {
    name: 'Sbe32',
    digits: 'fffffffd',
    value: -3,
    get: (file) => file.getSbe32(),
    read: (file, signal) => file.readSbe32({ signal }),
  },
  {
    name: 'Be64',
    digits: '001ffffffffffffe',
    value: 9007199254740990,
    get: (file) => file.getBe64(),
    read: (file, signal) => file.readBe64({ signal }),
  },
  {
    name: 'Be64Big',
    digits: 'fedcba9876543210',
    value: 18364758544493064720n,
    get: (file) => file.getBe64Big(),
    read: (file, signal) => file.readBe64Big({ signal }),
  },
  {
    name: 'Sbe64',
    digits: 'ffe0000000000002',
    value: -9007199254740990,
    get: (file) => file.getSbe64(),
    read: (file, signal) => file.readSbe64({ signal }),
  },
  {
    name: 'Sbe64Big',
    digits: '8000000000000001',
    value: -9223372036854775807n,
    get: (file) => file.getSbe64Big(),
    read: (file, signal) => file.readSbe64Big({ signal }),
  },
  {
    name: 'CountedString',
    digits: '05c3a9e282ac',
    value: 'é€',
    get: (file) => file.getCountedString(),
    read: (file, signal) => file.readCountedString('utf8', { signal }),
  },
  {
    name: 'Buffer(size)',
    digits: '010203',
    value: hex('010203'),
    get: (file) => file.getBuffer(3),
    read: (file, signal) => file.readBuffer(3, { signal }),
  },
  {
    name: 'Buffer(target)',
    digits: '0a0b0c',
    value: [3, hex('0a0b0c')],
    get: (file) => {
      const target = Buffer.alloc(3);
      return [file.getBuffer(target), target];
    },
    read: async (file, signal) => {
      const target = Buffer.alloc(3);
      return [await file.readBuffer(target, { signal }), target];
    },
  },
  {
    name: 'skip',
    digits: 'dead',
    value: true,
    get: (file) => file.skip(2),
    read: (file, signal) => file.readSkip(2, { signal }).then(() => true),
  },
  {
    name: 'BufferInPlace',
    digits: '112233',
    value: '112233',
    get: (file) => Buffer.from(file.getBufferInPlace(3)).toString('hex'),
    read: async (file, signal) => {
      await file.fill(3, { signal });
      return Buffer.from(file.getBufferInPlace(3)).toString('hex');
    },
  },
];

const RECORD = hex(FIELDS.map((field) => field.digits).join(''));
const VALUES = FIELDS.map((field) => field.value);

const WAYS: readonly SourceOptions[] = [
  { answering: 'sync', hands: false },
  { answering: 'sync', hands: true },
  { answering: 'async', hands: false },
  { answering: 'async', hands: true },
];

/** Every way to cut bytes in two, bytes one by one, and whole. */
function chunkings(bytes: Uint8Array): Uint8Array[][] {
  const all = [[bytes], piecesOf(bytes, 1)];
  for (let at = 1; at < bytes.length; at += 1) all.push(cutAt(bytes, [at]));
  return all;
}

function describeWay(way: SourceOptions): string {
  return `${way.answering} answers, ${way.hands === true ? 'handed-over chunks' : 'filled buffers'}`;
}

describe('every kind of value', () => {
  for (const way of WAYS) {
    test(`is read from every chunking (${describeWay(way)})`, async () => {
      for (const chunks of chunkings(RECORD)) {
        const file = new QemuFile(new Source(chunks, way));
        const got: unknown[] = [];
        for (const field of FIELDS) got.push(await field.read(file));
        assert.deepEqual(got, VALUES);
        assert.equal(file.getPosition, RECORD.length);
        assert.equal(await file.atEnd(), true);
        assert.equal(file.error, null);
      }
    });

    test(`is got after one fill from every chunking (${describeWay(way)})`, async () => {
      for (const chunks of chunkings(RECORD)) {
        const file = new QemuFile(new Source(chunks, way));
        assert.equal(await file.fill(RECORD.length), RECORD.length);
        let position = 0;
        for (const field of FIELDS) {
          assert.equal(file.getPosition, position, field.name);
          assert.deepEqual(field.get(file), field.value, field.name);
          position += field.digits.length / 2;
        }
        assert.equal(file.getPosition, RECORD.length);
      }
    });

    test(`is read in order by reads that were started together (${describeWay(way)})`, async () => {
      for (const chunks of chunkings(RECORD)) {
        const file = new QemuFile(new Source(chunks, way));
        const reads = FIELDS.slice(0, -1).map((field) => field.read(file));
        assert.deepEqual(await Promise.all(reads), VALUES.slice(0, -1));
        assert.equal(await file.atEnd(), false);
        await file.readSkip(3);
        assert.equal(await file.atEnd(), true);
      }
    });
  }

  test('throws EAGAIN and consumes nothing while its bytes are not all there', async () => {
    for (const field of FIELDS.filter(({ name }) => name !== 'skip')) {
      const bytes = hex(field.digits);
      for (let there = 0; there < bytes.length; there += 1) {
        const feed = new Feed();
        const file = new QemuFile(feed);
        if (there > 0) {
          const filled = file.fill(there);
          feed.give(bytes.subarray(0, there));
          await filled;
        }
        const what = `${field.name} with ${there} bytes`;
        assert.throws(() => field.get(file), { code: 'EAGAIN' }, what);
        assert.throws(() => field.get(file), { name: 'QemuFileError' }, what);
        assert.equal(file.getPosition, 0, what);
        assert.equal(file.getError(), 0, what);
        const filled = file.fill(bytes.length);
        feed.give(bytes.subarray(there));
        await filled;
        assert.deepEqual(field.get(file), field.value, what);
      }
    }
  });

  test('rejects with EIO at the end of the stream, with position, bytes wanted and bytes available', async () => {
    for (const field of FIELDS) {
      const bytes = hex(field.digits);
      for (let there = 0; there < bytes.length; there += 1) {
        const file = new QemuFile(new Source([hex('aabb'), bytes.subarray(0, there)]));
        await file.readBe16();
        const what = `${field.name} with ${there} bytes`;
        await assert.rejects(
          field.read(file),
          {
            name: 'QemuFileError',
            code: 'EIO',
            position: 2,
            message: new RegExp(`ended: wanted [1-9].* bytes, ${there} are there at byte 2`),
          },
          what,
        );
        assert.equal(file.getError(), -5, what);
        assert.equal(file.getPosition, 2, what);
        if (field.name === 'skip') assert.equal(field.get(file), false);
        else assert.throws(() => field.get(file), { code: 'EIO' }, what);
        await assert.rejects(field.read(file), { code: 'EIO' }, what);
      }
    }
  });

  test('on a file that cannot be read fails with EBADF, which is not latched', async () => {
    await cannotBeRead(new QemuFile({ writevBuffer: () => 0 }));
    await cannotBeRead(new QemuFile(new Source([RECORD]), { readable: false }));
    const file = new QemuFile(new Source([RECORD]), { readable: true });
    assert.equal(await file.readByte(), 255);
  });

  async function cannotBeRead(file: QemuFile): Promise<void> {
    for (const field of FIELDS.filter(({ name }) => name !== 'skip')) {
      assert.throws(() => field.get(file), { code: 'EBADF' }, field.name);
      await assert.rejects(field.read(file), { code: 'EBADF' }, field.name);
    }
    await assert.rejects(file.fill(1), { code: 'EBADF' });
    await assert.rejects(file.atEnd(), { code: 'EBADF' });
    assert.equal(file.getError(), 0);
    assert.equal(file.readable, false);
  }
});

describe('64 bits', () => {
  for (const [digits, kind] of [
    ['0020000000000000', 'Be64'],
    ['ffffffffffffffff', 'Be64'],
    ['8000000000000000', 'Be64'],
    ['0020000000000000', 'Sbe64'],
    ['7fffffffffffffff', 'Sbe64'],
    ['ffe0000000000000', 'Sbe64'],
    ['8000000000000000', 'Sbe64'],
  ] as const) {
    test(`${digits} as a number is a RangeError for ${kind}, and is still there for ${kind}Big`, async () => {
      const file = new QemuFile(new Source([hex(digits), hex('07')]));
      await file.fill(8);
      assert.throws(() => file[`get${kind}`](), RangeError);
      await assert.rejects(file[`read${kind}`](), RangeError);
      assert.equal(file.getPosition, 0);
      assert.equal(file.getError(), 0);
      const big = BigInt(`0x${digits}`);
      assert.equal(
        file[`get${kind}Big`](),
        kind === 'Be64' || big < 1n << 63n ? big : big - (1n << 64n),
      );
      assert.equal(await file.readByte(), 7);
    });
  }

  test('are numbers up to 2^53-1 either way', async () => {
    const digits = '001fffffffffffff 001fffffffffffff ffe0000000000001 ffffffffffffffff';
    const file = new QemuFile(new Source([hex(digits)]));
    assert.equal(await file.readBe64(), 9007199254740991);
    assert.equal(await file.readSbe64(), 9007199254740991);
    assert.equal(await file.readSbe64(), -9007199254740991);
    assert.equal(await file.readSbe64(), -1);
  });
});

describe('fill', () => {
  test('resolves with how many bytes are there, and consumes none', async () => {
    const source = new Source([pattern(10), pattern(10), pattern(10)]);
    const file = new QemuFile(source);
    assert.equal(await file.fill(0), 0);
    assert.equal(source.positions.length, 0);
    assert.equal(await file.fill(1), 10);
    assert.equal(await file.fill(10), 10);
    assert.equal(await file.fill(11), 20);
    assert.equal(file.getPosition, 0);
    assert.equal(file.tellFast(), 20);
    assert.deepEqual(source.positions, [0, 10]);
  });

  test('up to maxLookAhead makes everything contiguous that is asked for', async () => {
    const bytes = pattern(3_000_000);
    const file = new QemuFile(new Source(piecesOf(bytes, 70_001), { hands: true }));
    await file.fill(3_000_000);
    assert.deepEqual(file.getBuffer(1), bytes.subarray(0, 1));
    assert.equal(Buffer.compare(file.getBufferInPlace(2_999_999), bytes.subarray(1)), 0);
  });

  test('and all methods that take a size refuse a hostile one before they allocate', async () => {
    const source = new Source([pattern(10)]);
    const file = new QemuFile(source, { maxLookAhead: 1000 });
    for (const size of [1001, 2 ** 31, 2 ** 53, -1, 1.5, Number.NaN, Infinity]) {
      await assert.rejects(file.fill(size), RangeError);
      await assert.rejects(file.readBuffer(size), RangeError);
      assert.throws(() => file.getBuffer(size), RangeError);
      assert.throws(() => file.getBufferInPlace(size), RangeError);
    }
    for (const size of [2 ** 53, -1, 1.5, Number.NaN, Infinity]) {
      await assert.rejects(file.readSkip(size), RangeError);
      assert.throws(() => file.skip(size), RangeError);
    }
    for (const wrong of ['5', undefined, null, {}]) {
      await assert.rejects(file.fill(wrongly(wrong)), RangeError);
      await assert.rejects(file.readSkip(wrongly(wrong)), RangeError);
      await assert.rejects(file.readBuffer(wrongly<number>(wrong)), TypeError);
      assert.throws(() => file.getBuffer(wrongly<number>(wrong)), TypeError);
      assert.throws(() => file.getBufferInPlace(wrongly(wrong)), RangeError);
      assert.throws(() => file.skip(wrongly(wrong)), RangeError);
    }
    assert.equal(source.positions.length, 0);
    assert.equal(file.getError(), 0);
    assert.equal(await file.fill(10), 10);
  });
});

describe('readBuffer and readSkip', () => {
  for (const way of WAYS) {
    test(`take more than the look-ahead holds, in constant memory (${describeWay(way)})`, async () => {
      const bytes = pattern(1_000_000);
      const source = new Source(piecesOf(bytes, 30_011), way);
      const file = new QemuFile(source, { lookAheadSize: 4096, maxLookAhead: 5000 });
      const target = Buffer.alloc(700_000);
      const first = file.readBuffer(target);
      const second = file.readSkip(200_000);
      const third = file.readBuffer(5000);
      assert.equal(await first, 700_000);
      assert.equal(Buffer.compare(target, bytes.subarray(0, 700_000)), 0);
      await second;
      assert.deepEqual(await third, bytes.subarray(900_000, 905_000));
      assert.equal(file.getPosition, 905_000);
    });
  }

  test('of nothing resolve at once', async () => {
    const file = new QemuFile(new Feed());
    assert.equal(await file.readBuffer(new Uint8Array(0)), 0);
    assert.equal((await file.readBuffer(0)).length, 0);
    await file.readSkip(0);
  });

  test('reject with EIO when the stream ends first', async () => {
    for (const size of [50_000, 100_000]) {
      for (const read of [
        (file: QemuFile) => file.readBuffer(new Uint8Array(size + 1)),
        (file: QemuFile) => file.readSkip(size + 1),
      ]) {
        const file = new QemuFile(new Source(piecesOf(pattern(size), 999)));
        await assert.rejects(read(file), { code: 'EIO', message: /ended: wanted/ });
        assert.equal(file.getError(), -5);
      }
    }
  });

  test('into a target that was detached meanwhile rejects, and later reads are fine', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    const target = new Uint8Array(8);
    const first = file.readBuffer(target);
    const second = file.readBe16();
    structuredClone(target.buffer, { transfer: [target.buffer] });
    feed.give(hex('00010203040506070809'));
    await assert.rejects(first, TypeError);
    await second;
    assert.equal(file.getError(), 0);
  });

  test('leave the memory of the caller its own: nothing changes it later', async () => {
    const bytes = pattern(200);
    const file = new QemuFile(new Source(piecesOf(bytes, 50)), { lookAheadSize: 64 });
    const one = await file.readBuffer(100);
    const two = await file.readBuffer(100);
    assert.deepEqual(one, bytes.subarray(0, 100));
    assert.deepEqual(two, bytes.subarray(100));
  });
});

describe('peek', () => {
  test('shows bytes and consumes none, at every split', async () => {
    const bytes = pattern(9);
    for (const way of WAYS) {
      for (const chunks of chunkings(bytes)) {
        const file = new QemuFile(new Source(chunks, way));
        await file.fill(9);
        for (let at = 0; at < 9; at += 1) assert.equal(file.peekByte(at), at);
        assert.deepEqual(Buffer.from(file.peekBuffer(9)), bytes);
        assert.deepEqual(Buffer.from(file.peekBuffer(3, 4)), bytes.subarray(4, 7));
        assert.deepEqual(Buffer.from(file.peekBuffer(100, 4)), bytes.subarray(4));
        assert.equal(file.peekBuffer(5, 9).length, 0);
        assert.equal(file.getPosition, 0);
        assert.deepEqual(file.getBuffer(9), bytes);
      }
    }
  });

  test('reaches 32768 bytes and no further', async () => {
    const bytes = pattern(40_000);
    const file = new QemuFile(new Source(piecesOf(bytes, 1000)));
    await file.fill(40_000);
    assert.equal(file.peekByte(32_767), bytes[32_767]);
    assert.equal(file.peekBuffer(32_768).length, 32_768);
    assert.equal(file.peekBuffer(1, 32_767)[0], bytes[32_767]);
    assert.equal(file.peekBuffer(0, 32_767).length, 0);
    for (const offset of [32_768, -1, 1.5, Number.NaN, 2 ** 32, Infinity]) {
      assert.throws(() => file.peekByte(offset), RangeError);
      assert.throws(() => file.peekBuffer(1, offset), RangeError);
    }
    for (const [size, offset] of [
      [32_769, 0],
      [2, 32_767],
      [-1, 0],
      [1.5, 0],
      [Number.NaN, 0],
      ['1', 0],
    ] as const) {
      assert.throws(() => file.peekBuffer(wrongly(size), offset), RangeError);
    }
  });

  test('of a missing byte throws EAGAIN; of a buffer returns the bytes available', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    assert.throws(() => file.peekByte(0), { code: 'EAGAIN' });
    const filled = file.fill(2);
    feed.give(hex('0102'));
    await filled;
    assert.equal(file.peekByte(1), 2);
    assert.throws(() => file.peekByte(2), { code: 'EAGAIN' });
    assert.deepEqual(Buffer.from(file.peekBuffer(10)), hex('0102'));
  });
});

describe('skip', () => {
  test('is all or nothing', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    assert.equal(file.skip(0), true);
    assert.equal(file.skip(1), false);
    const filled = file.fill(5);
    feed.give(hex('01020304'));
    await turn();
    feed.give(hex('05060708'));
    await filled;
    assert.equal(file.skip(9), false);
    assert.equal(file.getPosition, 0);
    assert.equal(file.skip(5), true);
    assert.equal(file.getByte(), 6);
    assert.equal(file.skip(2), true);
    assert.equal(file.skip(1), false);
    assert.equal(file.getError(), 0);
  });
});

describe('getBufferInPlace', () => {
  test('is a view where the bytes lie together, and a copy of just them where not', async () => {
    const chunk = pattern(100);
    const file = new QemuFile({ getBuffer: () => chunk.subarray(0, 100) });
    await file.fill(150);
    assert.equal(file.getBufferInPlace(60).buffer, chunk.buffer);
    const across = file.getBufferInPlace(80);
    assert.notEqual(across.buffer, chunk.buffer);
    assert.deepEqual(
      Buffer.from(across),
      Buffer.concat([chunk.subarray(60), chunk.subarray(0, 40)]),
    );
    assert.equal(file.getBufferInPlace(10).buffer, chunk.buffer);
    assert.equal(file.getBufferInPlace(0).length, 0);
  });
});

describe('a wait that its signal ends', () => {
  const waits: readonly (readonly [
    string,
    (file: QemuFile, signal: AbortSignal) => Promise<unknown>,
  ])[] = [
    ...FIELDS.map((field) => [field.name, field.read.bind(field)] as const),
    ['fill', (file, signal) => file.fill(2, { signal })],
    ['atEnd', (file, signal) => file.atEnd({ signal })],
  ];

  test('rejects with ECANCELED and the reason, for every kind, and later waits succeed', async () => {
    for (const [name, wait] of waits) {
      const feed = new Feed();
      const file = new QemuFile(feed);
      const controller = new AbortController();
      const reason = new Error('enough');
      const waiting = wait(file, controller.signal);
      const later = file.readBe16();
      await turn();
      controller.abort(reason);
      await assert.rejects(waiting, { code: 'ECANCELED', cause: reason }, name);
      feed.give(hex('beef'));
      assert.equal(await later, 0xbeef, name);
      assert.equal(file.getError(), 0, name);
    }
  });

  test('rejects at once if it was aborted before, without asking the backend', async () => {
    for (const [name, wait] of waits) {
      const feed = new Feed();
      const file = new QemuFile(feed);
      await assert.rejects(wait(file, AbortSignal.abort()), { code: 'ECANCELED' }, name);
      assert.equal(feed.asked, 0, name);
    }
  });

  test('leaves the available bytes to later waits', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    const controller = new AbortController();
    const large = file.readBuffer(10, { signal: controller.signal });
    const small = file.readByte();
    feed.give(hex('0102'));
    await turn();
    controller.abort();
    await assert.rejects(large, { code: 'ECANCELED' });
    assert.equal(await small, 1);
  });

  test('leaves no listener on the signal once it is over', async () => {
    const { signal, listeners } = countedSignal();
    const file = new QemuFile(new Source([pattern(10)], { answering: 'async' }));
    await file.readByte({ signal });
    await file.fill(4, { signal });
    await assert.rejects(file.readBuffer(100, { signal }));
    assert.equal(listeners(), 0);
  });
});

describe('blocking mode', () => {
  test('fills within gets, on a backend that answers at once', () => {
    for (const way of WAYS.filter(({ answering }) => answering === 'sync')) {
      for (const chunks of chunkings(RECORD)) {
        const file = new QemuFile(new Source(chunks, way));
        file.setBlocking(true);
        for (const field of FIELDS) {
          // skip never asks the backend, as in QEMU: it is peeked first.
          if (field.name === 'skip') file.peekBuffer(2);
          assert.deepEqual(field.get(file), field.value, field.name);
        }
        assert.throws(() => file.getByte(), { code: 'EIO' });
        assert.equal(file.getError(), -5);
      }
    }
  });

  test('fills within peeks', () => {
    const file = new QemuFile(new Source(piecesOf(pattern(10), 1)));
    file.setBlocking(true);
    assert.equal(file.peekByte(4), 4);
    assert.equal(file.peekBuffer(20).length, 10);
    assert.equal(file.getPosition, 0);
  });

  test('throws EAGAIN on a backend that does not answer at once', async () => {
    const feed = Object.assign(new Feed(), { setBlocking: () => {} });
    const file = new QemuFile(feed);
    file.setBlocking(true);
    assert.throws(() => file.getByte(), { code: 'EAGAIN' });
    assert.throws(() => file.getByte(), { code: 'EAGAIN' });
    assert.equal(feed.asked, 1);
    feed.give(hex('07'));
    await turn();
    assert.equal(file.getByte(), 7);
  });

  test('can be left again, and is nothing on a backend without it', () => {
    const source = new Source([pattern(2)]);
    const file = new QemuFile(source);
    file.setBlocking(true);
    assert.equal(file.peekByte(0), 0);
    file.setBlocking(false);
    file.getBe16();
    assert.throws(() => file.getByte(), { code: 'EAGAIN' });
    const other = new QemuFile({ getBuffer: () => pattern(1) });
    other.setBlocking(true);
    assert.throws(() => other.getByte(), { code: 'EAGAIN' });
  });

  test('throws the error of a backend that fails', () => {
    for (const getBuffer of [
      () => -32,
      (): number => {
        throw Object.assign(new Error('broken pipe'), { code: 'EPIPE' });
      },
    ]) {
      const file = new QemuFile({ getBuffer, setBlocking: () => {} });
      file.setBlocking(true);
      assert.throws(() => file.getByte(), { code: 'EPIPE' });
      assert.equal(file.getError(), -32);
    }
  });
});

describe('a backend', () => {
  test('is asked for the position of the next byte, with a buffer of lookAheadSize', async () => {
    const sizes: number[] = [];
    const positions: number[] = [];
    const file = new QemuFile(
      {
        getBuffer: (buffer, position) => {
          sizes.push(buffer.length);
          positions.push(position);
          return 10;
        },
      },
      { lookAheadSize: 100 },
    );
    for (let at = 0; at < 30; at += 1) await file.readBuffer(10);
    assert.ok(sizes.every((size) => size >= 25 && size <= 100));
    assert.equal(sizes[0], 100);
    assert.deepEqual(
      positions,
      Array.from({ length: 30 }, (_, at) => at * 10),
    );
  });

  test('is never asked twice at a time', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    const reads = [file.readByte(), file.fill(4), file.readBe32()];
    file.read();
    await turn();
    assert.equal(feed.asked, 1);
    feed.give(hex('0102'));
    await turn();
    assert.equal(feed.asked, 2);
    feed.give(hex('030405060708'));
    assert.deepEqual(await Promise.all(reads), [1, 7, 0x02030405]);
    assert.deepEqual(file.read(), hex('060708'));
  });

  test('that answers EAGAIN is asked again later', async () => {
    for (const again of [
      () => -11,
      () => Promise.resolve(-11),
      () => Promise.reject(Object.assign(new Error('again'), { code: 'EAGAIN' })),
      (): number => {
        throw Object.assign(new Error('again'), { code: 'EAGAIN' });
      },
    ]) {
      let asked = 0;
      const file = new QemuFile({
        getBuffer: () => {
          asked += 1;
          return asked < 3 ? again() : hex('0102');
        },
      });
      assert.equal(await file.readBe16(), 0x0102);
      assert.equal(asked, 3);
      assert.equal(file.getError(), 0);
    }
  });

  const nonsense: readonly (readonly [string, unknown])[] = [
    ['NaN', Number.NaN],
    ['a fraction', 1.5],
    ['more than the room', 65_537],
    ['a huge number', 2 ** 53],
    ['Infinity', Infinity],
    ['undefined', undefined],
    ['null', null],
    ['a string', '4'],
    ['a boolean', true],
    ['an object', {}],
    ['an object without prototype', Object.create(null)],
    ['an array', [1, 2]],
    ['a symbol', Symbol('four')],
    ['a function', () => 4],
    ['another kind of view', new Uint16Array(2)],
    ['a bigint', 4n],
  ];
  for (const [what, answer] of nonsense) {
    test(`that answers ${what} latches EIO`, async () => {
      for (const value of [answer, Promise.resolve(answer)]) {
        const file = new QemuFile({ getBuffer: () => wrongly<number>(value) });
        await assert.rejects(file.readByte(), { code: 'EIO', operation: 'getBuffer', position: 0 });
        assert.equal(file.getError(), -5);
      }
    });
  }

  for (const [what, fails, code] of [
    ['answers a negative errno', () => -32, 'EPIPE'],
    ['answers -1', () => -1, 'EPERM'],
    ['answers an errno this system does not know', () => -99_999, 'EIO'],
    ['resolves with a negative errno', () => Promise.resolve(-104), 'ECONNRESET'],
    ['rejects with an errno code', () => reject({ code: 'ECONNRESET' }), 'ECONNRESET'],
    ['rejects with another code', () => reject({ code: 'ERR_TLS' }), 'EIO'],
    ['rejects with the name of a method as code', () => reject({ code: 'toString' }), 'EIO'],
    ['rejects with undefined', () => Promise.reject(wrongly<Error>(undefined)), 'EIO'],
    ['rejects with a string', () => Promise.reject(wrongly<Error>('no')), 'EIO'],
    ['rejects with an AbortError', () => reject({ name: 'AbortError' }), 'ECANCELED'],
    ['throws', () => raise(new Error('no')), 'EIO'],
    ['throws undefined', () => raise(undefined), 'EIO'],
    ['throws null', () => raise(null), 'EIO'],
  ] as const) {
    test(`that ${what} has ${code} latched, with where it happened and its cause`, async () => {
      let asked = 0;
      const file = new QemuFile({
        getBuffer: () => {
          asked += 1;
          return asked === 1 ? hex('0102') : fails();
        },
      });
      await file.readByte();
      await assert.rejects(file.readBe32(), { code, operation: 'getBuffer', position: 2 });
      assert.equal(file.error?.code, code);
      assert.equal(file.getPosition, 1);
      await assert.rejects(file.fill(1), { code });
      await assert.rejects(file.close(), { code });
    });
  }

  function reject(properties: object): Promise<number> {
    return Promise.reject(Object.assign(new Error('no'), properties));
  }

  function raise(error: unknown): number {
    throw error;
  }

  test('that answers EAGAIN is not asked again once the file is closed, and leaves no timer', async () => {
    const timers = (): number =>
      process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    const file = new QemuFile({ getBuffer: () => -11 });
    const reading = file.readByte();
    assert.equal(timers(), before + 1);
    file.destroy();
    assert.equal(timers(), before);
    await assert.rejects(reading, { code: 'ECANCELED' });
  });

  test('that trickles bytes costs no more than its bytes', async () => {
    // Each piece of a long queue must not cost a walk over the others.
    const bytes = pattern(60_000);
    const file = new QemuFile(new Source(piecesOf(bytes, 1), { hands: true }));
    await file.fill(60_000);
    assert.equal(Buffer.compare(file.getBufferInPlace(60_000), bytes), 0);
  });
});

describe('typed gets and read()', () => {
  for (const way of WAYS) {
    test(`take turns at every split, and the position is right (${describeWay(way)})`, async () => {
      const bytes = pattern(24);
      for (const chunks of chunkings(bytes)) {
        const file = new QemuFile(new Source(chunks, way));
        assert.equal(await file.readBe16(), 0x0001);
        const piece = await readSome(file, 3);
        assert.deepEqual(piece, hex('020304'));
        assert.equal(file.getPosition, 5);
        assert.equal(await file.readByte(), 5);
        assert.equal(file.getPosition, 6);
        await file.fill(4);
        assert.equal(file.getBe32(), 0x06070809);
        assert.deepEqual(await readSome(file, 1), hex('0a'));
        assert.equal(file.getPosition, 11);
        const rest: Buffer[] = [];
        for await (const chunk of file) rest.push(chunk);
        assert.deepEqual(Buffer.concat(rest), bytes.subarray(11));
        assert.equal(file.getPosition, 24);
        assert.equal(file.error, null);
      }
    });

    test(`first, pipe() of the rest loses nothing at any split (${describeWay(way)})`, async () => {
      const bytes = pattern(20);
      for (const chunks of chunkings(bytes)) {
        for (const header of [0, 1, 7, 19, 20]) {
          const file = new QemuFile(new Source(chunks, way));
          for (let at = 0; at < header; at += 1) assert.equal(await file.readByte(), at);
          assert.deepEqual(await collect(file), bytes.subarray(header));
        }
      }
    });

    test(`after 'readable' return the bytes of the stream, at every split (${describeWay(way)})`, async () => {
      const bytes = pattern(20);
      for (const chunks of chunkings(bytes)) {
        for (const wait of [0, 3]) {
          const file = new QemuFile(new Source(chunks, way));
          await new Promise((resolve) => file.once('readable', resolve));
          // The stream reads ahead meanwhile, to the very end maybe.
          for (let turns = 0; turns < wait; turns += 1) await turn();
          assert.equal(file.getPosition, 0);
          assert.equal(await file.readBe32(), 0x00010203);
          assert.equal(file.getPosition, 4);
          for (let turns = 0; turns < wait; turns += 1) await turn();
          assert.deepEqual(await readSome(file, 2), hex('0405'));
          assert.equal(await file.readBe16(), 0x0607);
          assert.deepEqual(await collect(file), bytes.subarray(8));
        }
      }
    });

    test(`in a for await loop take bytes between its chunks (${describeWay(way)})`, async () => {
      const bytes = pattern(40);
      const file = new QemuFile(new Source(piecesOf(bytes, 4), way));
      const seen: number[] = [];
      for await (const chunk of file) {
        seen.push(...chunk);
        if (seen.length <= 30 && !(await file.atEnd())) seen.push(await file.readByte());
      }
      assert.deepEqual(Buffer.from(seen), bytes);
    });

    test(`to the last byte, then the stream ends (${describeWay(way)})`, async () => {
      const bytes = pattern(12);
      for (const chunks of chunkings(bytes)) {
        const file = new QemuFile(new Source(chunks, way));
        file.read(0);
        await turn();
        await turn();
        await file.readSkip(12);
        const ended = new Promise((resolve) => file.once('end', resolve));
        file.resume();
        await ended;
      }
    });
  }

  test("pass the rest to 'data' at once, though the peer is silent", async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    file.read();
    feed.give(hex('0102030405060708'));
    await turn();
    assert.equal(file.getBe32(), 0x01020304);
    const chunk = new Promise((resolve) => file.once('data', resolve));
    assert.deepEqual(await chunk, hex('05060708'));
    assert.equal(file.getPosition, 8);
    file.destroy();
  });

  test("pass the rest to 'readable' as well", async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    file.read();
    feed.give(hex('0102030405060708'));
    await turn();
    assert.equal(await file.readBe32(), 0x01020304);
    await new Promise((resolve) => file.once('readable', resolve));
    assert.deepEqual(file.read(), hex('05060708'));
    assert.equal(file.read(), null);
    file.destroy();
  });

  test("leave bytes that 'readable' announces, even without another read()", async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    file.read();
    feed.give(hex('0102030405060708'));
    await turn();
    for (const [got, left] of [
      [0x0102, 6],
      [0x0304, 4],
      [0x0506, 2],
    ]) {
      assert.equal(file.getBe16(), got);
      await new Promise((resolve) => file.once('readable', resolve));
      assert.equal(file.readableLength, left);
      assert.equal(file.getPosition, 8 - (left ?? 0));
    }
    file.destroy();
  });

  test("within 'data' take the bytes that follow the chunk", async () => {
    for (const way of WAYS) {
      const bytes = pattern(60);
      const file = new QemuFile(new Source(piecesOf(bytes, 4), way));
      const seen: number[] = [];
      file.on('data', (chunk: Buffer) => {
        seen.push(...chunk);
        if (file.peekBuffer(1).length > 0) seen.push(file.getByte());
        assert.equal(file.getPosition, seen.length);
      });
      await new Promise((resolve) => file.once('end', resolve));
      assert.deepEqual(Buffer.from(seen), bytes);
    }
  });

  test('see the rest of read(size) before the look-ahead, for every get', async () => {
    const gets: readonly (readonly [string, (file: QemuFile) => unknown])[] = [
      ['getBe32', (file) => file.getBe32()],
      ['getBuffer(target)', (file) => file.getBuffer(Buffer.alloc(4))],
      ['getBuffer(size)', (file) => file.getBuffer(4)],
      ['getBufferInPlace', (file) => file.getBufferInPlace(4)],
      ['peekByte', (file) => [file.peekByte(0), file.skip(4)]],
      ['peekBuffer', (file) => [...file.peekBuffer(4), file.skip(4)]],
      ['skip', (file) => file.skip(4)],
      ['readBuffer(target)', (file) => file.readBuffer(Buffer.alloc(4))],
      ['readBuffer(size)', (file) => file.readBuffer(4)],
      ['readSkip', (file) => file.readSkip(4)],
      ['readBe32', (file) => file.readBe32()],
    ];
    for (const [name, get] of gets) {
      const file = new QemuFile(new Source([pattern(10), pattern(10, 10)], { hands: true }));
      await file.fill(20);
      assert.deepEqual(file.read(2), hex('0001'));
      assert.equal(file.readableLength, 8, name);
      await get(file);
      assert.equal(file.getPosition, 6, name);
      assert.equal(file.getByte(), 6, name);
    }
    const file = new QemuFile(new Source([pattern(10), pattern(10, 10)], { hands: true }));
    await file.fill(20);
    file.read(2);
    assert.deepEqual(file.getBuffer(4), hex('02030405'));
    file.read(1);
    const target = Buffer.alloc(4);
    file.getBuffer(target);
    assert.deepEqual(target, hex('0708090a'));
    file.read(1);
    assert.equal(file.peekByte(0), 0x0c);
    assert.equal(await file.readBuffer(target), 4);
    assert.deepEqual(target, hex('0c0d0e0f'));
  });

  test('alone, see first what unshift() put back', async () => {
    const file = new QemuFile(new Source([pattern(8)]));
    assert.equal(await file.readBe32(), 0x00010203);
    file.unshift(hex('0203'));
    assert.equal(file.getByte(), 2);
    assert.equal(file.getPosition, 3);
    assert.equal(file.getBe32(), 0x03040506);
    assert.equal(file.getByte(), 7);
  });

  test('and read() in one tick: read() returns the rest', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    file.read(0);
    feed.give(hex('0102030405060708'));
    await turn();
    assert.equal(file.getBe16(), 0x0102);
    assert.deepEqual(file.read(2), hex('0304'));
    assert.equal(file.getByte(), 5);
    assert.deepEqual(file.read(), hex('060708'));
    assert.equal(file.getPosition, 8);
    file.destroy();
  });

  test('read(size) returns the rest at the end, even if it is shorter', async () => {
    for (const way of WAYS) {
      const file = new QemuFile(new Source([hex('0102030405'), hex('060708')], way));
      const got: string[] = [];
      await new Promise<void>((resolve) => {
        file.on('readable', () => {
          for (let chunk = file.read(5); chunk !== null; chunk = file.read(5)) {
            got.push(chunk.toString('hex'));
          }
        });
        file.once('end', resolve);
      });
      assert.deepEqual(got, ['0102030405', '060708']);
    }
  });

  test('after unshift() see the bytes that were put back first', async () => {
    for (const way of WAYS) {
      for (const before of [0, 1]) {
        const file = new QemuFile(new Source([pattern(8), pattern(8, 8)], way));
        await new Promise((resolve) => file.once('readable', resolve));
        const chunk = file.read(6);
        assert.deepEqual(chunk, hex('000102030405'));
        if (before > 0) assert.equal(await file.readByte(), 6);
        assert.equal(file.getPosition, 6 + before);
        file.unshift(hex('0405'));
        assert.equal(file.getPosition, 4 + before);
        assert.equal(await file.readBe16(), 0x0405);
        assert.equal(file.getPosition, 6 + before);
        assert.deepEqual(await collect(file), pattern(10 - before, 6 + before));
      }
    }
  });

  test('before unshift(), then pipe(): the bytes that were put back are first', async () => {
    const file = new QemuFile(new Source([pattern(8), pattern(8, 8)]));
    assert.equal(await file.readBe32(), 0x00010203);
    file.unshift(hex('0203'));
    assert.equal(file.getPosition, 2);
    assert.deepEqual(await collect(file), pattern(14, 2));
  });

  test('while a pipe is paused take the bytes that it has not sent', async () => {
    const file = new QemuFile(new Source(piecesOf(pattern(100), 10), { answering: 'async' }));
    const chunks: Buffer[] = [];
    file.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      file.pause();
    });
    await new Promise((resolve) => file.once('data', resolve));
    for (let turns = 0; turns < 5; turns += 1) await turn();
    assert.equal(file.getPosition, 10);
    assert.equal(await file.readByte(), 10);
    file.removeAllListeners('data');
    const rest = collect(file);
    file.resume();
    assert.deepEqual(await rest, pattern(89, 11));
  });

  test('of text that setEncoding() made leave that text alone', async () => {
    const file = new QemuFile(new Source([hex('6162'), hex('6364')], { answering: 'async' }));
    file.setEncoding('latin1');
    await new Promise((resolve) => file.once('readable', resolve));
    assert.equal(await file.readByte(), 0x63);
    assert.equal(file.getError(), 0);
    file.destroy();
  });

  test('wait before read() does: the first to ask receives the value', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    const chunks: Buffer[] = [];
    file.on('data', (chunk: Buffer) => chunks.push(chunk));
    await turn();
    const value = file.readBe32();
    feed.give(hex('0102'));
    await turn();
    assert.equal(chunks.length, 0);
    feed.give(hex('030405'));
    assert.equal(await value, 0x01020304);
    await turn();
    assert.deepEqual(Buffer.concat(chunks), hex('05'));
    file.destroy();
  });

  /** All that is left, as pipe() and 'data' give it. */
  function collect(file: QemuFile): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      file.on('data', (chunk: Buffer) => chunks.push(chunk));
      file.once('end', () => resolve(Buffer.concat(chunks)));
      file.once('error', reject);
    });
  }
});

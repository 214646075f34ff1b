import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, piecesOf, turn, wrongly } from '../helpers/bytes.ts';
import { countedSignal } from '../helpers/counted-signal.ts';
import { Feed, Source } from '../helpers/transports/backends.ts';
import { chunkings, describeWay, WAYS } from './get/chunkings.ts';

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

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, piecesOf, turn, wrongly } from '../helpers/bytes.ts';
import { Feed, SeekableMemory, Sink, Source } from '../helpers/transports/backends.ts';

describe('the position', () => {
  test('tellFast counts the bytes put, sent or not, and flushes nothing', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink, { autoFlush: false });
    assert.equal(file.tellFast(), 0);
    file.putBe32(1);
    file.putBufferAsync(pattern(100));
    assert.equal(file.tellFast(), 104);
    assert.equal(file.putPosition, 104);
    assert.equal(file.transferred(), 104);
    assert.equal(sink.calls.length, 0);
    await file.flush();
    assert.equal(file.tellFast(), 104);
    file.write(pattern(2000));
    assert.equal(file.tellFast(), 2104);
  });

  test('tellFast counts bytes in flight', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink);
    file.putBe32(1);
    void file.flush();
    file.putByte(1);
    assert.equal(file.tellFast(), 5);
    sink.take();
    await turn();
    assert.equal(file.tellFast(), 5);
  });

  test('tell flushes first', async () => {
    const sink = new Sink('async');
    const file = new QemuFile(sink, { autoFlush: false });
    file.putBuffer(pattern(1000));
    assert.equal(await file.tell(), 1000);
    assert.equal(sink.written.length, 1000);
  });

  test('of a reader counts fetched bytes, look-ahead included; getPosition counts consumed bytes', async () => {
    const file = new QemuFile(new Source(piecesOf(pattern(100), 40)));
    await file.readBe16();
    assert.equal(file.tellFast(), 40);
    assert.equal(await file.tell(), 40);
    assert.equal(file.getPosition, 2);
    await file.readSkip(50);
    assert.equal(file.tellFast(), 80);
    assert.equal(file.getPosition, 52);
  });

  test('of a file of both directions is that of its puts', async () => {
    const file = new QemuFile(
      Object.assign(new Source([pattern(10)]), {
        writevBuffer: (buffers: readonly Uint8Array[]) => buffers[0]?.length ?? 0,
      }),
    );
    await file.readByte();
    assert.equal(file.tellFast(), 0);
    file.putBe16(1);
    assert.equal(file.tellFast(), 2);
    assert.equal(file.getPosition, 1);
    assert.equal(await file.tell(), 2);
  });

  test('updatePosition moves it without a byte, also the position that the backend receives', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    file.putByte(1);
    await file.flush();
    file.updatePosition(1000);
    assert.equal(file.tellFast(), 1001);
    assert.equal(file.transferred(), 1001);
    file.putByte(2);
    assert.equal(await file.tell(), 1002);
    assert.deepEqual(
      sink.calls.map((call) => call.position),
      [0, 1001],
    );
    for (const wrong of [-1, 1.5, Number.NaN, Infinity, '5']) {
      assert.throws(() => file.updatePosition(wrongly(wrong)), RangeError);
    }
  });

  test('stays where the last byte was taken when the backend fails', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    file.putBe64(1);
    await file.flush();
    sink.misbehave = () => -5;
    file.putBe64(2);
    await assert.rejects(file.flush(), { position: 8 });
    assert.equal(file.tellFast(), 8);
  });
});

describe('setOffset', () => {
  test('flushes, drops the look-ahead, then seeks; gets continue from there', async () => {
    const backend = new SeekableMemory(pattern(200));
    const file = new QemuFile(backend, { lookAheadSize: 64 });
    assert.equal(await file.readBe16(), 0x0001);
    file.putByte(0xaa);
    assert.equal(await file.setOffset(100), 100);
    assert.deepEqual(backend.log, ['get 64@0', 'put 1@64', 'setOffset 100 set']);
    assert.throws(() => file.getByte(), { code: 'EAGAIN' });
    assert.equal(await file.readByte(), 100);
    assert.equal(file.getPosition, 3);
  });

  test('counts from the current offset and from the end as well', async () => {
    const file = new QemuFile(new SeekableMemory(pattern(200)));
    assert.equal(await file.setOffset(50), 50);
    assert.equal(await file.setOffset(-20, 'current'), 30);
    assert.equal(await file.setOffset(-1, 'end'), 199);
    assert.equal(await file.readByte(), 199);
    assert.equal(await file.atEnd(), true);
    assert.equal(await file.setOffset(0), 0);
    assert.equal(await file.readByte(), 0);
  });

  test('drops the bytes of read() as well', async () => {
    const file = new QemuFile(new SeekableMemory(pattern(200)), { lookAheadSize: 64 });
    await new Promise((resolve) => file.once('readable', resolve));
    await file.setOffset(150);
    assert.equal(await file.readByte(), 150);
  });

  test('does not take an answer that was under way for bytes from the new offset', async () => {
    const feed = new Feed();
    const seeks: number[] = [];
    const file = new QemuFile(
      Object.assign(feed, {
        setOffset: (offset: number) => {
          assert.equal(feed.waiting, false, 'the backend is still being asked');
          seeks.push(offset);
          return offset;
        },
      }),
    );
    const abort = new AbortController();
    const waiting = file.readBe32({ signal: abort.signal });
    await turn();
    assert.equal(feed.asked, 1);
    const seeking = file.setOffset(100);
    const next = file.readByte();
    abort.abort();
    await assert.rejects(waiting, { code: 'ECANCELED' });
    await turn();
    assert.deepEqual(seeks, []);
    feed.give(hex('eeee'));
    // The earlier bytes belong to a read from before the seek, or are dropped.
    assert.equal(await next, 0xee);
    assert.equal(await seeking, 100);
    const after = file.readByte();
    feed.give(hex('11'));
    assert.equal(await after, 0x11);
  });

  test('refuses invalid offsets, and latches nothing', async () => {
    const backend = new SeekableMemory(pattern(10));
    const file = new QemuFile(backend);
    for (const wrong of [-1, 1.5, Number.NaN, Infinity, '5', 2 ** 53]) {
      await assert.rejects(file.setOffset(wrongly(wrong)), RangeError);
      await assert.rejects(file.putBufferAt(hex('01'), wrongly(wrong)), RangeError);
      await assert.rejects(file.getBufferAt(new Uint8Array(1), wrongly(wrong)), RangeError);
    }
    await assert.rejects(file.setOffset(0.5, 'end'), RangeError);
    assert.deepEqual(backend.log, []);
    assert.equal(file.getError(), 0);
  });
});

describe('getOffset', () => {
  test('flushes, and returns the offset of the transport: after the look-ahead', async () => {
    const backend = new SeekableMemory(pattern(200));
    const file = new QemuFile(backend, { lookAheadSize: 64 });
    await file.readByte();
    file.putBe16(1);
    assert.equal(await file.getOffset(), 66);
    assert.deepEqual(backend.log, ['get 64@0', 'put 2@64', 'getOffset']);
  });
});

describe('putBufferAt and getBufferAt', () => {
  test('write after a flush and read past the look-ahead, without moving the stream', async () => {
    const backend = new SeekableMemory(pattern(200));
    const file = new QemuFile(backend, { lookAheadSize: 16 });
    file.putBe16(0xbeef);
    await file.putBufferAt(hex('c0ffee'), 100);
    assert.deepEqual(backend.log, ['put 2@0', 'putAt 3@100']);
    assert.equal(file.tellFast(), 2);
    assert.equal(file.transferred(), 5);
    const target = new Uint8Array(5);
    assert.equal(await file.getBufferAt(target, 99), 5);
    assert.deepEqual(Buffer.from(target), hex('63c0ffee67'));
    assert.equal(file.getPosition, 0);
    assert.equal(await file.readByte(), 2);
    assert.equal(await file.getBufferAt(new Uint8Array(0), 1000), 0);
  });

  test('getBufferAt continues after a short read', async () => {
    const asked: string[] = [];
    const file = new QemuFile({
      getBuffer: () => 0,
      getBufferAt: (buffer, offset) => {
        asked.push(`${buffer.length}@${offset}`);
        buffer[0] = offset;
        return 1;
      },
    });
    const target = new Uint8Array(3);
    assert.equal(await file.getBufferAt(target, 10), 3);
    assert.deepEqual(target, new Uint8Array([10, 11, 12]));
    assert.deepEqual(asked, ['3@10', '2@11', '1@12']);
  });

  test('getBufferAt at the end latches EIO and reports the bytes available', async () => {
    const file = new QemuFile(new SeekableMemory(pattern(10)));
    await assert.rejects(file.getBufferAt(new Uint8Array(8), 6), {
      code: 'EIO',
      operation: 'getBufferAt',
      position: 10,
      message: /ended: wanted 8 bytes, 4 are there/,
    });
    assert.equal(file.getError(), -5);
    await assert.rejects(file.getBufferAt(new Uint8Array(1), 0), { code: 'EIO' });
  });

  test('a write of less or more than all latches EIO', async () => {
    for (const count of [0, 2, 4]) {
      const backend = new SeekableMemory(pattern(10));
      const file = new QemuFile(backend);
      backend.misbehave.putBufferAt = () => count;
      await assert.rejects(file.putBufferAt(hex('010203'), 4), {
        code: 'EIO',
        operation: 'putBufferAt',
        position: 4,
      });
      assert.equal(file.getError(), -5);
      assert.equal(file.transferred(), 0);
    }
  });

  test('refuse a detached buffer, and latch nothing', async () => {
    const file = new QemuFile(new SeekableMemory(pattern(10)));
    const gone = new Uint8Array(4);
    structuredClone(gone.buffer, { transfer: [gone.buffer] });
    await assert.rejects(file.putBufferAt(gone, 0), TypeError);
    await assert.rejects(file.getBufferAt(gone, 0), TypeError);
    assert.equal(file.getError(), 0);
  });
});

describe('an operation of seekable backends', () => {
  const operations: readonly (readonly [string, (file: QemuFile) => Promise<unknown>])[] = [
    ['setOffset', (file) => file.setOffset(1)],
    ['getOffset', (file) => file.getOffset()],
    ['putBufferAt', (file) => file.putBufferAt(hex('0102'), 1)],
    ['getBufferAt', (file) => file.getBufferAt(new Uint8Array(2), 1)],
  ];
  for (const [name, operate] of operations) {
    test(`${name} on any other backend rejects with ESPIPE, which is not latched`, async () => {
      const file = new QemuFile(new Sink());
      await assert.rejects(operate(file), { name: 'QemuFileError', code: 'ESPIPE' });
      assert.equal(file.getError(), 0);
    });

    for (const [what, fails, code] of [
      ['answers a negative errno', () => -28, 'ENOSPC'],
      ['rejects', () => Promise.reject(new Error('no')), 'EIO'],
      ['throws', () => raise(), 'EIO'],
      ['answers NaN', () => Number.NaN, 'EIO'],
      ['answers a string', () => wrongly<number>('2'), 'EIO'],
      ['answers nothing', () => wrongly<number>(undefined), 'EIO'],
      ['answers more than is there', () => 2 ** 60, 'EIO'],
    ] as const) {
      test(`${name} that ${what} has ${code} latched`, async () => {
        const backend = new SeekableMemory(pattern(10));
        backend.misbehave[name] = fails;
        const file = new QemuFile(backend);
        await assert.rejects(operate(file), { name: 'QemuFileError', code, operation: name });
        assert.equal(file.error?.code, code);
        await assert.rejects(file.close(), { code });
      });
    }

    test(`${name} on a closed or failed file does not touch the backend`, async () => {
      const backend = new SeekableMemory(pattern(10));
      const closed = new QemuFile(backend);
      await closed.close();
      await assert.rejects(operate(closed), { code: 'ECANCELED' });
      const failed = new QemuFile(backend);
      failed.setError(-5);
      await assert.rejects(operate(failed), { code: 'EIO' });
      assert.deepEqual(backend.log, ['close', 'close']);
    });
  }

  function raise(): number {
    throw new Error('no');
  }
});

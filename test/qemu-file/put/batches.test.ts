// What leaves together: the gather list, autoFlush, write() between typed puts, cork().
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, turn, wrongly } from '../../helpers/bytes.ts';
import { Sink } from '../../helpers/transports/backends.ts';
import { BOTH, sunk } from './sunk.ts';

describe('a backend with a copyLimit', () => {
  const sizes = { stagingSize: 64, copyLimit: 16 };

  test('copies small buffers as they are put, in order, into one entry with their neighbours', async () => {
    const sink = new Sink('sync', sizes);
    const file = new QemuFile(sink);
    const page = pattern(16);
    const sent = page.toString('hex');
    file.putByte(1);
    file.putBufferAsync(page);
    page.fill(0);
    file.write(Buffer.of(2, 3));
    await file.flush();
    assert.deepEqual(sink.shape, [[19]]);
    assert.equal(sink.written.toString('hex'), `01${sent}0203`);
  });

  test('takes larger ones by reference', async () => {
    const sink = new Sink('sync', sizes);
    const file = new QemuFile(sink);
    file.putByte(1);
    file.putBufferAsync(Buffer.alloc(17, 0xaa));
    await file.flush();
    assert.deepEqual(sink.shape, [[1, 17]]);
  });

  test('releases a copied buffer once, with the one batch that holds all of it', async () => {
    const sink = new Sink('sync', sizes);
    const file = new QemuFile(sink);
    let released = 0;
    file.putBuffer(Buffer.alloc(60));
    file.putBufferAsync(Buffer.alloc(10), () => {
      released += 1;
    });
    assert.deepEqual([sink.shape, released], [[[60]], 0]);
    await file.flush();
    assert.deepEqual([sink.shape, released], [[[60], [10]], 1]);
  });

  test('releases a buffer that fills the staging area with the batch that leaves', () => {
    const sink = new Sink('sync', sizes);
    const file = new QemuFile(sink);
    let released = 0;
    for (let i = 0; i < 4; i++) {
      file.putBufferAsync(Buffer.alloc(16), () => {
        released += 1;
      });
    }
    assert.deepEqual([sink.shape, released], [[[64]], 4]);
  });

  test('releases a copied buffer once when the file fails', () => {
    const file = new QemuFile(new Sink('sync', sizes));
    let released = 0;
    const release = (): void => {
      released += 1;
    };
    file.putBufferAsync(Buffer.alloc(10), release);
    file.destroy();
    assert.equal(released, 1);
    file.putBufferAsync(Buffer.alloc(10), release);
    assert.equal(released, 2);
  });

  test('copies only buffers that fit the staging area; an invalid limit is refused', async () => {
    const sink = new Sink('sync', { stagingSize: 32, copyLimit: 4096 });
    const file = new QemuFile(sink);
    file.putBufferAsync(Buffer.alloc(33));
    file.putBufferAsync(Buffer.alloc(32));
    await file.flush();
    assert.deepEqual(sink.shape, [[33, 32]]);
    for (const copyLimit of [-1, 1.5, Number.NaN]) {
      assert.throws(() => new QemuFile(sink, { copyLimit }), RangeError);
    }
  });
});

describe('the gather list', () => {
  test('has one entry for adjacent staged bytes', async () => {
    const { sink, file } = sunk();
    file.putByte(1);
    file.putBe16(0x0203);
    file.putBe32(0x04050607);
    file.putBe64(0x08);
    file.putBuffer(hex('0a0b'));
    file.putCountedString('c');
    await file.flush();
    assert.deepEqual(sink.shape, [[19]]);
    assert.deepEqual(sink.written, hex('01 0203 04050607 0000000000000008 0a0b 0163'));
  });

  test('has one entry for buffers by reference that lie side by side, with or without onRelease', async () => {
    const { sink, file } = sunk();
    const memory = pattern(4096 * 4);
    let released = 0;
    for (let at = 0; at < 3; at += 1) {
      file.putBufferAsync(memory.subarray(at * 4096, (at + 1) * 4096));
    }
    file.putByte(7);
    for (let at = 0; at < 3; at += 1) {
      file.putBufferAsync(memory.subarray(at * 4096, (at + 1) * 4096), () => released++);
    }
    await file.flush();
    assert.deepEqual(sink.shape, [[12288, 1, 12288]]);
    assert.equal(released, 3);
  });

  test('keeps staged bytes between buffers that lie side by side in memory', async () => {
    const { sink, file } = sunk();
    const memory = pattern(20);
    file.putBufferAsync(memory.subarray(0, 10));
    file.putByte(0xaa);
    file.putBufferAsync(memory.subarray(10, 20));
    await file.flush();
    assert.deepEqual(sink.shape, [[10, 1, 10]]);
    assert.deepEqual(
      sink.written,
      Buffer.concat([memory.subarray(0, 10), hex('aa'), memory.subarray(10)]),
    );
  });

  test('has two entries for buffers with a gap, in the wrong order, or in other memory', async () => {
    const { sink, file } = sunk();
    const memory = pattern(100);
    file.putBufferAsync(memory.subarray(0, 10));
    file.putBufferAsync(memory.subarray(11, 20));
    file.putBufferAsync(memory.subarray(0, 11));
    file.putBufferAsync(new Uint8Array(10));
    await file.flush();
    assert.deepEqual(sink.shape, [[10, 9, 11, 10]]);
  });

  test('leaves when it has 64 entries: header and page in turn, a batch each 32 pages', async () => {
    const { sink, file } = sunk('sync', { autoFlush: false });
    for (let page = 0; page < 70; page += 1) {
      file.putBe64(page);
      file.putBufferAsync(Buffer.alloc(256, page));
      assert.equal(sink.calls.length, Math.floor((page + 1) / 32), `after page ${page}`);
    }
    await file.flush();
    assert.deepEqual(
      sink.shape.map((entries) => entries.length),
      [64, 64, 12],
    );
  });

  test('never has more entries than its limit, in any mix', async () => {
    for (const gatherEntries of [1, 2, 3, 64]) {
      const { sink, file } = sunk('sync', { gatherEntries, autoFlush: false });
      const parts: Buffer[] = [];
      for (let at = 0; at < 200; at += 1) {
        const part = pattern(1 + (at % 5), at);
        parts.push(part);
        // Runs of references, with a staged byte where the list has just one entry left.
        if (at % gatherEntries === gatherEntries - 1 || at % 7 === 3) file.putBuffer(part);
        else file.putBufferAsync(part);
      }
      await file.flush();
      assert.deepEqual(sink.written, Buffer.concat(parts));
      const most = Math.max(...sink.shape.map((entries) => entries.length));
      assert.ok(most <= gatherEntries, `${most} entries where ${gatherEntries} may be`);
    }
  });

  test('leaves at once when the staging area is full, without waiting for the next put', () => {
    const { sink, file } = sunk('sync', { autoFlush: false });
    for (let at = 0; at < 8191; at += 1) file.putBe32(at);
    assert.equal(sink.calls.length, 0);
    file.putBe32(8191);
    assert.deepEqual(sink.shape, [[32768]]);
    assert.equal(sink.written.readUInt32BE(32764), 8191);
    file.putBe32(1);
    assert.equal(sink.calls.length, 1);
  });

  test('never splits an integer over two batches', async () => {
    const { sink, file } = sunk();
    file.putBuffer(pattern(32767));
    file.putBe32(0x01020304);
    await file.flush();
    assert.deepEqual(sink.shape, [[32767], [4]]);
    assert.deepEqual(sink.written, Buffer.concat([pattern(32767), hex('01020304')]));
  });

  test('has the sizes of the options, else of the backend, else of QEMU', async () => {
    const small = { stagingSize: 16, gatherEntries: 4 };
    for (const [sizes, options, shape] of [
      [{}, small, [[16], [4]]],
      [small, {}, [[16], [4]]],
      [small, { stagingSize: 64 }, [[20]]],
      [small, { stagingSize: undefined }, [[16], [4]]],
    ] as const) {
      const sink = new Sink('sync', sizes);
      const file = new QemuFile(sink, wrongly(options));
      for (let at = 0; at < 5; at += 1) file.putBe32(at);
      await file.flush();
      assert.deepEqual(sink.shape, shape);
    }
  });

  test('passes the position of each batch to the backend', async () => {
    const { sink, file } = sunk('async');
    file.putBe32(1);
    await file.flush();
    file.putBuffer(pattern(40_000));
    await file.flush();
    file.putBufferAsync(pattern(10));
    await file.flush();
    assert.deepEqual(
      sink.calls.map((call) => call.position),
      [0, 4, 32772, 40_004],
    );
  });
});

describe('autoFlush', () => {
  test('sends puts at the end of the tick, together', async () => {
    const { sink, file } = sunk();
    file.putByte(1);
    file.putByte(2);
    assert.equal(sink.calls.length, 0);
    await turn();
    file.putByte(3);
    await turn();
    assert.deepEqual(sink.shape, [[2], [1]]);
  });

  test('sends puts that follow a flush in the same tick', async () => {
    const { sink, file } = sunk();
    file.putByte(1);
    void file.flush();
    file.putByte(2);
    await turn();
    assert.deepEqual(sink.written, hex('0102'));
  });

  test('continues while a batch is in flight: puts of that time are sent together', async () => {
    const { sink, file } = sunk('manual');
    file.putByte(1);
    await turn();
    file.putByte(2);
    await turn();
    file.putByte(3);
    await turn();
    assert.deepEqual(sink.shape, [[1]]);
    sink.take();
    await turn();
    assert.deepEqual(sink.shape, [[1], [2]]);
    assert.equal(sink.overlapped, false);
  });

  test('false leaves bytes where they are until a flush', async () => {
    const { sink, file } = sunk('sync', { autoFlush: false });
    file.putByte(1);
    file.write(hex('02'));
    await turn();
    assert.equal(sink.calls.length, 0);
    await file.flush();
    assert.deepEqual(sink.written, hex('0102'));
  });

  test('false: a flush that waited for the backend takes no more than it was asked for', async () => {
    const { sink, file } = sunk('manual', { autoFlush: false });
    file.putByte(1);
    void file.flush();
    file.putByte(2);
    const second = file.flush();
    file.putBuffer(pattern(32767));
    file.putByte(3);
    sink.take();
    await turn();
    sink.take();
    await second;
    await turn();
    assert.deepEqual(sink.shape, [[1], [32768]]);
    assert.equal(file.writableLength, 1);
  });

  for (const [name, leave] of [
    ['flush', (file: QemuFile) => file.flush()],
    ['tell', (file: QemuFile) => file.tell()],
    ['close', (file: QemuFile) => file.close()],
    ['end', (file: QemuFile) => new Promise<void>((resolve) => file.end(resolve))],
    ['asyncDispose', (file: QemuFile) => file[Symbol.asyncDispose]()],
  ] as const) {
    test(`false: ${name} has them leave`, async () => {
      const { sink, file } = sunk('async', { autoFlush: false });
      file.putByte(1);
      file.putBufferAsync(hex('0203'));
      await leave(file);
      assert.deepEqual(sink.written, hex('010203'));
    });
  }
});

describe('write() and typed puts', () => {
  for (const answering of BOTH) {
    test(`keep their order in any mix and any sizes (${answering})`, async () => {
      const { sink, file } = sunk(answering);
      const expected: Buffer[] = [];
      for (let at = 0; at < 300; at += 1) {
        const bytes = pattern([1, 100, 1024, 1025, 5000][at % 5] ?? 1, at);
        expected.push(bytes, Buffer.of(at & 0xff));
        if (at % 3 === 0) file.putBuffer(bytes);
        else if (at % 3 === 1) file.write(bytes);
        else file.putBufferAsync(bytes);
        file.putByte(at & 0xff);
        if (at % 50 === 0) await turn();
      }
      await file.flush();
      assert.deepEqual(sink.written, Buffer.concat(expected));
      assert.equal(sink.overlapped, false);
    });
  }

  test('keep their order while a batch is in flight', async () => {
    const { sink, file } = sunk('manual');
    file.putByte(1);
    const first = file.flush();
    file.write(hex('02'));
    file.putByte(3);
    file.write(pattern(2000));
    file.putByte(4);
    sink.take();
    await first;
    await turn();
    sink.take();
    await file.flush();
    assert.deepEqual(sink.written, Buffer.concat([hex('010203'), pattern(2000), hex('04')]));
  });

  test('call back only after the backend took the bytes, in order', async () => {
    const { sink, file } = sunk('manual');
    const log: string[] = [];
    file.write(pattern(2000), () => log.push('first'));
    file.write('text', 'utf8', () => log.push('second'));
    void file.flush().then(() => log.push('flushed'));
    await turn();
    assert.equal(log.length, 0);
    file.write(hex('00'), () => log.push('third'));
    await turn();
    sink.take();
    await turn();
    assert.equal(log.toSorted().join(), 'first,flushed,second');
    assert.ok(log.indexOf('first') < log.indexOf('second'));
    sink.take();
    await turn();
    assert.equal(log[3], 'third');
  });

  test('call back for a chunk although a flush of later bytes waits still', async () => {
    const { sink, file } = sunk('manual', { gatherEntries: 1 });
    const log: string[] = [];
    file.write(pattern(2000), () => log.push('first'));
    file.putBufferAsync(pattern(2000));
    void file.flush().then(() => log.push('flushed'));
    await turn();
    sink.take();
    await turn();
    assert.deepEqual(log, ['first']);
    sink.take();
    await turn();
    assert.deepEqual(log, ['first', 'flushed']);
  });

  test('pass the error of the backend to the callback', async () => {
    const { sink, file } = sunk('manual');
    const seen: unknown[] = [];
    file.write(pattern(2000), (error) => seen.push(error));
    await turn();
    sink.fail(Object.assign(new Error('broken pipe'), { code: 'EPIPE' }));
    await turn();
    file.write(pattern(10), (error) => seen.push(error));
    await turn();
    assert.deepEqual(seen, [file.error, file.error]);
    assert.equal(file.error?.code, 'EPIPE');
  });

  test('take strings in the encoding given', async () => {
    const { sink, file } = sunk();
    file.write('ff00', 'hex');
    file.write('é');
    file.write('é', 'latin1');
    file.end('!');
    await new Promise((resolve) => file.once('finish', resolve));
    assert.deepEqual(sink.written, hex('ff00 c3a9 e9 21'));
  });

  test('a large chunk is not copied, a small one can be reused after the callback', async () => {
    const { sink, file } = sunk();
    const large = pattern(70_000);
    file.write(large);
    await file.flush();
    assert.equal(sink.calls[0]?.buffers[0]?.buffer, large.buffer);
  });

  test('after the end throw EBADF for puts, and stage nothing', async () => {
    const { sink, file } = sunk('async');
    file.putByte(1);
    file.end();
    assert.throws(() => file.putByte(2), { code: 'EBADF' });
    assert.throws(() => file.putBufferAsync(hex('02')), { code: 'EBADF' });
    await file.close();
    assert.deepEqual(sink.written, hex('01'));
  });

  test('after the end throw EBADF although bytes still wait for the backend', async () => {
    const { sink, file } = sunk('manual');
    file.putByte(1);
    void file.flush();
    file.putByte(2);
    file.end();
    assert.throws(() => file.putByte(3), { code: 'EBADF' });
    sink.take();
    await turn();
    sink.take();
    await file.close();
    assert.deepEqual(sink.written, hex('0102'));
  });
});

describe('cork', () => {
  test('holds back the flush at the end of the tick until the last uncork', async () => {
    const { sink, file } = sunk();
    file.cork();
    file.cork();
    assert.equal(file.writableCorked, 2);
    file.putByte(1);
    file.write(hex('02'));
    await turn();
    file.uncork();
    await turn();
    assert.equal(sink.calls.length, 0);
    file.putByte(3);
    file.uncork();
    assert.deepEqual(sink.written, hex('010203'));
    assert.equal(file.writableCorked, 0);
    file.uncork();
    assert.equal(file.writableCorked, 0);
    file.putByte(4);
    await turn();
    assert.deepEqual(sink.shape, [[3], [1]]);
  });

  test('does not hold back a flush that is asked for, nor a full staging area', async () => {
    const { sink, file } = sunk();
    file.cork();
    file.putByte(1);
    await file.flush();
    assert.deepEqual(sink.shape, [[1]]);
    file.putBuffer(pattern(32768));
    assert.deepEqual(sink.shape, [[1], [32768]]);
  });

  test('ends with end()', async () => {
    const { sink, file } = sunk();
    file.cork();
    file.putByte(1);
    await new Promise<void>((resolve) => file.end(resolve));
    assert.deepEqual(sink.written, hex('01'));
    assert.equal(file.writableCorked, 0);
  });
});

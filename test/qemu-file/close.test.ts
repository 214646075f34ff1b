// How a file ends: close(), end(), shutdown(), its signal; its descriptor and modes.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFileError } from '../../lib/contract/errors.ts';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, turn, wrongly } from '../helpers/bytes.ts';
import { countedSignal } from '../helpers/counted-signal.ts';
import { broken } from '../helpers/errors.ts';
import { type Answering, Feed, Sink, Source } from '../helpers/transports/backends.ts';

describe('close()', () => {
  test('flushes, closes the backend once without an error, and returns 0', async () => {
    for (const answering of ['sync', 'async'] as const) {
      const sink = new Sink(answering);
      const file = new QemuFile(sink, { autoFlush: false });
      file.putBuffer(pattern(100_000));
      const first = file.close();
      assert.equal(file.close(), first);
      assert.equal(await first, 0);
      await file[Symbol.asyncDispose]();
      file.destroy(new Error('too late'));
      await turn();
      assert.equal(sink.written.length, 100_000);
      assert.deepEqual(sink.closes, [undefined]);
      assert.equal(file.error, null);
      assert.equal(file.destroyed, true);
    }
  });

  test('returns a positive value of the backend, synchronous or not', async () => {
    for (const answer of [7, Promise.resolve(7)]) {
      const writer = new QemuFile({ writevBuffer: () => 0, close: () => answer });
      assert.equal(await writer.close(), 7);
      const reader = new QemuFile({ getBuffer: () => 0, close: () => answer });
      assert.equal(await reader.close(), 7);
      const both = new QemuFile({ getBuffer: () => 0, writevBuffer: () => 0, close: () => answer });
      assert.equal(await both.close(), 7);
    }
    assert.equal(await new QemuFile({}).close(), 0);
  });

  test('rejects with an error of closing', async () => {
    const cause = broken('ENOSPC');
    for (const close of [
      () => -28,
      () => Promise.resolve(-28),
      () => Promise.reject(cause),
      (): number => {
        throw cause;
      },
    ]) {
      for (const ops of [
        { getBuffer: () => 0 },
        { writevBuffer: () => 0 },
        { getBuffer: () => 0, writevBuffer: () => 0 },
      ]) {
        const file = new QemuFile({ ...ops, close });
        const expected = { name: 'QemuFileError', code: 'ENOSPC', operation: 'close' };
        await assert.rejects(file.close(), expected);
        assert.equal(file.error?.code, 'ENOSPC');
      }
    }
  });

  test('reports the earlier error, and still closes', async () => {
    for (const answering of ['sync', 'async'] as const) {
      const sink = new Sink(answering);
      sink.closeAnswer = -28;
      sink.misbehave = () => (answering === 'sync' ? -32 : Promise.resolve(-32));
      const file = new QemuFile(sink);
      file.putByte(1);
      await assert.rejects(file.close(), { code: 'EPIPE' });
      assert.deepEqual(sink.closes, [file.error]);
    }
  });

  test('waits for what end() has begun', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink);
    file.putByte(1);
    file.end();
    const closed = file.close();
    await turn();
    assert.equal(sink.closes.length, 0);
    sink.take();
    assert.equal(await closed, 0);
    assert.deepEqual(sink.closes, [undefined]);
    assert.equal(file.error, null);
  });

  test('waits for what end() has begun on a file of both directions', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(
      Object.assign(sink, { getBuffer: () => new Promise<number>(() => {}) }),
    );
    file.putByte(1);
    file.end();
    await turn();
    const closed = file.close();
    sink.take();
    assert.equal(await closed, 0);
    assert.deepEqual(sink.closes, [undefined]);
  });

  test('given up by its signal rejects at once, although the backend does not close', async () => {
    for (const answering of ['sync', 'manual'] as const) {
      const sink = new Sink(answering);
      const file = new QemuFile(
        Object.assign(sink, { close: () => new Promise<number>(() => {}) }),
      );
      file.putByte(1);
      const controller = new AbortController();
      const closing = file.close({ signal: controller.signal });
      await turn();
      controller.abort();
      await assert.rejects(closing, { code: 'ECANCELED', operation: 'close' });
    }
  });

  test('ends the waits for bytes with ECANCELED', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    const reading = file.readBe32();
    await file.close();
    await assert.rejects(reading, { code: 'ECANCELED' });
    assert.equal(feed.closes.length, 1);
  });

  test('returns unconsumed bytes to a backend that accepts them, once, in order', async () => {
    for (const hands of [false, true]) {
      const log: string[] = [];
      const ops = Object.assign(new Source([pattern(10), pattern(10, 10)], { hands }), {
        unread: (chunks: readonly Uint8Array[]) => log.push(Buffer.concat(chunks).toString('hex')),
        close: () => void log.push('close'),
      });
      const file: QemuFile = new QemuFile(ops);
      await file.fill(15);
      await file.readSkip(5);
      // Some of it is in the stream's own hands.
      assert.deepEqual(file.read(2), hex('0506'));
      await turn();
      await file.close();
      assert.deepEqual(log, [pattern(13, 7).toString('hex'), 'close']);
      assert.equal(file.getPosition, 7);
    }
  });

  test('returns no bytes after an error, nor if there are none', async () => {
    for (const use of [
      (file: QemuFile) => file.setError(-5),
      (file: QemuFile) => void file.destroy(),
      (file: QemuFile) => void file.skip(10),
    ]) {
      const unread: unknown[] = [];
      const source = new Source([pattern(10)]);
      const file = new QemuFile(
        Object.assign(source, { unread: (chunks: unknown) => unread.push(chunks) }),
      );
      await file.fill(10);
      use(file);
      await file.close().catch(() => 0);
      assert.equal(unread.length, 0);
      assert.equal(source.closes.length, 1);
    }
  });

  test('closes a backend that fails to take bytes back', async () => {
    const source = new Source([pattern(10)]);
    const unread = (): void => {
      throw broken('ENOBUFS', 'no room');
    };
    const file = new QemuFile(Object.assign(source, { unread }));
    await file.fill(10);
    await assert.rejects(file.close(), { code: 'ENOBUFS', operation: 'unread' });
    assert.deepEqual(source.closes, [file.error]);
  });

  test('of a reader closes it without an error, read to the end or not', async () => {
    const source = new Source([pattern(10), pattern(10)]);
    const file = new QemuFile(source);
    await file.readByte();
    assert.equal(await file.close(), 0);
    assert.deepEqual(source.closes, [undefined]);
  });
});

describe('the error given to the close of a backend', () => {
  test('is there when the file failed, or was destroyed before its end', async () => {
    const uses: readonly (readonly [string, Answering, (file: QemuFile) => void])[] = [
      ['an error was latched', 'sync', (file) => file.setError(-5)],
      ['it was destroyed with an error', 'sync', (file) => file.destroy(new Error('no'))],
      ['it was destroyed with bytes staged', 'sync', (file) => file.putByte(1) ?? file.destroy()],
      [
        'it was destroyed with bytes in flight',
        'manual',
        (file) => {
          file.putByte(1);
          void file.flush();
          file.destroy();
        },
      ],
      [
        'it was destroyed while ending',
        'manual',
        (file) => {
          file.putByte(1);
          file.end();
          file.destroy();
        },
      ],
    ];
    for (const [what, answering, use] of uses) {
      const sink = new Sink(answering);
      const file = new QemuFile(sink);
      use(file);
      await turn();
      assert.equal(sink.closes.length, 1, what);
      assert.ok(sink.closes[0] instanceof QemuFileError, what);
    }
  });

  test('is not there when the stream is whole', async () => {
    const uses: readonly (readonly [string, (file: QemuFile) => unknown])[] = [
      ['it was closed', (file) => file.putByte(1) ?? file.close()],
      ['it was ended', (file) => file.putByte(1) ?? file.end()],
      ['it was closed with nothing put', (file) => file.close()],
      ['it was destroyed with nothing put', (file) => file.destroy()],
    ];
    for (const [what, use] of uses) {
      const sink = new Sink();
      use(new QemuFile(sink));
      await turn();
      assert.deepEqual(sink.closes, [undefined], what);
    }
  });
});

describe('end()', () => {
  test('half-closes a duplex file after the last byte, and gets continue', async () => {
    const sink = new Sink('async');
    const feed = new Feed();
    const file = new QemuFile(Object.assign(sink, { getBuffer: () => feed.getBuffer() }));
    file.putByte(1);
    await new Promise<void>((resolve) => file.end(resolve));
    assert.deepEqual(sink.written, hex('01'));
    assert.deepEqual(sink.shutDowns, [[false, true]]);
    assert.equal(sink.closes.length, 0);
    const answer = file.readByte();
    feed.give(hex('07'));
    assert.equal(await answer, 7);
    assert.equal(await file.close(), 0);
    assert.deepEqual(sink.closes, [undefined]);
  });

  test('reports that the half-close failed', async () => {
    for (const shutDown of [
      () => -32,
      () => Promise.reject(broken('EPIPE')),
      (): number => {
        throw broken('EPIPE');
      },
    ]) {
      const file = new QemuFile({ getBuffer: () => 0, writevBuffer: () => 1, shutDown });
      file.putByte(1);
      file.end();
      await new Promise((resolve) => file.once('close', resolve));
      assert.equal(file.error?.code, 'EPIPE');
      assert.ok(file.errored instanceof QemuFileError);
      assert.equal(file.writableFinished, false);
    }
  });
});

describe('shutdown()', () => {
  test('latches EIO before the backend is shut, wakes every wait, and returns 0', async () => {
    const sink = new Sink('manual');
    const seen: number[] = [];
    const ops = Object.assign(sink, {
      getBuffer: () => new Promise<number>(() => {}),
      shutDown: (read: boolean, write: boolean) => {
        assert.deepEqual([read, write], [true, true]);
        seen.push(file.getError(), sink.closes.length);
        return 0;
      },
    });
    const file: QemuFile = new QemuFile(ops);
    file.setRateLimit(1);
    file.putBe32(1);
    const waits = [file.flush(), file.fill(1), file.readByte(), file.drain(), file.tell()];
    assert.equal(await file.shutdown(), 0);
    assert.deepEqual(seen, [-5, 0]);
    for (const wait of waits) {
      await assert.rejects(wait, { code: 'EIO', operation: 'shutdown' });
    }
    await assert.rejects(file.close(), { code: 'EIO' });
    assert.deepEqual(sink.closes, [file.error]);
    assert.equal(sink.calls.length, 1);
  });

  test('wakes the waits before the backend has completed', async () => {
    const feed = new Feed();
    let shut: (value: number) => void = () => {};
    const answer = new Promise<number>((resolve) => {
      shut = resolve;
    });
    const file = new QemuFile(Object.assign(feed, { shutDown: () => answer }));
    const reading = file.readByte();
    const shutting = file.shutdown();
    await assert.rejects(reading, { code: 'EIO', operation: 'shutdown' });
    feed.give(hex('00'));
    await turn();
    assert.throws(() => file.getByte(), { code: 'EIO' });
    assert.equal(feed.closes.length, 0);
    shut(0);
    assert.equal(await shutting, 0);
    assert.equal(feed.closes.length, 1);
  });

  test('flushes nothing', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    file.putByte(1);
    await file.shutdown();
    await turn();
    assert.equal(sink.calls.length, 0);
  });

  test('returns -ENOSYS if the backend cannot, and still latches and closes', async () => {
    const closes: number[] = [];
    const file = new QemuFile({ getBuffer: () => 0, close: () => void closes.push(1) });
    assert.equal(await file.shutdown(), -38);
    assert.equal(file.getError(), -5);
    await assert.rejects(file.close(), { code: 'EIO' });
    assert.equal(closes.length, 1);
  });

  test('returns the errno of a backend that fails, synchronously or not', async () => {
    for (const shutDown of [
      () => -107,
      () => Promise.resolve(-107),
      () => Promise.reject(broken('ENOTCONN')),
      (): number => {
        throw broken('ENOTCONN');
      },
    ]) {
      const file = new QemuFile({ getBuffer: () => 0, shutDown });
      assert.equal(await file.shutdown(), -107);
      assert.equal(file.getError(), -5);
    }
  });

  test('keeps an earlier error', async () => {
    const file = new QemuFile(new Sink());
    file.setError(-32);
    await file.shutdown();
    assert.equal(file.getError(), -32);
  });

  test('of a closed file does not touch the backend again', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    await file.close();
    assert.equal(await file.shutdown(), 0);
    assert.deepEqual(sink.shutDowns, []);
  });
});

describe('the signal of a file', () => {
  test('latches ECANCELED and closes the backend when it aborts', async () => {
    const controller = new AbortController();
    const sink = new Sink('manual');
    const file = new QemuFile(sink, { signal: controller.signal });
    file.putByte(1);
    const flushed = file.flush();
    const reason = new Error('enough');
    controller.abort(reason);
    await assert.rejects(flushed, { code: 'ECANCELED', cause: reason });
    assert.equal(file.error?.code, 'ECANCELED');
    assert.deepEqual(sink.closes, [file.error]);
  });

  test('that was aborted before does so at once', async () => {
    const file = new QemuFile(new Sink(), { signal: AbortSignal.abort() });
    await assert.rejects(file.close(), { code: 'ECANCELED' });
  });

  test('and those of flush, drain and close have no listener left afterwards', async () => {
    const { signal, listeners } = countedSignal();
    for (const fails of [false, true]) {
      const sink = new Sink('async', { highWaterMark: 1 });
      if (fails) sink.misbehave = () => Promise.resolve(-5);
      const file = new QemuFile(sink, { signal });
      assert.equal(listeners(), 1);
      file.putByte(1);
      const waits = [file.flush({ signal }), file.tell({ signal }), file.drain({ signal })];
      assert.ok(listeners() > 1);
      await Promise.allSettled([...waits, file.close({ signal })]);
      await turn();
      assert.equal(listeners(), 0);
    }
  });

  test('has no effect once the file is closed', async () => {
    const controller = new AbortController();
    const file = new QemuFile(new Sink(), { signal: controller.signal });
    await file.close();
    controller.abort();
    assert.equal(file.error, null);
  });
});

describe('the modes, the descriptor and the directions', () => {
  test('modeIsNotValid is false for exactly "rb" and "wb"', () => {
    assert.equal(QemuFile.modeIsNotValid('rb'), false);
    assert.equal(QemuFile.modeIsNotValid('wb'), false);
    for (const mode of ['r', 'w', 'rw', 'rb+', '', undefined, null, 1]) {
      assert.equal(QemuFile.modeIsNotValid(mode), true);
    }
  });

  test('getFd is that of the backend, -1 without one', () => {
    assert.equal(new QemuFile({}).getFd(), -1);
    assert.equal(new QemuFile({ getBuffer: () => 0, getFd: () => 7 }).getFd(), 7);
  });

  test('setBlocking is passed on', () => {
    const calls: boolean[] = [];
    const file = new QemuFile({ getBuffer: () => 0, setBlocking: (on) => calls.push(on) });
    file.setBlocking(true);
    file.setBlocking(false);
    assert.deepEqual(calls, [true, false]);
    new QemuFile({}).setBlocking(true);
  });

  test('getReturnPath returns a file, or null', async () => {
    const withReturnPath = (getReturnPath: () => QemuFile | null | undefined): QemuFile =>
      new QemuFile({ getBuffer: () => 0, getReturnPath });
    assert.equal(new QemuFile({}).getReturnPath(), null);
    assert.equal(withReturnPath(() => null).getReturnPath(), null);
    assert.equal(withReturnPath(() => undefined).getReturnPath(), null);
    const back = new Sink();
    const file = new QemuFile(
      Object.assign(new Source([hex('0102')]), { getReturnPath: () => back }),
      { digest: 'xxh64', maxBandwidth: 5 },
    );
    const path = file.getReturnPath();
    assert.ok(path !== null);
    assert.equal(path.isWritable(), true);
    assert.equal(path.maxBandwidth, 0);
    assert.equal(path.putDigest, 'ef46db3751d8e999');
    path.putByte(1);
    path.setError(-5);
    assert.equal(file.getError(), 0);
    assert.equal(await file.readByte(), 1);
    const ready = new QemuFile({});
    assert.equal(withReturnPath(() => ready).getReturnPath(), ready);
  });

  test('an invalid backend table and invalid sizes are refused', () => {
    for (const ops of [undefined, null, 'tcp:', 7]) {
      assert.throws(() => new QemuFile(wrongly(ops)), TypeError);
    }
    for (const name of [
      'stagingSize',
      'gatherEntries',
      'highWaterMark',
      'lookAheadSize',
      'maxPendingBytes',
      'maxLookAhead',
    ]) {
      for (const size of [0, -1, 1.5, Number.NaN, Infinity, '5']) {
        assert.throws(() => new QemuFile(new Sink(), { [name]: size }), RangeError, name);
      }
    }
    for (const rate of [-1, Number.NaN, Infinity]) {
      assert.throws(() => new QemuFile(new Sink(), { maxBandwidth: rate }), RangeError);
    }
  });
});

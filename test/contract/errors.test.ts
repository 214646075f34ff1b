import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { PassThrough } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { codeOf, errnoOf, QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, turn, wrongly } from '../helpers/bytes.ts';
import { countedSignal } from '../helpers/counted-signal.ts';
import { type Answering, Feed, Sink, Source } from '../helpers/transports/backends.ts';

function broken(code: string, message = 'the other end is gone'): Error {
  return Object.assign(new Error(message), { code });
}

describe('the latch', () => {
  test('keeps the first error and ignores all later ones', () => {
    const file = new QemuFile(new Sink());
    file.setError(-32);
    file.setError(-5);
    file.setError(new Error('later'));
    assert.equal(file.getError(), -32);
    assert.equal(file.error?.code, 'EPIPE');
  });

  test('setError takes a negative errno, 0 for nothing, or an error; a positive one is a RangeError', () => {
    const file = new QemuFile(new Sink());
    file.setError(0);
    file.setError(-0);
    assert.equal(file.getError(), 0);
    for (const wrong of [5, 1.5, -1.5, Number.NaN, Infinity, -Infinity]) {
      assert.throws(() => file.setError(wrong), RangeError);
    }
    assert.equal(file.destroyed, false);
    const cause = new Error('why');
    file.setError(-28, cause);
    assert.equal(file.getError(), -28);
    assert.equal(file.error?.code, 'ENOSPC');
    assert.equal(file.error.cause, cause);
    assert.match(file.error.message, /^ENOSPC: setError: why at byte 0/);
  });

  test('setError keeps a QemuFileError as it is, and the errno code of any other error', () => {
    const own = new QemuFileError('ETIMEDOUT', 'too late', { position: 7 });
    const one = new QemuFile(new Sink());
    one.setError(own);
    assert.equal(one.error, own);
    const two = new QemuFile(new Sink());
    const cause = broken('ECONNRESET');
    two.setError(cause);
    assert.equal(two.error?.code, 'ECONNRESET');
    assert.equal(two.error.cause, cause);
    assert.equal(two.getError(), -104);
  });

  test('has puts do nothing from then on: nothing queued, nothing counted, nothing thrown', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    file.putByte(1);
    file.setError(-5);
    file.putByte(2);
    file.putBe64(3n);
    file.putBuffer(pattern(100_000));
    file.putBufferAsync(pattern(10));
    file.putCountedString('text');
    assert.equal(file.putCompressionData(pattern(10)), -1);
    assert.equal(file.write('more'), false);
    await turn();
    assert.equal(sink.calls.length, 0);
    assert.equal(file.tellFast(), 0);
    assert.equal(file.rateLimitExceeded(), true);
    // A value that does not fit is still the caller's mistake.
    assert.throws(() => file.putByte(256), RangeError);
  });

  test('rejects every pending and later wait with the same error', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(
      Object.assign(sink, { getBuffer: () => new Promise<number>(() => {}) }),
    );
    file.setRateLimit(1);
    file.putBe32(1);
    const before = [
      file.flush(),
      file.fill(1),
      file.readBe32(),
      file.drain(),
      file.atEnd(),
      file.tell(),
    ];
    file.setError(-5);
    const after = [
      file.flush(),
      file.fill(1),
      file.readBe32(),
      file.drain(),
      file.atEnd(),
      file.tell(),
    ];
    for (const promise of [...before, ...after, file.close(), file.close()]) {
      await assert.rejects(promise, (error) => error === file.error);
    }
    assert.equal(sink.closes.length, 1);
  });

  test('destroys the stream: "error" is emitted once, then "close"', async () => {
    const file = new QemuFile(new Sink());
    const events: unknown[] = [];
    file.on('error', (error) => events.push(error));
    file.setError(-5);
    file.setError(-6);
    await new Promise<void>((resolve) => file.once('close', resolve));
    assert.deepEqual(events, [file.error]);
    assert.equal(file.destroyed, true);
    assert.equal(file.errored, file.error);
  });

  test('firstError returns the error of the first file that has one', () => {
    const good = new QemuFile({});
    const bad = new QemuFile({});
    bad.setError(-5);
    const worse = new QemuFile({});
    worse.setError(-32);
    assert.equal(QemuFile.firstError(good, null), null);
    assert.equal(QemuFile.firstError(undefined, bad), bad.error);
    assert.equal(QemuFile.firstError(good, worse), worse.error);
    assert.equal(QemuFile.firstError(bad, worse), bad.error);
  });
});

describe('destroy(error)', () => {
  test('latches the error of the user as the cause, and emits it as it is', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    const mine = new Error('changed my mind');
    const emitted = new Promise((resolve) => file.once('error', resolve));
    file.destroy(mine);
    assert.equal(await emitted, mine);
    assert.equal(file.error?.code, 'EIO');
    assert.equal(file.error.cause, mine);
    await assert.rejects(file.close(), (error) => error === file.error);
    assert.deepEqual(sink.closes, [file.error]);
  });

  test('without one latches nothing; waits end with ECANCELED and puts do nothing', async () => {
    const file = new QemuFile(
      Object.assign(new Sink('manual'), { getBuffer: () => new Feed().getBuffer() }),
    );
    file.setRateLimit(1);
    file.putBe32(1);
    const waits = [file.flush(), file.readByte(), file.drain()];
    file.destroy();
    for (const wait of [...waits, file.flush(), file.readByte(), file.drain()]) {
      await assert.rejects(wait, { code: 'ECANCELED' });
    }
    file.putByte(1);
    assert.throws(() => file.getByte(), { code: 'ECANCELED' });
    assert.equal(file.error, null);
    assert.equal(file.getError(), 0);
    assert.equal(file.rateLimitExceeded(), true);
    assert.equal(await file.close(), 0);
  });
});

describe('a failure that no caller awaits', () => {
  test('is neither an unhandled rejection nor an uncaught exception', () => {
    const lib = fileURLToPath(new URL('../../lib/qemu-file/qemu-file.ts', import.meta.url));
    const script = `
      import { QemuFile } from ${JSON.stringify(lib)};
      const problems = [];
      process.on('unhandledRejection', (error) => problems.push('rejection ' + error));
      process.on('uncaughtException', (error) => problems.push('exception ' + error));
      const fails = [() => -5, () => Promise.reject(), () => { throw undefined; }, () => 2 ** 40, () => Object.create(null)];
      for (const fail of fails) {
        for (const sizes of [{}, { digest: 'xxh64' }, { maxBandwidth: 1e6 }]) {
          const file = new QemuFile({
            writevBuffer: fail, getBuffer: fail, close: fail, shutDown: fail,
            setOffset: fail, getOffset: fail, putBufferAt: fail, getBufferAt: fail,
          }, sizes);
          for (const use of [
            () => file.putBufferAsync(new Uint8Array(10), () => { throw new Error('release'); }),
            () => file.write('text'), () => file.write('text', () => {}),
            () => file.flush(), () => file.tell(), () => file.drain(), () => file.fill(4), () => file.atEnd(),
            () => file.readByte(), () => file.readBuffer(4), () => file.readBuffer(new Uint8Array(9)),
            () => file.readBuffer(-1), () => file.readBuffer(null), () => file.readCountedString(),
            () => file.readSkip(9), () => file.readSkip(-1), () => file.read(), () => file.resume(),
            () => file.setOffset(1), () => file.setOffset(-1), () => file.getOffset(),
            () => file.putBufferAt(new Uint8Array(4), 0), () => file.getBufferAt(new Uint8Array(4), 0),
            () => file.shutdown(), () => file.end(), () => file.close(), () => file.destroy(new Error('d')),
          ]) use();
        }
        for (const use of ['flush', 'tell', 'drain', 'atEnd', 'readByte', 'getOffset', 'shutdown', 'close', 'end', 'resume']) {
          new QemuFile({ writevBuffer: fail, getBuffer: fail, close: fail, shutDown: fail })[use]();
        }
      }
      new QemuFile({ writevBuffer: fails[0] }, { signal: AbortSignal.abort() });
      setTimeout(() => { console.log(problems.join() || 'quiet'); }, 100);
    `;
    const { stdout, stderr } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '--eval', script],
      { encoding: 'utf8', timeout: 300_000 },
    );
    assert.equal(stderr, '');
    assert.equal(stdout, 'quiet\n');
  });
});

describe('pipeline()', () => {
  test('into a file reports the error of its backend', async () => {
    const sink = new Sink('async');
    sink.misbehave = () => Promise.reject(broken('ENOSPC'));
    const source = new PassThrough();
    source.end(pattern(5000));
    const file = new QemuFile(sink);
    await assert.rejects(pipeline(source, file), { name: 'QemuFileError', code: 'ENOSPC' });
    await assert.rejects(file.close(), { code: 'ENOSPC' });
    assert.deepEqual(sink.closes, [file.error]);
  });

  test('into a file reports an error of closing, though all bytes were taken', async () => {
    const sink = new Sink();
    sink.closeAnswer = -28;
    const source = new PassThrough();
    source.end(pattern(5000));
    const file = new QemuFile(sink);
    await assert.rejects(pipeline(source, file), { name: 'QemuFileError', code: 'ENOSPC' });
    assert.equal(sink.written.length, 5000);
  });

  test('out of a file reports the error of its backend', async () => {
    const feed = new Feed();
    const file = new QemuFile(feed);
    const done = pipeline(file, new PassThrough().resume());
    await turn();
    feed.give(pattern(100));
    await turn();
    feed.fail(broken('ECONNRESET'));
    await assert.rejects(done, { name: 'QemuFileError', code: 'ECONNRESET', position: 100 });
  });

  test('that fails elsewhere closes the backend with an error', async () => {
    const sink = new Sink();
    const source = new PassThrough();
    const file = new QemuFile(sink);
    const done = pipeline(source, file);
    source.write('some');
    await turn();
    source.destroy(new Error('upstream'));
    await assert.rejects(done, { message: 'upstream' });
    await assert.rejects(file.close(), { name: 'QemuFileError' });
    assert.equal(sink.closes.length, 1);
    assert.ok(sink.closes[0] instanceof QemuFileError);
  });
});

describe('a backend that does not take its bytes', () => {
  const cases: readonly (readonly [string, (length: number) => unknown, string])[] = [
    ['answers less', (length) => length - 1, 'EIO'],
    ['answers 0', () => 0, 'EIO'],
    ['answers more', (length) => length + 1, 'EIO'],
    ['answers NaN', () => Number.NaN, 'EIO'],
    ['answers a fraction', () => 3.5, 'EIO'],
    ['answers undefined', () => undefined, 'EIO'],
    ['answers null', () => null, 'EIO'],
    ['answers its count as a string', (length) => String(length), 'EIO'],
    ['answers an object without prototype', () => Object.create(null) as unknown, 'EIO'],
    ['answers a symbol', () => Symbol('all'), 'EIO'],
    ['answers a negative errno', () => -32, 'EPIPE'],
    ['answers -EAGAIN', () => -11, 'EAGAIN'],
    ['answers an errno this system does not know', () => -99_999, 'EIO'],
  ];
  for (const [what, answer, code] of cases) {
    for (const answering of ['sync', 'async'] as const) {
      test(`but ${what} (${answering}) has ${code} latched, with the position`, async () => {
        const sink = new Sink(answering);
        const file = new QemuFile(sink);
        file.putBe32(1);
        await file.flush();
        sink.misbehave = (length) =>
          wrongly(answering === 'sync' ? answer(length) : Promise.resolve(answer(length)));
        file.putBe64(2);
        file.putBufferAsync(pattern(2000));
        const error = { name: 'QemuFileError', code, operation: 'writevBuffer', position: 4 };
        await assert.rejects(file.flush(), error);
        assert.equal(file.error?.code, code);
        assert.equal(file.getError(), errnoOf(code));
        assert.equal(file.tellFast(), 4);
        await assert.rejects(file.close(), error);
        assert.equal(sink.calls.length, 2);
        assert.equal(sink.closes.length, 1);
      });
    }
  }

  for (const [what, fail, code] of [
    ['throws an errno code', () => raise(broken('EPIPE')), 'EPIPE'],
    ['throws another error', () => raise(new TypeError('oops')), 'EIO'],
    ['throws undefined', () => raise(undefined), 'EIO'],
    ['rejects with an errno code', () => Promise.reject(broken('ECONNRESET')), 'ECONNRESET'],
    ['rejects with undefined', () => Promise.reject(wrongly<Error>(undefined)), 'EIO'],
    ['rejects with an AbortError', () => Promise.reject(named('AbortError')), 'ECANCELED'],
    ['rejects with a TimeoutError', () => Promise.reject(named('TimeoutError')), 'ECANCELED'],
  ] as const) {
    test(`but ${what} has ${code} latched`, async () => {
      const sink = new Sink();
      sink.misbehave = fail;
      const file = new QemuFile(sink);
      file.putByte(1);
      await assert.rejects(file.flush(), {
        name: 'QemuFileError',
        code,
        operation: 'writevBuffer',
      });
    });
  }

  test('but is a thenable that calls back twice has only its first answer count', async () => {
    const file = new QemuFile({
      writevBuffer: (buffers) =>
        ({
          // biome-ignore lint/suspicious/noThenProperty: a thenable is what is tested
          then(resolve: (count: number) => void, reject: (error: Error) => void) {
            resolve(buffers[0]?.length ?? 0);
            resolve(-5);
            reject(new Error('twice'));
          },
        }) as unknown as Promise<number>,
    });
    file.putByte(1);
    await file.flush();
    file.putByte(2);
    await file.flush();
    assert.equal(file.tellFast(), 2);
    assert.equal(file.getError(), 0);
  });

  test('drops the queue, which is never sent again', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink);
    file.putBuffer(pattern(100_000));
    void file.flush();
    sink.fail(broken('EPIPE'));
    await turn();
    assert.equal(sink.calls.length, 1);
    assert.equal(file.writableLength, 0);
    assert.equal(file.tellFast(), 0);
  });

  function raise(error: unknown): number {
    throw error;
  }

  function named(name: string): Error {
    return Object.assign(new Error('stopped'), { name });
  }
});

describe('a backend that answers after the file was closed', () => {
  test('is ignored', async () => {
    for (const late of [4, 3, -5]) {
      const sink = new Sink('manual');
      const feed = new Feed();
      const file = new QemuFile(Object.assign(sink, { getBuffer: () => feed.getBuffer() }));
      file.putBe32(1);
      void file.flush();
      file.read(0);
      file.destroy();
      await file.close();
      sink.take(late);
      feed.give(late < 0 ? late : hex('0102'));
      await turn();
      assert.equal(file.error, null);
      assert.equal(sink.calls.length, 1);
      assert.equal(feed.asked, 1);
    }
  });

  test('is ignored if it rejects', async () => {
    const sink = new Sink('manual');
    const feed = new Feed();
    const file = new QemuFile(Object.assign(sink, { getBuffer: () => feed.getBuffer() }));
    file.putBe32(1);
    void file.flush();
    file.read(0);
    file.destroy();
    await file.close();
    sink.fail(broken('EPIPE'));
    feed.fail(broken('EPIPE'));
    await turn();
    assert.equal(file.error, null);
  });
});

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

describe('QemuFileError', () => {
  test('says code, operation, reason, position and advice in one line', () => {
    const error = new QemuFileError('EPIPE', 'nobody reads', { position: 12, operation: 'flush' });
    assert.equal(
      error.message,
      'EPIPE: flush: nobody reads at byte 12; the other end stopped reading: look at its log for the reason',
    );
    assert.equal(error.errno, -32);
    assert.equal(new QemuFileError('EIO', 'no').message, 'EIO: no');
  });

  test('is recognised by instanceof across two loaded copies of the package', async () => {
    const again = '../../lib/contract/errors.ts?again';
    const other = (await import(again)) as typeof import('../../lib/contract/errors.ts');
    assert.notEqual(other.QemuFileError, QemuFileError);
    const foreign = new other.QemuFileError('EIO', 'theirs');
    assert.ok(foreign instanceof QemuFileError);
    assert.ok(new QemuFileError('EIO', 'ours') instanceof other.QemuFileError);
    assert.equal(toQemuFileError(foreign), foreign);
    for (const not of [new Error('no'), null, undefined, 'EIO', { code: 'EIO' }]) {
      assert.equal((not as unknown) instanceof QemuFileError, false);
    }
  });

  test('has an errno for every code, that of EIO for one this system does not know', () => {
    assert.equal(errnoOf('EIO'), -5);
    assert.equal(errnoOf('EAGAIN'), -11);
    assert.equal(errnoOf('EWHATEVER'), -5);
    assert.equal(errnoOf('toString'), -5);
    assert.equal(codeOf(-5), 'EIO');
    assert.equal(codeOf(-11), 'EAGAIN');
    assert.equal(codeOf(-22), 'EINVAL');
    assert.equal(codeOf(-38), 'ENOSYS');
    assert.equal(codeOf(-99_999), 'EIO');
    assert.equal(codeOf(5), 'EIO');
  });

  test('is made of any value that a transport throws', () => {
    for (const [thrown, code] of [
      [broken('ENOENT'), 'ENOENT'],
      [broken('ERR_SOCKET_CLOSED'), 'EIO'],
      [Object.assign(new Error(''), { code: 5 }), 'EIO'],
      ['text', 'EIO'],
      [undefined, 'EIO'],
      [null, 'EIO'],
      [Symbol('s'), 'EIO'],
      [Object.create(null), 'EIO'],
      [Object.assign(new Error('x'), { name: 'AbortError', code: 'ABORT_ERR' }), 'ECANCELED'],
    ] as const) {
      const error = toQemuFileError(thrown, { operation: 'test', position: 1 });
      assert.equal(error.code, code);
      assert.equal(error.cause, thrown);
      assert.equal(error.operation, 'test');
      assert.equal(error.position, 1);
    }
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

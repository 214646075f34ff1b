// The first error stays with a file, and everything that waits is told.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { PassThrough } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { errnoOf, QemuFileError } from '../../lib/contract/errors.ts';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { hex, pattern, turn, wrongly } from '../helpers/bytes.ts';
import { broken } from '../helpers/errors.ts';
import { Feed, Sink } from '../helpers/transports/backends.ts';

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
  /** Returns a closed file, and the backend whose read and write have not been answered. */
  async function closedWhileBusy(): Promise<{ file: QemuFile; sink: Sink; feed: Feed }> {
    const sink = new Sink('manual');
    const feed = new Feed();
    const file = new QemuFile(Object.assign(sink, { getBuffer: () => feed.getBuffer() }));
    file.putBe32(1);
    void file.flush();
    file.read(0);
    file.destroy();
    await file.close();
    return { file, sink, feed };
  }

  test('is ignored', async () => {
    for (const late of [4, 3, -5]) {
      const { file, sink, feed } = await closedWhileBusy();
      sink.take(late);
      feed.give(late < 0 ? late : hex('0102'));
      await turn();
      assert.equal(file.error, null);
      assert.equal(sink.calls.length, 1);
      assert.equal(feed.asked, 1);
    }
  });

  test('is ignored if it rejects', async () => {
    const { file, sink, feed } = await closedWhileBusy();
    sink.fail(broken('EPIPE'));
    feed.fail(broken('EPIPE'));
    await turn();
    assert.equal(file.error, null);
  });
});

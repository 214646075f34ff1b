import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import { BandwidthBudget } from '../../../lib/qemu-file/put/bandwidth-budget.ts';
import { RateLimiter } from '../../../lib/qemu-file/put/rate-limiter.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { pattern, piecesOf, turn, wrongly } from '../../helpers/bytes.ts';
import { Sink } from '../../helpers/transports/backends.ts';

describe('the budget of a window that the caller runs', () => {
  function queued(limit: number, bytes: number): QemuFile {
    const file = new QemuFile(new Sink());
    file.setRateLimit(limit);
    file.putBuffer(new Uint8Array(bytes));
    return file;
  }

  test('is exceeded by more bytes than the limit, not by as many', () => {
    const file = queued(100, 100);
    assert.equal(file.rateLimitExceeded(), false);
    file.putByte(1);
    assert.equal(file.rateLimitExceeded(), true);
  });

  test('is unlimited for a limit of 0 or less', () => {
    for (const limit of [0, -1, -1e9]) {
      const file = queued(limit, 100_000);
      assert.equal(file.rateLimitExceeded(), false);
      assert.equal(file.getRateLimit(), limit);
    }
    assert.equal(new QemuFile(new Sink()).getRateLimit(), 0);
  });

  test('counts bytes when they are queued, copied or by reference, written or put', () => {
    for (const put of [
      (file: QemuFile) => file.putBuffer(new Uint8Array(10)),
      (file: QemuFile) => file.putBufferAsync(new Uint8Array(10)),
      (file: QemuFile) => file.write(new Uint8Array(10)),
      (file: QemuFile) => file.putCountedString('123456789'),
      (file: QemuFile) => {
        const source = new QemuFile({});
        source.putBuffer(new Uint8Array(10));
        file.putQemuFile(source);
      },
    ]) {
      const file = new QemuFile(new Sink('manual'), { autoFlush: false });
      file.setRateLimit(9);
      put(file);
      assert.equal(file.rateLimitExceeded(), true);
      file.setRateLimit(10);
      assert.equal(file.rateLimitExceeded(), false);
    }
  });

  test('keeps counting through a flush, until it is reset', async () => {
    const file = queued(100, 101);
    await file.flush();
    assert.equal(file.rateLimitExceeded(), true);
    file.resetRateLimit();
    assert.equal(file.rateLimitExceeded(), false);
    file.putBuffer(new Uint8Array(101));
    assert.equal(file.rateLimitExceeded(), true);
  });

  test('does not count updatePosition', () => {
    const file = queued(100, 100);
    file.updatePosition(1_000_000);
    assert.equal(file.rateLimitExceeded(), false);
    file.putByte(1);
    assert.equal(file.rateLimitExceeded(), true);
  });

  test('counts from the last reset, also bytes that were queued before the limit was set', () => {
    const file = new QemuFile(new Sink());
    file.putBuffer(new Uint8Array(50));
    file.setRateLimit(40);
    assert.equal(file.rateLimitExceeded(), true);
  });

  test('never stops a put', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    file.setRateLimit(1);
    file.putBuffer(pattern(100_000));
    await file.flush();
    assert.equal(sink.written.length, 100_000);
  });

  test('is exceeded once an error is latched', () => {
    const file = new QemuFile(new Sink());
    file.setError(-5);
    assert.equal(file.rateLimitExceeded(), true);
  });

  test('asking about it does not flush', () => {
    const sink = new Sink();
    const file = new QemuFile(sink, { autoFlush: false });
    file.setRateLimit(5);
    file.putBuffer(pattern(10));
    assert.equal(file.rateLimitExceeded(), true);
    assert.equal(sink.calls.length, 0);
  });

  test('refuses a value that is not a number', () => {
    const file = new QemuFile(new Sink());
    for (const wrong of [Number.NaN, Infinity, -Infinity, '5', undefined]) {
      assert.throws(() => file.setRateLimit(wrongly(wrong)), RangeError);
    }
  });

  test('makes write() return false, and drain() and "drain" wait for the reset', async () => {
    const file = new QemuFile(new Sink());
    let drains = 0;
    file.on('drain', () => (drains += 1));
    file.setRateLimit(10);
    assert.equal(file.write(pattern(10)), true);
    assert.equal(file.write(pattern(1)), false);
    assert.equal(file.writableNeedDrain, true);
    let drained = false;
    const draining = file.drain().then(() => (drained = true));
    await file.flush();
    await turn();
    assert.equal(drained, false);
    assert.equal(drains, 0);
    file.resetRateLimit();
    file.resetRateLimit();
    await draining;
    await turn();
    assert.equal(drains, 1);
    assert.equal(file.writableNeedDrain, false);
  });

  test('that grows releases the writers that the smaller one stopped', async () => {
    const file = new QemuFile(new Sink());
    file.setRateLimit(10);
    file.putBuffer(pattern(20));
    const draining = file.drain();
    file.setRateLimit(20);
    await draining;
  });
});

describe('a limiter of its own rate', () => {
  function limiter(bytesPerSecond: number): {
    clock: { ms: number };
    rate: BandwidthBudget;
    limit: RateLimiter;
  } {
    const clock = { ms: 1000 };
    const rate = new BandwidthBudget(bytesPerSecond, () => clock.ms);
    return { clock, rate, limit: new RateLimiter(rate, () => clock.ms) };
  }

  test('lets out 15 ms worth at once, and no more than that after any pause', () => {
    const { clock, rate } = limiter(100_000);
    for (const pause of [0, 20, 1000, 3_600_000]) {
      clock.ms += pause;
      assert.equal(rate.allowance(1_000_000), 1500);
      rate.spend(1500);
      assert.equal(rate.allowance(1_000_000), 0);
    }
  });

  test('passes any amount below the limit', () => {
    const { rate } = limiter(100_000);
    assert.equal(rate.allowance(1), 1);
    rate.spend(1499);
    assert.equal(rate.allowance(1), 1);
    rate.spend(1);
    assert.equal(rate.allowance(1), 0);
  });

  test('says for how long to wait, and after that lets something out', () => {
    for (const bytesPerSecond of [0.5, 1, 3, 999, 12_345, 1e6, 1e9, 1e15]) {
      for (const wanted of [1, 10, 32_768, 1e9]) {
        const { clock, rate } = limiter(bytesPerSecond);
        for (let round = 0; round < 5; round += 1) {
          for (
            let allowed = rate.allowance(wanted);
            allowed > 0;
            allowed = rate.allowance(wanted)
          ) {
            assert.ok(Number.isInteger(allowed) && allowed <= wanted);
            rate.spend(allowed);
            if (bytesPerSecond >= 1e9) break;
          }
          const ms = rate.waitMs(wanted);
          assert.ok(Number.isInteger(ms) && ms >= 1 && ms < 2 ** 31, `${ms} ms`);
          clock.ms += ms;
          assert.ok(rate.allowance(wanted) > 0, `${bytesPerSecond} B/s, ${wanted} wanted`);
        }
      }
    }
  });

  test('never asks for a wait that a timer cannot keep', () => {
    const { rate } = limiter(1e-9);
    rate.spend(1);
    assert.ok(rate.waitMs(1) < 2 ** 31);
  });

  test('reaches its rate in the long run, and exceeds it in no second by more than 15 ms worth', () => {
    const { clock, rate } = limiter(1_000_000);
    const left: (readonly [number, number])[] = [];
    const end = clock.ms + 10_000;
    let total = 0;
    while (clock.ms < end) {
      const allowed = rate.allowance(32_768);
      if (allowed === 0) {
        clock.ms += rate.waitMs(32_768);
        continue;
      }
      rate.spend(allowed);
      total += allowed;
      left.push([clock.ms, allowed]);
    }
    assert.ok(total <= 10_015_000, `${total} bytes in 10 s`);
    assert.ok(total >= 9_900_000, `${total} bytes in 10 s`);
    for (const [from] of left) {
      let second = 0;
      for (const [at, bytes] of left) if (at >= from && at < from + 1000) second += bytes;
      assert.ok(second <= 1_015_000, `${second} bytes in the second from ${from}`);
    }
  });

  test('changes at once: a slower rate does not pay for earned tokens, a faster one does not wait', () => {
    const { clock, rate } = limiter(1_000_000);
    rate.maxBandwidth = 1000;
    assert.equal(rate.allowance(1000), 15);
    rate.spend(15);
    assert.equal(rate.allowance(1000), 0);
    rate.maxBandwidth = 1_000_000;
    clock.ms += 10;
    assert.equal(rate.allowance(1_000_000), 10_000);
    rate.maxBandwidth = 0;
    assert.equal(rate.allowance(1_000_000), 1_000_000);
  });

  test('has a window limit of a tenth, which sets ten times as much', () => {
    const { limit } = limiter(1_000_000);
    assert.equal(limit.limit, 100_000);
    limit.limit = 5000;
    assert.equal(limit.bandwidth, 50_000);
    assert.equal(limit.limit, 5000);
    assert.equal(limit.exceeded(1e9, 5000), false);
    assert.equal(limit.exceeded(1e9, 5001), true);
    limit.limit = 0;
    assert.equal(limit.bandwidth, 0);
    assert.equal(limit.exceeded(1e9, 1e9), false);
  });

  test('lifted by a window limit of 0 does not begin a window', () => {
    const { limit } = limiter(1000);
    limit.reset(5000);
    limit.limit = 0;
    limit.limit = 100;
    assert.equal(limit.exceeded(5100, 0), false);
    assert.equal(limit.exceeded(5101, 0), true);
  });

  test('counts the time in which bytes wait for it', () => {
    const { clock, limit } = limiter(1000);
    limit.noteWaiting(true);
    clock.ms += 50;
    assert.equal(limit.limitedMs, 50);
    limit.noteWaiting(true);
    clock.ms += 10;
    limit.noteWaiting(false);
    limit.noteWaiting(false);
    clock.ms += 1000;
    assert.equal(limit.limitedMs, 60);
    limit.noteWaiting(true);
    clock.ms += 5;
    assert.equal(limit.limitedMs, 65);
  });

  test('measures the transport while it has bytes, without pauses and waits for the limit', () => {
    const { clock, limit } = limiter(100);
    assert.equal(limit.measured, 0);
    for (let batch = 0; batch < 50; batch += 1) {
      limit.spend(1000);
      clock.ms += 10;
      limit.taken(1000);
      clock.ms += 990;
    }
    assert.equal(Math.round(limit.measured), 100_000);
    for (let batch = 0; batch < 500; batch += 1) {
      limit.spend(1000);
      clock.ms += 100;
      limit.taken(1000);
    }
    assert.equal(Math.round(limit.measured), 10_000);
  });
});

describe('maxBandwidth', () => {
  test('has all bytes leave in order, some of them later', async () => {
    for (const answering of ['sync', 'async'] as const) {
      const sink = new Sink(answering);
      const file = new QemuFile(sink, { maxBandwidth: 1_000_000 });
      const bytes = pattern(150_000);
      let released = 0;
      for (const [at, piece] of piecesOf(bytes, 1500).entries()) {
        if (at % 3 === 0) file.putBuffer(piece);
        else if (at % 3 === 1) file.putBufferAsync(piece, () => released++);
        else file.write(piece);
      }
      assert.equal(file.rateLimitExceeded(), true);
      await file.close();
      assert.equal(Buffer.compare(sink.written, bytes), 0);
      assert.equal(released, 33);
      assert.ok(file.limitedMs > 0);
      assert.ok(file.bandwidth > 0);
      assert.equal(sink.overlapped, false);
    }
  });

  test('keeps a pipe waiting, and the gate opens again', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink, { maxBandwidth: 1_000_000 });
    const bytes = pattern(150_000);
    await pipeline(Readable.from(piecesOf(bytes, 4096), { objectMode: false }), file);
    assert.equal(Buffer.compare(sink.written, bytes), 0);
  });

  test('opens its gate although autoFlush is off', async () => {
    const sink = new Sink('async');
    const file = new QemuFile(sink, { maxBandwidth: 200_000, autoFlush: false });
    assert.equal(file.write(Buffer.alloc(22_000)), false);
    await file.drain();
    assert.ok(file.writableLength <= 20_000);
    await file.close();
    assert.equal(sink.written.length, 22_000);
  });

  test('can be lifted while running: what waits leaves at once', async () => {
    for (const lift of [
      (file: QemuFile) => (file.maxBandwidth = 0),
      (file: QemuFile) => file.setRateLimit(0),
    ]) {
      const sink = new Sink();
      const file = new QemuFile(sink, { maxBandwidth: 10 });
      file.putBuffer(pattern(1000));
      const flushed = file.flush();
      const draining = file.drain();
      await turn();
      assert.ok(sink.written.length < 1000);
      lift(file);
      assert.equal(sink.written.length, 1000);
      await flushed;
      await draining;
      assert.equal(file.maxBandwidth, 0);
      assert.equal(file.getRateLimit(), 0);
    }
  });

  test('can be raised while running, also from far too little', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink, { maxBandwidth: 0.001 });
    file.putBuffer(pattern(1000));
    const flushed = file.flush();
    await turn();
    file.maxBandwidth = 1e6;
    await flushed;
    assert.deepEqual(sink.written, pattern(1000));
  });

  test('can be set on a file that had none', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink);
    file.putBuffer(pattern(1000));
    await file.flush();
    file.maxBandwidth = 100_000;
    assert.equal(file.getRateLimit(), 10_000);
    file.putBuffer(pattern(9000));
    await file.flush();
    assert.ok(file.limitedMs > 0);
    assert.equal(sink.written.length, 10_000);
  });

  test('is changed to ten times as much by setRateLimit', () => {
    const file = new QemuFile(new Sink(), { maxBandwidth: 1000 });
    assert.equal(file.getRateLimit(), 100);
    file.setRateLimit(500);
    assert.equal(file.maxBandwidth, 5000);
    assert.equal(file.getRateLimit(), 500);
  });

  test('shuts the gate while more than a window of bytes waits, in addition to earlier bytes', async () => {
    const file = new QemuFile(new Sink('manual'), { maxBandwidth: 100_000 });
    file.putBuffer(pattern(10_000));
    assert.equal(file.rateLimitExceeded(), false);
    file.putByte(1);
    assert.equal(file.rateLimitExceeded(), true);
    file.destroy();
  });

  test('refuses an invalid rate', () => {
    const file = new QemuFile(new Sink());
    for (const wrong of [-1, Number.NaN, Infinity]) {
      assert.throws(() => (file.maxBandwidth = wrong), RangeError);
    }
  });

  test('leaves no timer when the file is destroyed', async () => {
    const timers = (): number =>
      process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    const file = new QemuFile(new Sink(), { maxBandwidth: 1 });
    file.putBuffer(pattern(1000));
    void file.flush();
    assert.equal(timers(), before + 1);
    file.destroy();
    assert.equal(timers(), before);
    await assert.rejects(file.flush(), { code: 'ECANCELED' });
  });

  test('stops counting limitedMs when the file is destroyed', async () => {
    const file = new QemuFile(new Sink(), { maxBandwidth: 1 });
    file.putBuffer(pattern(1000));
    void file.flush();
    await turn();
    file.destroy();
    const { limitedMs } = file;
    assert.ok(limitedMs > 0);
    await turn();
    assert.equal(file.limitedMs, limitedMs);
  });

  test('does not increase limitedMs while the transport is the bottleneck', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink, { maxBandwidth: 1000 });
    file.putBufferAsync(pattern(20));
    void file.flush();
    await turn();
    assert.equal(sink.busy, true);
    assert.equal(file.limitedMs, 0);
    file.destroy();
  });
});

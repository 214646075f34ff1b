// The gate of the transport: a producer waits while the backend holds much, and meets a limit if it does not wait.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { pattern, piecesOf, turn } from '../../helpers/bytes.ts';
import { Sink } from '../../helpers/transports/backends.ts';

describe('the gate of the transport', () => {
  test('shuts at the high-water mark and opens at half of it, and emits "drain" once', async () => {
    const sink = new Sink('manual', { highWaterMark: 1000, gatherEntries: 1 });
    const file = new QemuFile(sink);
    let drains = 0;
    file.on('drain', () => (drains += 1));
    assert.equal(file.write(Buffer.alloc(999)), true);
    assert.equal(file.rateLimitExceeded(), false);
    assert.equal(file.write(Buffer.alloc(1)), false);
    for (let poll = 0; poll < 5; poll += 1) assert.equal(file.rateLimitExceeded(), true);
    assert.equal(file.writableLength, 1000);
    assert.equal(file.writableHighWaterMark, 1000);
    await turn();
    assert.equal(drains, 0);
    sink.take();
    await turn();
    assert.equal(drains, 1);
    assert.equal(file.rateLimitExceeded(), false);

    // Batches of 400 bytes by reference each: at 800 left it is shut still, at 400 open.
    for (let at = 0; at < 3; at += 1) file.putBufferAsync(Buffer.alloc(400));
    assert.equal(file.rateLimitExceeded(), true);
    sink.take();
    await turn();
    assert.equal(file.writableLength, 800);
    assert.equal(file.rateLimitExceeded(), true);
    assert.equal(drains, 1);
    sink.take();
    await turn();
    assert.equal(drains, 2);
    sink.take();
    await turn();
    assert.equal(drains, 2);
  });

  test('that shut unnoticed emits no "drain"', async () => {
    const file = new QemuFile(new Sink('async'));
    let drains = 0;
    file.on('drain', () => (drains += 1));
    for (let at = 0; at < 5; at += 1) {
      assert.equal(file.write(pattern(2000)), true);
      await file.flush();
      await turn();
    }
    assert.equal(drains, 0);
  });

  test('is the same for drain(), which resolves at once where it is open', async () => {
    const sink = new Sink('manual', { highWaterMark: 100 });
    const file = new QemuFile(sink);
    await file.drain();
    file.putBufferAsync(Buffer.alloc(100));
    const log: string[] = [];
    const waits = [file.drain(), file.drain()].map((wait) => wait.then(() => log.push('open')));
    await turn();
    assert.equal(log.length, 0);
    sink.take();
    await Promise.all(waits);
    assert.equal(log.length, 2);
  });

  test('opens although autoFlush is off, because asking sends the bytes', async () => {
    const sink = new Sink('async', { highWaterMark: 100 });
    const file = new QemuFile(sink, { autoFlush: false });
    for (let round = 0; round < 5; round += 1) {
      file.putBufferAsync(Buffer.alloc(100));
      assert.equal(file.rateLimitExceeded(), true);
      // A producer looks at the end of its record only.
      file.putBufferAsync(Buffer.alloc(60));
      while (sink.busy) await turn();
      await file.drain();
    }
    await file.close();
    assert.equal(sink.written.length, 800);
  });

  test('keeps what waits within the high-water mark and one chunk, for a producer that asks', async () => {
    const sink = new Sink('async', { highWaterMark: 10_000 });
    const file = new QemuFile(sink);
    const chunk = pattern(3000);
    let most = 0;
    for (let at = 0; at < 200; at += 1) {
      if (!file.write(chunk)) await once(file, 'drain');
      file.putByte(at);
      most = Math.max(most, file.writableLength);
      if (file.rateLimitExceeded()) await file.drain();
    }
    await file.close();
    assert.equal(sink.written.length, 200 * 3001);
    assert.ok(most <= 13_001, `${most} bytes waited`);
  });

  test('holds back a pipe', async () => {
    const sink = new Sink('async', { highWaterMark: 10_000 });
    const file = new QemuFile(sink);
    let most = 0;
    const bytes = pattern(300_000);
    const chunks = piecesOf(bytes, 4096);
    const source = Readable.from(
      (function* () {
        for (const chunk of chunks) {
          most = Math.max(most, file.writableLength);
          yield chunk;
        }
      })(),
      { objectMode: false, highWaterMark: 1 },
    );
    await pipeline(source, file);
    assert.equal(Buffer.compare(sink.written, bytes), 0);
    assert.ok(most <= 10_000 + 4096, `${most} bytes waited`);
  });

  test('has drain({signal}) end with ECANCELED, and others wait on', async () => {
    const sink = new Sink('manual', { highWaterMark: 10 });
    const file = new QemuFile(sink);
    file.putBufferAsync(pattern(10));
    const controller = new AbortController();
    const { signal } = controller;
    const reason = new Error('enough');
    const aborted = file.drain({ signal });
    const other = file.drain();
    controller.abort(reason);
    await assert.rejects(aborted, { code: 'ECANCELED', cause: reason, operation: 'drain' });
    await assert.rejects(file.drain({ signal }), { code: 'ECANCELED' });
    await turn();
    sink.take();
    await other;
    assert.equal(file.getError(), 0);
  });

  test('and the budget: both must be open', async () => {
    const sink = new Sink('manual', { highWaterMark: 100 });
    const file = new QemuFile(sink);
    let drains = 0;
    file.on('drain', () => (drains += 1));
    file.setRateLimit(50);
    assert.equal(file.write(Buffer.alloc(100)), false);
    await turn();
    sink.take();
    await turn();
    assert.equal(drains, 0);
    file.resetRateLimit();
    await turn();
    assert.equal(drains, 1);
  });
});

describe('maxPendingBytes', () => {
  test('latches ENOBUFS for a producer that does not ask, and the memory is let go', async () => {
    for (const put of [
      (file: QemuFile) => file.putBuffer(Buffer.alloc(10_000)),
      (file: QemuFile) => file.putBufferAsync(Buffer.alloc(10_000)),
      (file: QemuFile) => void file.write(Buffer.alloc(10_000)),
      (file: QemuFile) => file.putBe32(1),
    ]) {
      const file = new QemuFile(new Sink('manual'), { maxPendingBytes: 100_000 });
      let most = 0;
      for (let at = 0; at < 100_000 && file.getError() === 0; at += 1) {
        most = Math.max(most, file.writableLength);
        put(file);
      }
      assert.equal(file.error?.code, 'ENOBUFS');
      assert.ok(most <= 100_000 + 32_768, `${most} bytes waited`);
      await assert.rejects(file.flush(), { code: 'ENOBUFS', message: /maxPendingBytes/ });
      await assert.rejects(file.close(), { code: 'ENOBUFS' });
    }
  });

  test('accepts one buffer that is larger than the limit', async () => {
    const sink = new Sink('async');
    const file = new QemuFile(sink, { maxPendingBytes: 1000 });
    file.putByte(1);
    assert.equal(file.write(pattern(50_000)), false);
    await file.drain();
    file.putByte(2);
    await file.close();
    assert.equal(sink.written.length, 50_002);
  });

  test('is nothing to a backend that answers at once', async () => {
    const sink = new Sink();
    const file = new QemuFile(sink, { maxPendingBytes: 1000 });
    file.putBuffer(pattern(500_000));
    await file.close();
    assert.equal(sink.written.length, 500_000);
  });
});

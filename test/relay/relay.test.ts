// A relay and its files: both directions, their ends, and failures.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type ConnectionOps, memoryPair } from '../../adapters/index.ts';
import {
  QemuFile,
  QemuFileError,
  type QemuFileOps,
  type QemuFileOptions,
} from '../../lib/index.ts';
import { relay } from '../../lib/relay/relay.ts';
import type { RelayResult } from '../../lib/relay/relay-types.ts';
import { pattern, piecesOf, turn } from '../helpers/bytes.ts';
import { Feed, Sink, Source } from '../helpers/transports/backends.ts';
import { until } from '../helpers/until.ts';

/** XXH64 (seed 0) from the vectors that its other implementations are tested with. */
const XXH64_OF_ABC = '44bc2cf5ad770999';
const XXH64_OF_NOTHING = 'ef46db3751d8e999';

function from(...chunks: Uint8Array[]): QemuFile {
  return new QemuFile(new Source(chunks, { answering: 'async', hands: true }));
}

/** A two-way file, and the far end of its connection. */
function connection(options?: QemuFileOptions): {
  near: QemuFile;
  far: QemuFile;
  ops: ConnectionOps;
} {
  const [ours, theirs] = memoryPair();
  return { near: new QemuFile(ours, options), far: new QemuFile(theirs), ops: theirs };
}

/** Reads all that a far end is sent. */
async function all(file: QemuFile): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of file) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function failureOf(result: RelayResult): { end: string | null; code: string } {
  assert.equal(result.complete, false);
  assert.ok(result.failure !== null);
  assert.ok(result.failure.error instanceof QemuFileError);
  return { end: result.failure.end, code: result.failure.error.code };
}

/** A backend that notes what `close` was given, over any other. */
function noting(ops: QemuFileOps): { ops: QemuFileOps; closes: (Error | undefined)[] } {
  const closes: (Error | undefined)[] = [];
  const close = (error?: Error): ReturnType<NonNullable<QemuFileOps['close']>> => {
    closes.push(error);
    return ops.close?.(error);
  };
  return { ops: { ...ops, close }, closes };
}

describe('forward', () => {
  test('moves all bytes, closes both files in order, and counts', async () => {
    const bytes = pattern(1_000_003);
    const source = new Source(piecesOf(bytes, 65536), { answering: 'async', hands: true });
    const sink = new Sink('async');
    const result = await relay(new QemuFile(source), new QemuFile(sink));
    assert.ok(sink.written.equals(bytes));
    assert.deepEqual(
      { ...result, seconds: 0 },
      {
        complete: true,
        forward: { bytes: bytes.length, xxh64: null },
        return: null,
        seconds: 0,
        limitedSeconds: 0,
        failure: null,
      },
    );
    assert.ok(result.seconds > 0);
    assert.deepEqual(source.closes, [undefined]);
    assert.deepEqual(sink.closes, [undefined]);
  });

  test('hands chunks on without copying them', async () => {
    const chunk = pattern(65536);
    const sink = new Sink('async');
    let given = false;
    const ops: QemuFileOps = {
      getBuffer: async () => {
        if (given) return 0;
        given = true;
        return chunk;
      },
    };
    await relay(new QemuFile(ops), new QemuFile(sink));
    assert.equal(sink.calls[0]?.buffers[0]?.buffer, chunk.buffer);
  });

  test('leaves consumed bytes, and moves the rest', async () => {
    const source = from(Buffer.from('QEVM'), Buffer.from('rest'));
    assert.equal(await source.readBe32(), 0x5145564d);
    const sink = new Sink();
    const result = await relay(source, new QemuFile(sink));
    assert.equal(sink.written.toString(), 'rest');
    assert.equal(result.forward.bytes, 4);
  });

  test('asks for no more than the slower side takes', async () => {
    const feed = new Feed();
    const sink = new Sink('manual');
    const to = new QemuFile(sink, { highWaterMark: 100_000 });
    const done = relay(new QemuFile(feed), to);
    const bytes = pattern(50_000);
    let given = 0;
    // With nothing taken, asking has to end: at the high-water mark, and one read ahead.
    for (let turns = 0; turns < 200; turns += 1) {
      await turn();
      if (!feed.waiting) continue;
      feed.give(bytes);
      given += 1;
    }
    assert.ok(given >= 2 && given <= 6, `${given} chunks were asked for`);
    const taking = setInterval(() => sink.take(), 1);
    await until(() => feed.waiting, { what: 'the next chunk to be asked for' });
    feed.give(0);
    const result = await done;
    clearInterval(taking);
    assert.equal(result.forward.bytes, given * bytes.length);
    assert.equal(result.complete, true);
  });

  test('returns the XXH64 of each direction', async () => {
    const source = connection();
    const target = connection({ digest: 'xxh64' });
    const done = relay(source.near, target.near);
    source.far.end('abc');
    assert.equal((await all(target.far)).toString(), 'abc');
    target.far.end('abc');
    assert.equal((await all(source.far)).toString(), 'abc');
    const result = await done;
    assert.deepEqual(result.forward, { bytes: 3, xxh64: XXH64_OF_ABC });
    assert.deepEqual(result.return, { bytes: 3, xxh64: XXH64_OF_ABC });
  });

  test('says how long the limit held it back', async () => {
    const to = new QemuFile(new Sink('async'), { maxBandwidth: 1_000_000 });
    const result = await relay(from(pattern(100_000)), to);
    assert.ok(result.limitedSeconds > 0 && result.limitedSeconds <= result.seconds);
  });

  test('an empty input is a failure, and is not published', async () => {
    const sink = new Sink();
    const result = await relay(from(), new QemuFile(sink));
    assert.deepEqual(failureOf(result), { end: 'from', code: 'ENODATA' });
    assert.equal(sink.closes.length, 1);
    assert.ok(sink.closes[0] instanceof QemuFileError);
  });
});

describe('return path', () => {
  test('is moved, and each direction is half-closed independently', async () => {
    const source = connection();
    const target = connection();
    const done = relay(source.near, target.near);
    source.far.putBe32(0x5145564d);
    assert.equal(await target.far.readBe32(), 0x5145564d);
    target.far.putBe16(1);
    assert.equal(await source.far.readBe16(), 1);
    source.far.end();
    assert.equal(await target.far.atEnd(), true);
    // The other way is still open, for a late message.
    target.far.putBe16(2);
    assert.equal(await source.far.readBe16(), 2);
    target.far.end();
    assert.equal(await source.far.atEnd(), true);
    const result = await done;
    assert.equal(result.complete, true);
    assert.equal(result.forward.bytes, 4);
    assert.deepEqual(result.return, { bytes: 4, xxh64: null });
    await Promise.all([source.far.close(), target.far.close()]);
  });

  test('its end does not end the forward direction', async () => {
    const source = connection();
    const target = connection({ digest: 'xxh64' });
    const done = relay(source.near, target.near);
    target.far.end();
    assert.equal(await source.far.atEnd(), true);
    const bytes = pattern(300_000);
    const received = all(target.far);
    source.far.end(bytes);
    assert.ok((await received).equals(bytes));
    const result = await done;
    assert.equal(result.complete, true);
    assert.deepEqual(result.return, { bytes: 0, xxh64: XXH64_OF_NOTHING });
  });

  test('does not exist if "to" only writes: "from" is closed after the last byte', async () => {
    const source = connection();
    const sink = new Sink();
    const done = relay(source.near, new QemuFile(sink));
    source.far.end('abc');
    assert.equal(await source.far.atEnd(), true);
    const result = await done;
    assert.equal(result.return, null);
    assert.equal(result.complete, true);
    assert.deepEqual(sink.closes, [undefined]);
  });

  test('is dropped where "from" only reads, and waited for until "to" has ended', async () => {
    const target = connection();
    const done = relay(from(Buffer.from('abc')), target.near, { lingerMs: 600_000 });
    assert.equal((await all(target.far)).toString(), 'abc');
    target.far.end(pattern(200_000));
    const result = await done;
    assert.equal(result.complete, true);
    assert.equal(result.return, null);
  });

  test('does not hang where "from" only reads and "to" never ends', async () => {
    const target = connection();
    const done = relay(from(Buffer.from('abc')), target.near, { lingerMs: 5 });
    const result = await done;
    assert.equal(result.complete, true);
    assert.equal((await all(target.far)).toString(), 'abc');
  });

  test('a "from" that takes no more of it spares a "to" that has everything', async () => {
    const [ours, theirs] = memoryPair();
    const [sourceOurs, sourceTheirs] = memoryPair();
    const far = new QemuFile(theirs);
    const noted = noting(ours);
    const done = relay(new QemuFile(sourceOurs), new QemuFile(noted.ops), { lingerMs: 600_000 });
    const source = new QemuFile(sourceTheirs);
    source.end('abc');
    assert.equal((await all(far)).toString(), 'abc');
    // It leaves without waiting for an answer.
    source.destroy();
    far.putBe32(1);
    await far.flush();
    far.end(pattern(300_000));
    const result = await done;
    assert.equal(failureOf(result).end, 'from');
    assert.equal(result.forward.bytes, 3);
    assert.deepEqual(noted.closes, [undefined]);
  });
});

describe('tee', () => {
  test('gets the same bytes', async () => {
    const bytes = pattern(500_000);
    const [sink, tee] = [new Sink('async'), new Sink('async')];
    const options = { tee: new QemuFile(tee) };
    const result = await relay(from(...piecesOf(bytes, 7000)), new QemuFile(sink), options);
    assert.equal(result.complete, true);
    assert.ok(tee.written.equals(bytes) && sink.written.equals(bytes));
    assert.deepEqual(tee.closes, [undefined]);
  });

  test('sets the pace where it is slower', async () => {
    const feed = new Feed();
    const tee = new Sink('manual');
    const done = relay(new QemuFile(feed), new QemuFile(new Sink()), {
      tee: new QemuFile(tee, { highWaterMark: 100_000 }),
    });
    let given = 0;
    for (let turns = 0; turns < 200; turns += 1) {
      await turn();
      if (!feed.waiting) continue;
      feed.give(pattern(50_000));
      given += 1;
    }
    assert.ok(given >= 2 && given <= 6, `${given} chunks were asked for`);
    tee.fail(Object.assign(new Error('no space'), { code: 'ENOSPC' }));
    assert.deepEqual(failureOf(await done), { end: 'tee', code: 'ENOSPC' });
  });

  test('whose last bytes fail keeps "to" from being published', async () => {
    const sink = new Sink();
    const tee = new Sink();
    tee.misbehave = () => {
      throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    };
    const result = await relay(from(Buffer.from('abc')), new QemuFile(sink), {
      tee: new QemuFile(tee),
    });
    assert.deepEqual(failureOf(result), { end: 'tee', code: 'ENOSPC' });
    assert.ok(sink.closes[0] instanceof QemuFileError);
  });

  test('is not published when "from" fails', async () => {
    const feed = new Feed();
    const tee = new Sink();
    const done = relay(new QemuFile(feed), new QemuFile(new Sink()), { tee: new QemuFile(tee) });
    await until(() => feed.waiting, { what: 'bytes to be asked for' });
    feed.give(pattern(5000));
    await until(() => feed.waiting, { what: 'bytes to be asked for' });
    feed.fail(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
    assert.deepEqual(failureOf(await done), { end: 'from', code: 'ECONNRESET' });
    assert.ok(tee.closes[0] instanceof QemuFileError);
  });
});

describe('failures', () => {
  test('of "to" break "from", and say how far it got', async () => {
    const source = connection();
    const sink = new Sink('manual');
    const done = relay(source.near, new QemuFile(sink));
    source.far.write(pattern(10_000));
    await until(() => sink.busy, { what: 'the first write' });
    sink.take();
    const taken = sink.written.length;
    source.far.write(pattern(10_000));
    await until(() => sink.busy, { what: 'the next write' });
    sink.fail(Object.assign(new Error('gone'), { code: 'EPIPE' }));
    const result = await done;
    assert.deepEqual(failureOf(result), { end: 'to', code: 'EPIPE' });
    assert.equal(result.forward.bytes, taken);
    await assert.rejects(source.far.fill(1), { code: 'ECONNRESET' });
  });

  test('of "to", while "from" is silent, are seen', async () => {
    const source = connection();
    const target = connection();
    const done = relay(source.near, target.near);
    source.far.putBe32(1);
    assert.equal(await target.far.readBe32(), 1);
    target.far.destroy(new Error('died'));
    assert.deepEqual(failureOf(await done), { end: 'to', code: 'ECONNRESET' });
    await assert.rejects(source.far.fill(1), { code: 'ECONNRESET' });
  });

  test('of "from" break "to"', async () => {
    const source = connection();
    const target = connection();
    const done = relay(source.near, target.near);
    source.far.putBe32(1);
    assert.equal(await target.far.readBe32(), 1);
    source.far.destroy(new Error('died'));
    assert.deepEqual(failureOf(await done), { end: 'from', code: 'ECONNRESET' });
    await assert.rejects(target.far.fill(1), { code: 'ECONNRESET' });
  });

  test('of closing "from" are failures as well, and nothing is published', async () => {
    const sink = new Sink();
    const source = new Source([Buffer.from('abc')]);
    const ops: QemuFileOps = {
      getBuffer: (buffer, position) => source.getBuffer(buffer, position),
      close: () => {
        throw new QemuFileError('EIO', 'the command exited with status 1');
      },
    };
    const result = await relay(new QemuFile(ops), new QemuFile(sink));
    assert.deepEqual(failureOf(result), { end: 'from', code: 'EIO' });
    assert.ok(sink.closes[0] instanceof QemuFileError);
  });

  test('of closing "to" are failures', async () => {
    const sink = new Sink();
    sink.closeAnswer = -28;
    const result = await relay(from(Buffer.from('abc')), new QemuFile(sink));
    assert.deepEqual(failureOf(result), { end: 'to', code: 'ENOSPC' });
    assert.equal(result.forward.bytes, 3);
  });

  test('include a file that another part of the program closes', async () => {
    const feed = new Feed();
    const sink = new Sink();
    const source = new QemuFile(feed);
    const done = relay(source, new QemuFile(sink));
    await until(() => feed.waiting, { what: 'bytes to be asked for' });
    source.destroy();
    assert.deepEqual(failureOf(await done), { end: 'from', code: 'ECANCELED' });
    assert.equal(sink.closes.length, 1);
  });

  test('that happened before the relay began are reported', async () => {
    const source = new QemuFile(new Source([]));
    source.setError(-5);
    const sink = new Sink();
    const result = await relay(source, new QemuFile(sink));
    assert.deepEqual(failureOf(result), { end: 'from', code: 'EIO' });
    assert.equal(sink.closes.length, 1);
  });

  test('a file of the wrong direction is refused', async () => {
    const readable = new QemuFile(new Source([]));
    const writable = new QemuFile(new Sink());
    await assert.rejects(relay(writable, writable), { code: 'EBADF' });
    await assert.rejects(relay(readable, readable), { code: 'EBADF' });
    await assert.rejects(relay(readable, writable, { tee: readable }), { code: 'EBADF' });
  });
});

describe('signal', () => {
  test('breaks off both ends', async () => {
    const source = connection();
    const target = connection();
    const tee = new Sink();
    const abort = new AbortController();
    const done = relay(source.near, target.near, {
      signal: abort.signal,
      tee: new QemuFile(tee),
    });
    source.far.putBe32(1);
    assert.equal(await target.far.readBe32(), 1);
    abort.abort();
    const result = await done;
    assert.deepEqual(failureOf(result), { end: null, code: 'ECANCELED' });
    assert.equal(result.forward.bytes, 4);
    assert.ok(tee.closes[0] instanceof QemuFileError);
    await assert.rejects(source.far.fill(1), { code: 'ECONNRESET' });
    await assert.rejects(target.far.fill(1), { code: 'ECONNRESET' });
  });

  test('that was aborted already lets nothing pass', async () => {
    const sink = new Sink();
    const result = await relay(from(Buffer.from('abc')), new QemuFile(sink), {
      signal: AbortSignal.abort(),
    });
    assert.deepEqual(failureOf(result), { end: null, code: 'ECANCELED' });
    assert.equal(sink.written.length, 0);
    assert.equal(sink.closes.length, 1);
  });

  test('ends the wait for a return path of a silent peer', async () => {
    const target = connection();
    const abort = new AbortController();
    const done = relay(from(Buffer.from('abc')), target.near, {
      signal: abort.signal,
      lingerMs: 600_000,
    });
    assert.equal((await all(target.far)).toString(), 'abc');
    abort.abort();
    assert.deepEqual(failureOf(await done), { end: null, code: 'ECANCELED' });
  });
});

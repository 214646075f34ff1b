import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import { Readable as OtherReadable } from 'readable-stream';
import { StreamReader } from '../../../adapters/stream/stream-reader.ts';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { collect, manyTurns, promised, rejectsWith } from '../../helpers/transports/backend.ts';
import { watchListeners } from '../../helpers/transports/stream-peer.ts';

/** A stream to push into. */
function makeReadable(Base: typeof Readable = Readable): Readable {
  return new Base({ read() {} });
}

const bytes = (text: string): Buffer => Buffer.from(text);

function read(reader: StreamReader, position = 0): Promise<Uint8Array> {
  return promised(() => reader.read(position));
}

for (const [name, Base] of [
  ['node:stream', Readable],
  ['readable-stream', OtherReadable as unknown as typeof Readable],
] as const) {
  describe(`a reader of a Readable of ${name}`, () => {
    test('returns the chunks uncopied, one at a time, and then the end', async () => {
      const stream = makeReadable(Base);
      const reader = new StreamReader(stream);
      const chunks = [bytes('one'), bytes('two'), bytes('three')];
      const first = read(reader);
      for (const chunk of chunks) stream.push(chunk);
      stream.push(null);
      assert.equal((await first).buffer, chunks[0]?.buffer);
      const rest = await collect(() => read(reader));
      assert.equal(rest.toString(), 'twothree');
      assert.equal(reader.ended, true);
      assert.equal((await read(reader)).length, 0);
    });

    test('fails with the error of the stream, after the chunks before it', async () => {
      const stream = makeReadable(Base);
      const reader = new StreamReader(stream);
      const first = read(reader);
      stream.push(bytes('one'));
      stream.push(bytes('two'));
      await first;
      await manyTurns();
      const cause = Object.assign(new Error('gone'), { code: 'ECONNRESET' });
      stream.destroy(cause);
      await manyTurns();
      assert.equal((await read(reader)).toString(), bytes('two').toString());
      const failed = { code: 'ECONNRESET', operation: 'getBuffer', position: 6, cause };
      await assert.rejects(read(reader, 6), failed);
      await assert.rejects(read(reader, 6), failed);
    });

    test('fails when the stream closes without an end', async () => {
      for (const [code, reader] of [
        ['ECONNRESET', (stream: Readable) => new StreamReader(stream)],
        ['EIO', (stream: Readable) => new StreamReader(stream, 'EIO')],
      ] as const) {
        const stream = makeReadable(Base);
        const waiting = read(reader(stream));
        stream.destroy();
        await rejectsWith(waiting, code);
      }
    });
  });
}

describe('a reader', () => {
  test('does not read the stream before the first read', async () => {
    let asked = 0;
    const stream = new Readable({
      read() {
        asked += 1;
      },
    });
    const reader = new StreamReader(stream);
    await manyTurns();
    assert.equal(asked, 0);
    reader.close();
  });

  test('pauses a source that is faster than its reader, and loses nothing', async () => {
    let pushed = 0;
    const stream = new Readable({
      highWaterMark: 16_384,
      read() {
        setImmediate(() => {
          if (pushed === 1000) this.push(null);
          else this.push(Buffer.alloc(10_000, pushed++));
        });
      },
    });
    const reader = new StreamReader(stream);
    await read(reader);
    await manyTurns();
    await manyTurns();
    assert.ok(pushed < 40, `${pushed} chunks were taken`);
    let index = 1;
    for (;;) {
      const chunk = await read(reader);
      if (chunk.length === 0) break;
      assert.ok(chunk.every((byte) => byte === (index & 0xff)));
      index += 1;
    }
    assert.equal(index, 1000);
  });

  test('keeps the bytes of a stream that other code resumes', async () => {
    const stream = makeReadable();
    const reader = new StreamReader(stream);
    stream.push(bytes('abc'));
    stream.push(null);
    // As Node does with the output of a child that has exited.
    stream.resume();
    await manyTurns();
    assert.equal((await collect(() => read(reader))).toString(), 'abc');
  });

  test('reports a stream that ended, failed or closed earlier', async () => {
    const ended = makeReadable();
    ended.push(null);
    ended.resume();
    const failed = makeReadable().on('error', () => {});
    failed.destroy(Object.assign(new Error('x'), { code: 'EHOSTUNREACH' }));
    const closed = makeReadable();
    closed.destroy();
    await manyTurns();
    assert.equal((await read(new StreamReader(ended))).length, 0);
    await rejectsWith(read(new StreamReader(failed)), 'EHOSTUNREACH');
    await rejectsWith(read(new StreamReader(closed)), 'ECONNRESET');
  });

  test('fails on a stream of text', async () => {
    const stream = makeReadable();
    stream.setEncoding('utf8');
    const reader = new StreamReader(stream);
    stream.push(bytes('abc'));
    await rejectsWith(read(reader), 'EINVAL');
  });

  test('skips empty chunks, which are not the end', async () => {
    const stream = new Readable({ objectMode: true, read() {} });
    const reader = new StreamReader(stream);
    stream.push(new Uint8Array(0));
    stream.push(bytes('abc'));
    assert.equal(Buffer.from(await read(reader)).toString(), 'abc');
  });

  test('fails a second read while the first is pending', async () => {
    const stream = makeReadable();
    const reader = new StreamReader(stream);
    const first = read(reader);
    await rejectsWith(read(reader), 'EBUSY');
    stream.push(bytes('abc'));
    assert.equal(Buffer.from(await first).toString(), 'abc');
  });

  test('fails a cancelled read, and loses nothing', async () => {
    const stream = makeReadable();
    const reader = new StreamReader(stream);
    const waiting = rejectsWith(read(reader), 'ECANCELED');
    reader.cancel(new QemuFileError('ECANCELED', 'enough'));
    await waiting;
    stream.push(bytes('abc'));
    await manyTurns();
    assert.equal(Buffer.from(await read(reader)).toString(), 'abc');
  });

  test('removes its listeners when closed, and fails the pending call', async () => {
    const stream = makeReadable();
    const leftovers = watchListeners(stream);
    const reader = new StreamReader(stream);
    const waiting = rejectsWith(read(reader), 'ECANCELED');
    reader.close();
    await waiting;
    await rejectsWith(read(reader), 'ECANCELED');
    assert.deepEqual(leftovers(), []);
  });

  test('fails with the error it was closed with', async () => {
    const reader = new StreamReader(makeReadable());
    const error = new QemuFileError('ETIMEDOUT', 'too late');
    const waiting = assert.rejects(read(reader), error);
    reader.close(error);
    await waiting;
  });

  test('returns bytes that it had read ahead to the stream', async () => {
    const stream = makeReadable();
    const leftovers = watchListeners(stream);
    const reader = new StreamReader(stream);
    const first = read(reader);
    for (const text of ['one', 'two', 'three']) stream.push(bytes(text));
    await first;
    await manyTurns();
    reader.release();
    assert.deepEqual(leftovers(), []);
    stream.push(bytes('four'));
    stream.push(null);
    const next = new StreamReader(stream);
    assert.equal((await collect(() => read(next))).toString(), 'twothreefour');
  });
});

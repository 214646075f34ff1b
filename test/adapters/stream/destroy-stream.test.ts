import assert from 'node:assert/strict';
import { PassThrough, Readable, Writable, type WritableOptions } from 'node:stream';
import { describe, test } from 'node:test';
import { Readable as OtherReadable, Writable as OtherWritable } from 'readable-stream';
import {
  destroyStream,
  StreamReader,
  StreamWriter,
} from '../../../adapters/stream/destroy-stream.ts';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { collect, isSettled, manyTurns, promised, rejectsWith } from '../../helpers/backend.ts';
import { watchListeners } from '../../helpers/stream-peer.ts';

type Batch = { chunk: Uint8Array }[];

/** A stream to push into, of either make. */
function makeReadable(Base: typeof Readable = Readable): Readable {
  return new Base({ read() {} });
}

/** A sink that notes its batches; each waits until the test lets it go on. */
class Sink extends Writable {
  readonly batches: string[][] = [];
  goOn: (error?: Error) => void = () => {};

  constructor(options: WritableOptions = {}) {
    super({ decodeStrings: false, ...options });
  }

  override _write(chunk: Uint8Array, _: string, done: (error?: Error) => void): void {
    this._writev([{ chunk }], done);
  }

  override _writev(chunks: Batch, done: (error?: Error) => void): void {
    this.batches.push(chunks.map(({ chunk }) => Buffer.from(chunk).toString()));
    this.goOn = done;
  }
}

const bytes = (text: string): Buffer => Buffer.from(text);

function read(reader: StreamReader, position = 0): Promise<Uint8Array> {
  return promised(() => reader.read(position));
}

function write(writer: StreamWriter, ...texts: string[]): Promise<number> {
  return promised(() => writer.writev(texts.map(bytes), 100));
}

for (const [name, Base] of [
  ['node:stream', Readable],
  ['readable-stream', OtherReadable as unknown as typeof Readable],
] as const) {
  describe(`a reader of a Readable of ${name}`, () => {
    test('hands over the very chunks, one at a time, and then the end', async () => {
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

    test('fails with the error of the stream, after what came before it', async () => {
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

    test('takes a close without an end for a failure', async () => {
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
  test('asks for nothing before it is read', async () => {
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

  test('pauses a source that nobody keeps up with, and loses nothing', async () => {
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

  test('survives being set flowing by someone else', async () => {
    const stream = makeReadable();
    const reader = new StreamReader(stream);
    stream.push(bytes('abc'));
    stream.push(null);
    // As Node does to the output of a child that has exited.
    stream.resume();
    await manyTurns();
    assert.equal((await collect(() => read(reader))).toString(), 'abc');
  });

  test('knows the state of a stream that has ended, failed or closed before', async () => {
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

  test('refuses what is not bytes', async () => {
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

  test('fails a second read that does not wait for the first', async () => {
    const stream = makeReadable();
    const reader = new StreamReader(stream);
    const first = read(reader);
    await rejectsWith(read(reader), 'EBUSY');
    stream.push(bytes('abc'));
    assert.equal(Buffer.from(await first).toString(), 'abc');
  });

  test('wakes a read that is cancelled, and loses nothing', async () => {
    const stream = makeReadable();
    const reader = new StreamReader(stream);
    const waiting = rejectsWith(read(reader), 'ECANCELED');
    reader.cancel(new QemuFileError('ECANCELED', 'enough'));
    await waiting;
    stream.push(bytes('abc'));
    await manyTurns();
    assert.equal(Buffer.from(await read(reader)).toString(), 'abc');
  });

  test('lets go of its stream when closed, and wakes who waits', async () => {
    const stream = makeReadable();
    const leftovers = watchListeners(stream);
    const reader = new StreamReader(stream);
    const waiting = rejectsWith(read(reader), 'ECANCELED');
    reader.close();
    await waiting;
    await rejectsWith(read(reader), 'ECANCELED');
    assert.deepEqual(leftovers(), []);
  });

  test('fails with what it was closed with', async () => {
    const reader = new StreamReader(makeReadable());
    const error = new QemuFileError('ETIMEDOUT', 'too late');
    const waiting = assert.rejects(read(reader), error);
    reader.close(error);
    await waiting;
  });

  test('gives back what it had read ahead', async () => {
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

describe('a writer', () => {
  test('makes one batch of a batch, and answers when it was taken', async () => {
    const sink = new Sink();
    const writer = new StreamWriter(sink);
    const written = write(writer, 'one', '', 'two', 'three', '');
    assert.deepEqual(sink.batches, [['one', 'two', 'three']]);
    assert.equal(writer.pending, true);
    assert.equal(await isSettled(written), false);
    sink.goOn();
    assert.equal(await written, 11);
    assert.equal(writer.pending, false);
    assert.equal(writer.bytesWritten, 11);
    assert.equal(await write(writer, '', ''), 0);
    assert.equal(sink.batches.length, 1);
  });

  test('writes to a Writable of readable-stream too', async () => {
    const chunks: Buffer[] = [];
    const sink = new OtherWritable({
      write(chunk: Buffer, _encoding, done) {
        chunks.push(chunk);
        done();
      },
    });
    const writer = new StreamWriter(sink);
    assert.equal(await write(writer, 'one', 'two'), 6);
    await writer.end();
    assert.equal(Buffer.concat(chunks).toString(), 'onetwo');
  });

  test('fails with the error of the stream, and goes on failing', async () => {
    const sink = new Sink();
    const writer = new StreamWriter(sink);
    const cause = Object.assign(new Error('no'), { code: 'ECONNRESET' });
    const failed = { code: 'ECONNRESET', operation: 'writevBuffer', position: 100, cause };
    const written = assert.rejects(write(writer, 'one'), failed);
    sink.goOn(cause);
    await written;
    await assert.rejects(write(writer, 'two'), failed);
    await assert.rejects(write(writer, ''), failed);
    await rejectsWith(writer.end(), 'ECONNRESET');
  });

  test('tells the cause when the stream was destroyed with one', async () => {
    const sink = new Sink();
    const writer = new StreamWriter(sink);
    const cause = Object.assign(new Error('no'), { code: 'ETIMEDOUT' });
    const written = assert.rejects(write(writer, 'one'), { code: 'ETIMEDOUT', cause });
    sink.destroy(cause);
    await written;
  });

  test('fails with EPIPE when the stream closes before a batch was taken', async () => {
    const sink = new Sink();
    const writer = new StreamWriter(sink);
    const written = rejectsWith(write(writer, 'one'), 'EPIPE');
    sink.destroy();
    await written;
    await rejectsWith(write(writer, 'two'), 'EPIPE');
  });

  test('knows the state of a stream that has ended, failed or closed before', async () => {
    const ended = new PassThrough().end();
    const closed = new Sink();
    closed.destroy();
    const failed = new Sink().on('error', () => {});
    failed.destroy(Object.assign(new Error('x'), { code: 'EHOSTUNREACH' }));
    await rejectsWith(write(new StreamWriter(ended), 'x'), 'EPIPE');
    await rejectsWith(write(new StreamWriter(closed), 'x'), 'EPIPE');
    await rejectsWith(write(new StreamWriter(failed), 'x'), 'EHOSTUNREACH');
  });

  test('fails when the stream throws, and does not stay corked', async () => {
    const sink = new Sink();
    sink._write = () => {
      throw Object.assign(new Error('thrown'), { code: 'EPIPE' });
    };
    const writer = new StreamWriter(sink);
    await rejectsWith(write(writer, 'one'), 'EPIPE');
    assert.equal(sink.writableCorked, 0);
  });

  test('fails a second batch that does not wait for the first', async () => {
    const sink = new Sink();
    const writer = new StreamWriter(sink);
    const first = write(writer, 'one');
    await rejectsWith(write(writer, 'two'), 'EBUSY');
    sink.goOn();
    assert.equal(await first, 3);
  });

  test('ends its stream and waits until it has finished', async () => {
    const sink = new Sink();
    let finish = () => {};
    sink._final = (done) => {
      finish = done;
    };
    const writer = new StreamWriter(sink);
    const written = write(writer, 'one');
    sink.goOn();
    await written;
    const ended = writer.end();
    assert.equal(await isSettled(ended), false);
    finish();
    await ended;
    await writer.end();
    await rejectsWith(write(writer, 'two'), 'EPIPE');
    assert.equal(writer.bytesWritten, 3);
  });

  test('lets go of its stream when closed, and wakes who waits', async () => {
    const sink = new Sink();
    const leftovers = watchListeners(sink);
    const writer = new StreamWriter(sink);
    const waiting = rejectsWith(write(writer, 'one'), 'ECANCELED');
    writer.close();
    await waiting;
    await rejectsWith(write(writer, 'two'), 'ECANCELED');
    // The stream still works on the batch: an error of its must not end the process.
    assert.notDeepEqual(leftovers(), []);
    sink.goOn(new Error('late'));
    await manyTurns();
    assert.deepEqual(leftovers(), []);
  });
});

test('a stream that is destroyed is waited for, its late errors are dropped', async () => {
  const stream = new Writable({
    write() {},
    destroy(_error, done) {
      setImmediate(done, new Error('late'));
    },
  });
  const leftovers = watchListeners(stream);
  await destroyStream(stream);
  assert.equal(stream.closed, true);
  await destroyStream(stream);
  await manyTurns();
  assert.deepEqual(leftovers(), []);
});

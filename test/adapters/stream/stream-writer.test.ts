import assert from 'node:assert/strict';
import { PassThrough, Writable, type WritableOptions } from 'node:stream';
import { describe, test } from 'node:test';
import { Writable as OtherWritable } from 'readable-stream';
import { StreamWriter } from '../../../adapters/stream/stream-writer.ts';
import { isSettled, manyTurns, promised, rejectsWith } from '../../helpers/transports/backend.ts';
import { watchListeners } from '../../helpers/transports/stream-peer.ts';

type Batch = { chunk: Uint8Array }[];

/** A sink that records its batches; each waits until the test calls `goOn`. */
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

function write(writer: StreamWriter, ...texts: string[]): Promise<number> {
  return promised(() => writer.writev(texts.map(bytes), 100));
}

describe('a writer', () => {
  test('writes a batch as one, and resolves when the stream has taken it', async () => {
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

  test('writes to a Writable of readable-stream', async () => {
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

  test('fails with the error of the stream, and keeps failing', async () => {
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

  test('fails with the error that the stream was destroyed with', async () => {
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

  test('reports a stream that ended, failed or closed earlier', async () => {
    const ended = new PassThrough().end();
    const closed = new Sink();
    closed.destroy();
    const failed = new Sink().on('error', () => {});
    failed.destroy(Object.assign(new Error('x'), { code: 'EHOSTUNREACH' }));
    await rejectsWith(write(new StreamWriter(ended), 'x'), 'EPIPE');
    await rejectsWith(write(new StreamWriter(closed), 'x'), 'EPIPE');
    await rejectsWith(write(new StreamWriter(failed), 'x'), 'EHOSTUNREACH');
  });

  test('fails when the stream throws, and uncorks it', async () => {
    const sink = new Sink();
    sink._write = () => {
      throw Object.assign(new Error('thrown'), { code: 'EPIPE' });
    };
    const writer = new StreamWriter(sink);
    await rejectsWith(write(writer, 'one'), 'EPIPE');
    assert.equal(sink.writableCorked, 0);
  });

  test('fails a second batch while the first is pending', async () => {
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

  test('removes its listeners when closed, and fails the pending call', async () => {
    const sink = new Sink();
    const leftovers = watchListeners(sink);
    const writer = new StreamWriter(sink);
    const waiting = rejectsWith(write(writer, 'one'), 'ECANCELED');
    writer.close();
    await waiting;
    await rejectsWith(write(writer, 'two'), 'ECANCELED');
    // The stream still works on the batch: its error must not end the process.
    assert.notDeepEqual(leftovers(), []);
    sink.goOn(new Error('late'));
    await manyTurns();
    assert.deepEqual(leftovers(), []);
  });
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { QemuFile } from '../../../lib/index.ts';
import { turn } from '../../helpers/bytes.ts';
import { Sink } from '../../helpers/transports/backends.ts';

/** Read everything of a file that only looks at its gates. */
function look(file: QemuFile): void {
  for (let i = 0; i < 3; i += 1) {
    void file.writableNeedDrain;
    void file.writableLength;
    void file.getRateLimit();
    void file.limitedMs;
  }
}

/** How a gate shuts, in a file whose backend is called only when bytes are flushed. */
const SHUT: { name: string; make: (sink: Sink) => QemuFile; put: (file: QemuFile) => void }[] = [
  {
    name: 'the transport gate, by typed puts',
    make: (sink) => new QemuFile(sink, { highWaterMark: 100, autoFlush: false }),
    put: (file) => file.putBuffer(Buffer.alloc(200)),
  },
  {
    name: 'the transport gate, by corked puts',
    make: (sink) => {
      const file = new QemuFile(sink, { highWaterMark: 100 });
      file.cork();
      return file;
    },
    put: (file) => file.putBuffer(Buffer.alloc(200)),
  },
  {
    name: 'the budget gate that the file runs itself',
    make: (sink) => new QemuFile(sink, { maxBandwidth: 100_000, autoFlush: false }),
    put: (file) => file.putBuffer(Buffer.alloc(20_000)),
  },
];

describe('the gates of a file', () => {
  for (const { name, make, put } of SHUT) {
    test(`${name}: reading properties and asking send nothing`, () => {
      const sink = new Sink('sync');
      const file = make(sink);
      put(file);
      look(file);
      assert.equal(file.rateLimitExceeded(), true);
      assert.equal(file.rateLimitExceeded(), true);
      look(file);
      assert.equal(sink.calls.length, 0);
    });

    test(`${name}: opens without a call at the end of the tick`, async () => {
      const sink = new Sink('sync');
      const file = make(sink);
      for (let round = 1; round <= 3; round += 1) {
        put(file);
        assert.equal(file.rateLimitExceeded(), true);
        await file.drain();
        assert.equal(file.rateLimitExceeded(), false);
      }
      file.destroy();
    });
  }

  test('a gate that shuts in a later tick than the batch began opens, too', async () => {
    const sink = new Sink('async');
    const file = new QemuFile(sink, { highWaterMark: 100, autoFlush: false });
    file.putByte(1);
    await turn();
    await turn();
    file.putBuffer(Buffer.alloc(200));
    assert.equal(file.rateLimitExceeded(), true);
    await file.drain();
    assert.equal(sink.written.length, 201);
  });

  test('a limit that is lowered below what waits has it sent', async () => {
    const sink = new Sink('async');
    const file = new QemuFile(sink, { autoFlush: false });
    file.putBuffer(Buffer.alloc(3000));
    await turn();
    assert.equal(sink.calls.length, 0);
    file.maxBandwidth = 20_000;
    assert.equal(file.rateLimitExceeded(), true);
    await file.drain();
    file.destroy();
  });

  test('writableNeedDrain is true from the answer to wait until "drain"', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink, { highWaterMark: 100 });
    file.putBufferAsync(Buffer.alloc(100));
    assert.equal(file.writableNeedDrain, false);
    assert.equal(file.write(Buffer.alloc(1)), false);
    assert.equal(file.writableNeedDrain, true);
    const drained = once(file, 'drain');
    sink.take();
    await turn();
    sink.take();
    await drained;
    assert.equal(file.writableNeedDrain, false);
  });

  test('reading properties asks for no "drain"', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink, { highWaterMark: 100 });
    let drains = 0;
    file.on('drain', () => (drains += 1));
    file.putBufferAsync(Buffer.alloc(100));
    look(file);
    await turn();
    sink.take();
    await turn();
    assert.equal(file.writableLength, 0);
    assert.equal(drains, 0);
  });
});

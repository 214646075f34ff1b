// How a relay's bytes get from one file to others: whose memory they lie in, and who else sees them.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { socketOps } from '../../adapters/index.ts';
import { QemuFile } from '../../lib/index.ts';
import { Transfer } from '../../lib/relay/transfer.ts';
import { pattern, piecesOf, turn } from '../helpers/bytes.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { Sink, Source } from '../helpers/transports/backends.ts';
import { plainSockets } from '../helpers/transports/sockets.ts';
import { until } from '../helpers/until.ts';

const SIZE = 8 * 1024 * 1024;

/** A backend that fills the given buffers, and records them. */
class Filler {
  readonly memories = new Set<ArrayBufferLike>();
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  async getBuffer(buffer: Uint8Array, position: number): Promise<number> {
    this.memories.add(buffer.buffer);
    return this.#bytes.copy(buffer, 0, position);
  }
}

describe('a transfer', { timeout: 300_000 }, () => {
  test('uses the same memory again once the sinks have taken it', async () => {
    const bytes = pattern(SIZE);
    const filler = new Filler(bytes);
    const sinks = [new Sink('async'), new Sink('async')];
    const files = sinks.map((sink) => new QemuFile(sink));
    await new Transfer(new QemuFile(filler), files).ended;
    for (const [at, sink] of sinks.entries()) {
      await files[at]?.flush();
      assert.ok(sink.written.equals(bytes));
    }
    assert.ok(filler.memories.size <= 6, `${filler.memories.size} blocks`);
  });

  test('uses the same memory again where a sink takes 4 MiB at once', async () => {
    const bytes = pattern(2 * SIZE);
    const filler = new Filler(bytes);
    const sink = new Sink('async');
    const to = new QemuFile(sink, { highWaterMark: SIZE / 2, gatherEntries: 1024 });
    await new Transfer(new QemuFile(filler, { lookAheadSize: 192 * 1024 }), [to]).ended;
    await to.flush();
    assert.ok(sink.written.equals(bytes));
    // The sink holds one batch of 4 MiB while the next one is gathered.
    assert.ok(filler.memories.size <= 50, `${filler.memories.size} blocks`);
  });

  test('passes copies to other listeners of the source', async () => {
    const bytes = pattern(SIZE);
    const source = new QemuFile(new Filler(bytes));
    const seen: Buffer[] = [];
    const sink = new Sink('async');
    const to = new QemuFile(sink);
    const done = new Transfer(source, [to]).ended;
    source.on('data', (chunk: Buffer) => seen.push(chunk));
    await done;
    await to.flush();
    assert.ok(Buffer.concat(seen).equals(bytes));
    assert.ok(sink.written.equals(bytes));
  });

  test('begins with the look-ahead and the bytes that the stream had buffered', async () => {
    const bytes = pattern(300_000);
    const source = new QemuFile(
      new Source(piecesOf(bytes, 50_000), { answering: 'async', hands: true }),
    );
    await source.readBe32();
    source.unshift(bytes.subarray(0, 4));
    const sink = new Sink('async');
    const to = new QemuFile(sink);
    await new Transfer(source, [to]).ended;
    await to.flush();
    assert.ok(sink.written.equals(bytes));
    assert.ok(source.readableEnded);
  });

  test('leaves alone the memory that the backend is filling for a wait which was given up', async () => {
    const bytes = pattern(300_000);
    const gates: (() => void)[] = [];
    const source = new QemuFile({
      getBuffer: async (buffer, position) => {
        // Ten bytes at once, the next only when they are asked for, and then as fast as it goes.
        if (position > 0 && gates.length === 0) await new Promise<void>((go) => gates.push(go));
        return bytes.copy(buffer, 0, position, position === 0 ? 10 : undefined);
      },
    });
    const abort = new AbortController();
    const waiting = source.fillOrEnd(100, { signal: abort.signal });
    await until(() => gates.length > 0, { what: 'the backend to be asked again' });
    abort.abort();
    await assert.rejects(waiting, { code: 'ECANCELED' });
    const sink = new Sink('async');
    const to = new QemuFile(sink);
    const done = new Transfer(source, [to]).ended;
    await to.flush();
    gates[0]?.();
    await done;
    await to.flush();
    assert.ok(sink.written.equals(bytes));
  });

  for (const way of ['tcp', 'unix']) {
    test(`keeps the order from ${way} to ${way}`, async () => {
      await using folder = makeTempDir();
      const path = (name: string): string | undefined =>
        way === 'unix' ? folder.join(name) : undefined;
      const [near, sender] = await plainSockets(path('from'));
      const [far, receiver] = await plainSockets(path('to'));
      const bytes = pattern(SIZE);
      sender.end(bytes);
      const from = new QemuFile(socketOps(near));
      const to = new QemuFile(socketOps(far));
      const got: Buffer[] = [];
      receiver.on('data', (chunk) => got.push(chunk));
      const ended = new Promise((resolve) => receiver.once('end', resolve));
      await new Transfer(from, [to]).ended;
      to.end();
      await ended;
      assert.ok(Buffer.concat(got).equals(bytes));
      receiver.end();
      await Promise.all([from.close(), to.close()]);
      sender.destroy();
    });
  }

  test('reports chunks that the sink took, and none that it failed with', async () => {
    const source = new Source(piecesOf(pattern(3000), 1000));
    const sink = new Sink('manual');
    const file = new QemuFile(sink, { gatherEntries: 1, highWaterMark: 2500 });
    const taken: number[] = [];
    void new Transfer(new QemuFile(source), [file], (chunk) => taken.push(chunk.length));
    await until(() => file.writableLength === 3000, { what: 'all chunks put' });
    sink.take();
    await turn();
    assert.deepEqual(taken, [1000]);
    file.setError(-32);
    sink.take();
    await turn();
    assert.deepEqual(taken, [1000]);
  });

  test('continues without a sink that it drops', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink, { highWaterMark: 1 });
    const moved = new Transfer(new QemuFile(new Source(piecesOf(pattern(3000), 1000))), [file]);
    await until(() => file.writableLength > 0, { what: 'a chunk put' });
    moved.drop();
    await moved.ended;
    assert.equal(file.writableLength, 1000);
    file.destroy();
  });
});

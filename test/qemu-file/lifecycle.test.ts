import assert from 'node:assert/strict';
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import * as nodeStream from 'node:stream';
import { addAbortSignal, Duplex, PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { finished, pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import tls from 'node:tls';
import { createGunzip, createGzip } from 'node:zlib';
import { memoryOps } from '../../adapters/memory/memory.ts';
import { memoryPair } from '../../adapters/memory/memory-pair.ts';
import { socketOps } from '../../adapters/socket/socket.ts';
import { QemuFile, type QemuFileOptions } from '../../lib/index.ts';
import { asNodeDuplex, toWeb } from '../../lib/qemu-file/node-interop.ts';

/** Missing in the types of Node 20. */
const { compose } = nodeStream as unknown as { compose: (...streams: Duplex[]) => Duplex };

/** Two files at the ends of a connection inside the process. */
function filePair(options?: QemuFileOptions): [QemuFile, QemuFile] {
  const [a, b] = memoryPair();
  return [new QemuFile(a, options), new QemuFile(b, options)];
}

/** A file that delivers `bytes`, and one whose bytes `contents()` returns. */
function source(bytes: Uint8Array): QemuFile {
  return new QemuFile(memoryOps(bytes), { writable: false });
}
function sink(): { file: QemuFile; contents(): Uint8Array } {
  const memory = memoryOps();
  return { file: new QemuFile(memory, { readable: false }), contents: () => memory.contents() };
}

const pem = (name: string): Buffer =>
  readFileSync(new URL(`../fixtures/tls/${name}`, import.meta.url));

/** Both ends of a real connection. */
async function connection(secure: boolean): Promise<[net.Socket, net.Socket]> {
  const options = { allowHalfOpen: true };
  const server = secure
    ? tls.createServer({ ...options, cert: pem('server.pem'), key: pem('server-key.pem') })
    : net.createServer(options);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  const accepted = once(server, secure ? 'secureConnection' : 'connection');
  const client = secure
    ? tls.connect({
        ...options,
        port,
        host: '127.0.0.1',
        ca: pem('ca.pem'),
        servername: 'localhost',
      })
    : net.connect({ ...options, port, host: '127.0.0.1' });
  const [peer] = (await accepted) as [net.Socket];
  server.close();
  return [client, peer];
}

const payload = randomBytes(700_000);

describe('pipe() and pipeline()', () => {
  for (const secure of [false, true]) {
    const kind = secure ? 'tls' : 'net';

    test(`a file pipes into a ${kind} socket and out of one`, async () => {
      const [client, peer] = await connection(secure);
      const target = sink();
      const received = finished(target.file);
      peer.pipe(target.file);
      source(payload).pipe(client);
      await received;
      assert.deepEqual(Buffer.from(target.contents()), payload);
      client.destroy();
      peer.destroy();
    });

    test(`a ${kind} socket as a backend carries both directions of a pipeline`, async () => {
      const [client, peer] = await connection(secure);
      const here = new QemuFile(socketOps(client));
      const there = new QemuFile(socketOps(peer));
      const echoed = pipeline(there, new PassThrough(), there);
      const back = buffer(here);
      await pipeline(Readable.from([payload]), here);
      assert.deepEqual(await back, payload);
      await echoed;
      await Promise.all([here.close(), there.close()]);
    });
  }

  test('gzip and crypto transforms work on both sides of two files', async () => {
    const [here, there] = filePair();
    const key = Buffer.alloc(32, 7);
    const iv = Buffer.alloc(16, 9);
    const target = new PassThrough();
    const result = buffer(target);
    await Promise.all([
      pipeline(
        Readable.from([payload]),
        createGzip(),
        createCipheriv('aes-256-ctr', key, iv),
        here,
      ),
      pipeline(there, createDecipheriv('aes-256-ctr', key, iv), createGunzip(), target),
    ]);
    assert.deepEqual(await result, payload);
    await Promise.all([here.close(), there.close()]);
  });

  test('pipeline() rejects with the latched error of a file that fails', async () => {
    const failing = new QemuFile({ writevBuffer: () => -28 });
    await assert.rejects(pipeline(Readable.from([payload]), failing), { code: 'ENOSPC' });
    assert.equal(failing.error?.code, 'ENOSPC');
  });

  test('pipeline() waits for the backend to close and reports its failure', async () => {
    const file = new QemuFile({
      writevBuffer: (buffers) => buffers.reduce((sum, buffer) => sum + buffer.length, 0),
      close: () => Promise.reject(new Error('the last step failed')),
    });
    await assert.rejects(pipeline(Readable.from([payload]), file), /the last step failed/);
  });

  test('a slow reader holds back a fast source', async () => {
    const [here, there] = filePair({ highWaterMark: 65_536 });
    let produced = 0;
    const fast = new Readable({
      read() {
        produced += 16_384;
        this.push(produced > 100 * 65_536 ? null : Buffer.alloc(16_384));
      },
    });
    const writing = pipeline(fast, here);
    await there.fill(1);
    // Nobody reads on: the connection, our high-water mark and the source's own buffer are all there is.
    for (let i = 0; i < 50; i++) await new Promise(setImmediate);
    assert.ok(produced < 10 * 65_536, `${produced} bytes were produced for a reader that waits`);
    assert.equal((await buffer(there)).length, 100 * 65_536);
    await writing;
    await Promise.all([here.close(), there.close()]);
  });
});

describe("Node's other stream helpers", () => {
  test('compose() puts a file after transforms', async () => {
    const target = sink();
    const composed = compose(createGzip(), target.file);
    composed.end(payload);
    await finished(target.file);
    assert.deepEqual(
      await buffer(Readable.from([target.contents()]).pipe(createGunzip())),
      payload,
    );
  });

  test('finished() reports the end of either half', async () => {
    const [here, there] = filePair();
    here.end('bytes');
    await finished(here, { readable: false });
    there.resume();
    await finished(there, { writable: false });
    await Promise.all([here.close(), there.close()]);
  });

  test('for await ends at the end and leaves the put half alone', async () => {
    const [here, there] = filePair();
    here.end('question');
    assert.equal((await buffer(there)).toString(), 'question');
    there.end('answer');
    assert.equal((await buffer(here)).toString(), 'answer');
    await Promise.all([here.close(), there.close()]);
  });

  test('leaving for await early destroys the file and closes the backend', async () => {
    let closed = 0;
    const file = new QemuFile({ getBuffer: () => Buffer.alloc(10), close: () => void closed++ });
    for await (const chunk of file) {
      assert.equal(chunk.length, 10);
      break;
    }
    await once(file, 'close');
    assert.equal(closed, 1);
  });

  test('addAbortSignal() destroys the file with the reason as cause', async () => {
    const controller = new AbortController();
    const file = addAbortSignal(
      controller.signal,
      new QemuFile({ getBuffer: () => new Promise<number>(() => {}) }),
    );
    const reading = file.readByte();
    controller.abort();
    await assert.rejects(reading, { code: 'ECANCELED' });
    assert.match(String(file.error?.cause), /AbortError/);
  });

  test('the option signal destroys the file and latches ECANCELED', async () => {
    const controller = new AbortController();
    const file = new QemuFile(
      { writevBuffer: () => new Promise<number>(() => {}) },
      { signal: controller.signal },
    );
    file.putByte(1);
    const flushing = file.flush();
    controller.abort(new Error('enough'));
    await assert.rejects(flushing, { code: 'ECANCELED', cause: new Error('enough') });
    await assert.rejects(file.close(), { code: 'ECANCELED' });
  });

  test('a signal ends any wait, and only the waits of its own', async () => {
    let take: (count: number) => void = () => {};
    const closes: unknown[] = [];
    const file = new QemuFile({
      writevBuffer: () =>
        new Promise<number>((resolve) => {
          take = resolve;
        }),
      getBuffer: () => new Promise<number>(() => {}),
      close: (error) => void closes.push(error),
    });
    file.putByte(1);
    const controller = new AbortController();
    const { signal } = controller;
    const patient = file.flush();
    const waits = [
      file.flush({ signal }),
      file.tell({ signal }),
      file.fill(1, { signal }),
      file.atEnd({ signal }),
      file.readBe32({ signal }),
      file.readCountedString('utf8', { signal }),
    ];
    controller.abort();
    for (const wait of waits) await assert.rejects(wait, { code: 'ECANCELED' });
    assert.equal(file.error, null);
    take(1);
    await patient;

    file.putByte(2);
    await assert.rejects(file.close({ signal: AbortSignal.abort() }), { code: 'ECANCELED' });
    await assert.rejects(file.close(), { code: 'ECANCELED' });
    assert.equal(closes.length, 1);
    assert.ok(closes[0] instanceof Error);
  });

  test('toWeb() of either half carries the bytes', async () => {
    const [here, there] = filePair();
    const out = toWeb(here);
    const writer = out.writable.getWriter();
    await writer.write(payload.subarray(0, 1000));
    const closing = writer.close();
    assert.deepEqual(await buffer(there), payload.subarray(0, 1000));
    there.end('back');
    assert.equal((await buffer(out.readable)).toString(), 'back');
    await closing;
    await Promise.all([here.close(), there.close()]);
  });

  test('Readable.toWeb() and Duplex.toWeb() of Node take a file', async () => {
    assert.deepEqual(await buffer(Readable.toWeb(source(payload))), payload);
    assert.deepEqual(await buffer(Duplex.toWeb(source(payload)).readable), payload);
  });

  test("asNodeDuplex() returns an instance of Node's Duplex that ends and fails with the file", async () => {
    const [here, there] = filePair();
    const duplex = asNodeDuplex(here);
    assert.ok(duplex instanceof Duplex);
    assert.ok(!(here instanceof Duplex));
    duplex.end('there');
    assert.equal((await buffer(there)).toString(), 'there');
    there.end('and back');
    assert.equal((await buffer(duplex)).toString(), 'and back');
    await there.close();

    const failing = asNodeDuplex(new QemuFile({ writevBuffer: () => -32 }, { readable: false }));
    failing.write('bytes');
    await assert.rejects(finished(failing), { code: 'EPIPE' });
  });

  test('asNodeDuplex() moves more than both streams hold, each way, with backpressure', async () => {
    const bytes = Buffer.alloc(3_000_000, 'backpressure');
    const [here, there] = filePair();
    const duplex = asNodeDuplex(here);
    const arrived = buffer(there);
    await pipeline(
      Readable.from([bytes.subarray(0, 1_000_000), bytes.subarray(1_000_000)]),
      duplex,
      {
        end: false,
      } as never,
    );
    duplex.end();
    assert.ok((await arrived).equals(bytes));
    there.end(bytes);
    assert.ok((await buffer(duplex)).equals(bytes));
  });

  test('asNodeDuplex() closes with its file, whichever is closed and how, and no process ends', async () => {
    const silent = { getBuffer: () => new Promise<number>(() => {}), writevBuffer: () => -32 };
    const ways: [string, (file: QemuFile, duplex: Duplex) => void, string | undefined][] = [
      ['file.destroy()', (file) => file.destroy(), undefined],
      ['file.destroy(error)', (file) => file.destroy(new Error('broken')), 'EIO'],
      ['file.close()', (file) => void file.close(), undefined],
      ['duplex.destroy()', (_file, duplex) => duplex.destroy(), undefined],
      ['a write that fails', (_file, duplex) => duplex.write('bytes'), 'EPIPE'],
      ['a signal', (file) => file.setError(-125), 'ECANCELED'],
    ];
    for (const [name, close, code] of ways) {
      let closes = 0;
      const onClose = (): void => {
        closes += 1;
      };
      const file = new QemuFile({ ...silent, close: onClose });
      const duplex = asNodeDuplex(file);
      const closed = new Promise((resolve) => duplex.once('close', resolve));
      close(file, duplex);
      await closed;
      assert.equal(file.destroyed, true, name);
      assert.equal(file.error?.code, code, name);
      assert.equal(duplex.errored === null, code === undefined, name);
      assert.equal(closes, 1, name);
    }
  });

  test('await using flushes, then closes', async () => {
    const target = sink();
    {
      await using file = target.file;
      file.putBe32(0x01020304);
    }
    assert.equal(Buffer.from(target.contents()).toString('hex'), '01020304');
    assert.equal(target.file.destroyed, true);
  });
});

describe('typed access and the stream side of one file', () => {
  const bytes = Buffer.from(Array.from({ length: 64 }, (_, i) => i));

  for (let header = 0; header <= 8; header++) {
    test(`${header} typed gets, then pipe(): no byte is lost or doubled`, async () => {
      for (let split = 0; split <= bytes.length; split++) {
        const chunks = [bytes.subarray(0, split), bytes.subarray(split)].filter(
          (c) => c.length > 0,
        );
        const file = new QemuFile({ getBuffer: () => chunks.shift() ?? 0 });
        for (let i = 0; i < header; i++) assert.equal(await file.readByte(), i);
        assert.deepEqual(await buffer(file.pipe(new PassThrough())), bytes.subarray(header));
      }
    });
  }

  test('read() and typed gets can alternate at every split', async () => {
    for (let split = 1; split < bytes.length; split++) {
      const chunks = [bytes.subarray(0, split), bytes.subarray(split)];
      const file = new QemuFile({ getBuffer: async () => chunks.shift() ?? 0 });
      const seen: number[] = [];
      while (!(await file.atEnd())) {
        seen.push(await file.readByte());
        const chunk = file.read(3);
        if (chunk !== null) seen.push(...chunk);
        assert.equal(file.getPosition, seen.length);
      }
      assert.deepEqual(Buffer.from(seen), bytes);
      assert.equal(file.error, null);
    }
  });

  test("a 'readable' listener sees what typed gets left", async () => {
    const [here, there] = filePair();
    here.putBe16(0x0102);
    here.end('rest');
    assert.equal(await there.readBe16(), 0x0102);
    let text = '';
    there.on('readable', () => {
      for (let chunk = there.read(); chunk !== null; chunk = there.read()) text += chunk.toString();
    });
    await once(there, 'end');
    assert.equal(text, 'rest');
    await Promise.all([here.close(), there.close()]);
  });

  test('paused after some chunks, the rest can be had with typed gets', async () => {
    const chunks = [Buffer.from('ab'), Buffer.from('cd'), Buffer.from('ef')];
    const file = new QemuFile({ getBuffer: async () => chunks.shift() ?? 0 });
    const [first] = (await once(file, 'data')) as [Buffer];
    file.pause();
    assert.equal(first.toString(), 'ab');
    assert.equal((await file.readBuffer(4)).toString(), 'cdef');
    assert.equal(await file.atEnd(), true);
  });

  test('typed puts, write() and pipe() keep their order while the backend is busy', async () => {
    const taken: Buffer[] = [];
    const file = new QemuFile({
      async writevBuffer(buffers) {
        await new Promise(setImmediate);
        const batch = Buffer.concat(buffers);
        taken.push(batch);
        return batch.length;
      },
    });
    const expected: Buffer[] = [];
    for (let i = 0; i < 200; i++) {
      file.putBe16(i);
      const chunk = Buffer.alloc(i * 37, i);
      file.write(chunk);
      expected.push(Buffer.from([i >> 8, i & 255]), chunk);
      if (i % 20 === 0) await new Promise(setImmediate);
    }
    await file.close();
    assert.deepEqual(Buffer.concat(taken), Buffer.concat(expected));
  });
});

describe('one socket', () => {
  test('half-open: each direction ends apart', async () => {
    const [client, peer] = await connection(false);
    const here = new QemuFile(socketOps(client));
    const there = new QemuFile(socketOps(peer));
    here.end('one way');
    assert.equal((await buffer(there)).toString(), 'one way');
    there.putBe32(42);
    await there.flush();
    assert.equal(await here.readBe32(), 42);
    await Promise.all([here.close(), there.close()]);
  });

  test('the return path is a file of its own, and the socket closes with the last', async () => {
    const [client, peer] = await connection(false);
    const out = new QemuFile(socketOps(client));
    const back = out.getReturnPath();
    const incoming = new QemuFile(socketOps(peer));
    const answers = incoming.getReturnPath();
    assert.ok(back !== null && answers !== null);
    out.putBe32(1);
    await out.flush();
    assert.equal(await incoming.readBe32(), 1);
    answers.putBe16(2);
    await answers.flush();
    assert.equal(await back.readBe16(), 2);
    await Promise.all([out.close(), incoming.close()]);
    assert.equal(client.destroyed, false);
    await Promise.all([back.close(), answers.close()]);
    assert.equal(client.destroyed, true);
  });

  test('back-to-back files: what one looked ahead and did not use, the next one gets', async () => {
    const [client, peer] = await connection(false);
    const out = socketOps(client);
    const incoming = socketOps(peer);
    for (let i = 0; i < 3; i++) {
      const file = new QemuFile(out.share());
      file.putBe32(i);
      file.putBuffer(payload.subarray(0, 5000));
      await file.close();
    }
    for (let i = 0; i < 3; i++) {
      const file = new QemuFile(incoming.share());
      // All three may have arrived by now, and be looked ahead together.
      assert.equal(await file.readBe32(), i);
      if (i === 1) assert.equal(file.read(1)?.[0], payload[0]);
      const from = i === 1 ? 1 : 0;
      assert.deepEqual(await file.readBuffer(5000 - from), payload.subarray(from, 5000));
      await file.close();
    }
    assert.equal(client.destroyed, false);
    await Promise.all([out.close(), incoming.close()]);
    assert.equal(client.destroyed, true);
  });
});

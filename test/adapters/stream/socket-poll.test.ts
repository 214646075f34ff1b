import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { afterEach, describe, mock, test } from 'node:test';
import { hasFastPath } from '../../../adapters/stream/fast-path.ts';
import { SocketPoll } from '../../../adapters/stream/socket-poll.ts';
import { StreamReader } from '../../../adapters/stream/stream-reader.ts';
import { manyTurns, pattern, promised, rejectsWith } from '../../helpers/transports/backend.ts';
import { plainSockets } from '../../helpers/transports/sockets.ts';

const LIMITS = { timeout: 300_000, skip: hasFastPath() ? false : 'the fast paths are off' };

let sockets: Socket[] = [];

async function connected(): Promise<[here: Socket, far: Socket]> {
  const pair = await plainSockets();
  sockets.push(...pair);
  return pair;
}

/** A connection whose near end is read with the poll: the first bytes have come through the stream. */
async function polled(): Promise<{
  reader: StreamReader;
  space: Buffer;
  here: Socket;
  far: Socket;
}> {
  const [here, far] = await connected();
  const reader = new StreamReader(here);
  const space = Buffer.alloc(65_536);
  far.write('x');
  await promised(() => reader.read(0, space));
  return { reader, space, here, far };
}

/** Release a reader whose read waits, which fails the read. */
async function releasedWhileReading(reader: StreamReader, space: Buffer): Promise<void> {
  const cut = rejectsWith(
    promised(() => reader.read(1, space)),
    'ECANCELED',
  );
  reader.release();
  await cut;
}

async function readAll(reader: StreamReader): Promise<Buffer> {
  const space = Buffer.alloc(65_536);
  const parts: Buffer[] = [];
  for (;;) {
    const answer = await promised(() => reader.read(0, space));
    const part = typeof answer === 'number' ? space.subarray(0, answer) : answer;
    if (part.length === 0) return Buffer.concat(parts);
    parts.push(Buffer.from(part));
  }
}

async function flowed(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

describe('waiting for a socket with a poll', LIMITS, () => {
  afterEach(() => {
    for (const socket of sockets) socket.destroy();
    sockets = [];
  });

  test('reads into the space of the waiting read, past the stream', async () => {
    const { reader, space, here, far } = await polled();
    for (const text of ['one', 'three', 'five']) {
      const waiting = promised(() => reader.read(1, space));
      far.write(text);
      assert.equal(await waiting, text.length);
      assert.equal(space.toString('latin1', 0, text.length), text);
    }
    assert.equal(here.bytesRead, 1);
  });

  test('reports the end to the reader and to the stream', async () => {
    const { reader, space, here, far } = await polled();
    const ended = once(here, 'end');
    const waiting = promised(() => reader.read(1, space));
    far.end();
    assert.equal(((await waiting) as Uint8Array).length, 0);
    await ended;
    assert.equal(here.destroyed, false);
    assert.equal(here.writable, true);
    here.end('last');
    assert.equal((await flowed(far)).toString(), 'last');
  });

  test('reports a reset to the reader, and destroys the socket with it', async () => {
    const { reader, space, here, far } = await polled();
    const failed = once(here, 'error');
    const waiting = promised(() => reader.read(1, space));
    far.resetAndDestroy();
    await rejectsWith(waiting, 'ECONNRESET');
    const [error] = (await failed) as [NodeJS.ErrnoException];
    assert.equal(error.code, 'ECONNRESET');
    assert.equal(here.destroyed, true);
  });

  test('reports a socket that other code destroys', async () => {
    const { reader, space, here } = await polled();
    const waiting = promised(() => reader.read(1, space));
    here.destroy();
    await rejectsWith(waiting, 'ECONNRESET');
  });

  test('leaves bytes in the kernel while no read waits, and returns them to the next one', async () => {
    const { reader, space, here, far } = await polled();
    const first = promised(() => reader.read(1, space));
    far.write('one');
    assert.equal(await first, 3);
    await new Promise((resolve) => far.write('two', resolve));
    // As Node does with the output of a child that has exited.
    here.resume();
    await manyTurns();
    assert.equal(here.readableLength, 0);
    assert.equal(await promised(() => reader.read(4, space)), 3);
    assert.equal(space.toString('latin1', 0, 3), 'two');
  });

  test('starts the time of the socket anew', async () => {
    const { reader, space, here, far } = await polled();
    here.setTimeout(600_000);
    const start = mock.method(here, 'setTimeout');
    const waiting = promised(() => reader.read(1, space));
    far.write('one');
    await waiting;
    assert.ok(start.mock.callCount() > 0);
  });

  test('is given back to a stream that then reads as usual', async () => {
    const { reader, space, here, far } = await polled();
    await releasedWhileReading(reader, space);
    const sent = pattern(300_000);
    far.end(sent);
    assert.ok((await flowed(here)).equals(sent));
  });

  test('is given back to a stream that obeys its high-water mark', async () => {
    const { reader, here, far } = await polled();
    const waiting = rejectsWith(
      promised(() => reader.read(1, Buffer.alloc(10))),
      'ECANCELED',
    );
    reader.close();
    await waiting;
    here.pause();
    const sent = pattern(1_000_000);
    far.end(sent);
    await once(here, 'readable');
    await manyTurns();
    assert.ok(here.readableLength <= here.readableHighWaterMark + 65_536, `${here.readableLength}`);
    assert.ok((await flowed(here)).equals(sent));
  });

  test('is given back to a further reader, which polls again', async () => {
    const { reader, space, here, far } = await polled();
    await releasedWhileReading(reader, space);
    const next = new StreamReader(here);
    const sent = pattern(3_000_000);
    far.end(sent);
    assert.ok((await readAll(next)).equals(sent));
  });

  test('is not done where the handle of the socket is not as expected', async () => {
    const [here, far] = await connected();
    const handle = (here as unknown as { _handle: { useUserBuffer: unknown } })._handle;
    handle.useUserBuffer = undefined;
    assert.equal(SocketPoll.of(here), undefined);
    const reader = new StreamReader(here);
    const sent = pattern(1_000_000);
    far.end(sent);
    assert.ok((await readAll(reader)).equals(sent));
  });
});

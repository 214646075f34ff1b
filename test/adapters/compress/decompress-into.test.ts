import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { canDecompressInto, decompressInto } from '../../../adapters/compress/decompress-into.ts';
import { connectSocket } from '../../../adapters/socket/connect.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';

const folders = (process.env.PATH ?? '').split(':');
const isMissing = ['zstd', 'setpriv'].some(
  (tool) => !folders.some((folder) => existsSync(`${folder}/${tool}`)),
);
const BYTES = Buffer.alloc(3_000_000, 'guest memory');

/** Decompress bytes into a socket whose other end `use` has. */
async function send(
  packed: Buffer,
  use: (peer: net.Socket) => unknown,
  signal?: AbortSignal,
): Promise<number | null> {
  await using dir = makeTempDir();
  const server = net.createServer({ allowHalfOpen: true }).listen(dir.join('socket'));
  await once(server, 'listening');
  const accepted = once(server, 'connection');
  const socket = await connectSocket({ path: dir.join('socket') });
  const [peer] = (await accepted) as [net.Socket];
  peer.on('error', () => {});
  writeFileSync(dir.join('packed'), packed);
  const input = openSync(dir.join('packed'), 'r');
  try {
    use(peer);
    return await decompressInto(input, socket, signal);
  } finally {
    assert.ok(socket.destroyed);
    closeSync(input);
    peer.destroy();
    server.close();
  }
}

describe('decompressing into a socket', { skip: isMissing && 'a tool is missing' }, () => {
  const packed = isMissing ? Buffer.alloc(0) : execFileSync('zstd', ['-c'], { input: BYTES });

  test('delivers all bytes, and ends the connection', async () => {
    assert.equal(await canDecompressInto(), true);
    const chunks: Buffer[] = [];
    let ended: Promise<unknown> | undefined;
    const bytes = await send(packed, (peer) => {
      peer.on('data', (chunk: Buffer) => chunks.push(chunk));
      ended = once(peer, 'end');
    });
    assert.equal(bytes, BYTES.length);
    await ended;
    assert.ok(Buffer.concat(chunks).equals(BYTES));
  });

  test('fails with EPIPE if the peer stops reading', async () => {
    await assert.rejects(
      send(packed, (peer) => peer.destroy()),
      { code: 'EPIPE' },
    );
    const afterSome = (peer: net.Socket): void => {
      peer.once('data', () => peer.destroy());
    };
    await assert.rejects(send(packed, afterSome), { code: 'EPIPE' });
  });

  test('fails with the words of zstd if the data is damaged', async () => {
    const cut = packed.subarray(0, packed.length - 5);
    await assert.rejects(
      send(cut, (peer) => peer.resume()),
      { code: 'EIO', message: /status 1, stderr: .*premature end/ },
    );
  });

  test('ends with the signal', async () => {
    const controller = new AbortController();
    const sending = send(packed, () => controller.abort(), controller.signal);
    await assert.rejects(sending, { code: 'ECANCELED' });
    const later = new AbortController();
    // The peer does not read, so the program waits.
    const waiting = send(packed, (peer) => setImmediate(() => later.abort(peer)), later.signal);
    await assert.rejects(waiting, { code: 'ECANCELED' });
  });

  test('is not possible without setpriv', async () => {
    const { PATH } = process.env;
    await using empty = makeTempDir();
    process.env.PATH = empty.path;
    try {
      assert.equal(await canDecompressInto(), false);
    } finally {
      process.env.PATH = PATH;
    }
  });
});

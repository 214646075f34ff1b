import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import type net from 'node:net';
import { describe, test } from 'node:test';
import { execOps } from '../../../adapters/process/exec.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { FAST_PATH_SWITCH, keepFastPathSwitch } from '../../helpers/fast-path-switch.ts';
import {
  collect,
  isSettled,
  manyTurns,
  pattern,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';
import { plainSockets, tlsSockets } from '../../helpers/transports/sockets.ts';
import { streamPeer } from '../../helpers/transports/stream-peer.ts';

const LIMITS = { timeout: 300_000 };
const SIZE = 8 * 1024 * 1024;
/** More than the kernel takes at once, and not a whole number of anything. */
const BATCH = 1_000_003;

/** Count the buffers that Node writes for a socket. */
function countWrites(socket: net.Socket): { writes: number } {
  const count = { writes: 0 };
  const write = socket.write.bind(socket);
  socket.write = (...args: unknown[]) => {
    count.writes += 1;
    return Reflect.apply(write, undefined, args) as boolean;
  };
  return count;
}

/** Write bytes in batches of many buffers, empty ones among them. */
async function writeAll(ops: QemuFileOps, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; at += BATCH) {
    const batch = bytes.subarray(at, at + BATCH);
    const buffers: Uint8Array[] = [];
    for (let from = 0; from < batch.length; from += 777) {
      buffers.push(batch.subarray(from, from + 777), new Uint8Array(0));
    }
    assert.equal(await promised(() => ops.writevBuffer?.(buffers, at) ?? -1), batch.length);
  }
}

describe('writing a socket directly', LIMITS, () => {
  keepFastPathSwitch();

  for (const way of ['tcp', 'unix']) {
    test(`keeps the order over ${way}, in spite of short writes`, async () => {
      await using folder = makeTempDir();
      const [here, there] = await plainSockets(way === 'unix' ? folder.join('socket') : undefined);
      const count = countWrites(here);
      const received = collect(streamPeer(there).read);
      const sent = pattern(SIZE);
      const ops = socketOps(here, { lingerMs: 20 });
      await promised(() => ops.writevBuffer?.([Buffer.from('first')], 0) ?? -1);
      assert.equal(count.writes, 0);
      await writeAll(ops, sent);
      await ops.shutDown?.(false, true);
      assert.equal((await received).subarray(0, 5).toString(), 'first');
      assert.ok((await received).subarray(5).equals(sent));
      assert.ok(count.writes > 0, 'the kernel took everything at once');
      await ops.close?.();
      there.destroy();
    });
  }

  test('keeps the order of the input of a command', async () => {
    await using folder = makeTempDir();
    const path = folder.join('copy');
    const ops = execOps(`sleep 0.1; cat > '${path}'`, 'write');
    const sent = pattern(SIZE);
    await writeAll(ops, sent);
    await ops.close();
    assert.ok(readFileSync(path).equals(sent));
  });

  test('follows what the socket wrote before it was handed over', async () => {
    const [here, there] = await plainSockets();
    const first = pattern(SIZE);
    here.write(first);
    const ops = socketOps(here, { lingerMs: 20 });
    const received = collect(streamPeer(there).read);
    await promised(() => ops.writevBuffer?.([Buffer.from('last')], 0) ?? -1);
    await ops.close?.();
    const bytes = await received;
    assert.ok(bytes.subarray(0, -4).equals(first));
    assert.equal(bytes.subarray(-4).toString(), 'last');
    there.destroy();
  });

  test('lets other code run between many batches that the kernel takes at once', async () => {
    const [here, there] = await plainSockets();
    there.resume();
    const ops = socketOps(here, { lingerMs: 20 });
    let hasRun = false;
    setImmediate(() => {
      hasRun = true;
    });
    const batch = [Buffer.alloc(1000)];
    let batches = 0;
    for (; !hasRun && batches < 1_000_000; batches++) await ops.writevBuffer?.(batch, 0);
    assert.ok(hasRun, 'the event loop stood still');
    await ops.close?.();
    there.destroy();
  });

  test('fails with the error of the system, and so do reads', async () => {
    const [here, there] = await plainSockets();
    const ops = socketOps(here, { lingerMs: 20 });
    const read = rejectsWith(readOnce(ops), 'ECONNRESET', 'EPIPE');
    const batch = [Buffer.alloc(1000)];
    await promised(() => ops.writevBuffer?.(batch, 0) ?? -1);
    there.resetAndDestroy();
    await rejectsWith(
      (async () => {
        for (;;) await ops.writevBuffer?.(batch, 0);
      })(),
      'ECONNRESET',
      'EPIPE',
    );
    await read;
    await rejectsWith(
      promised(() => ops.close?.()),
      'ECONNRESET',
      'EPIPE',
    );
    assert.equal(here.destroyed, true);
  });

  test('stalls with the peer, and is cut off by a shutdown', async () => {
    const [here, there] = await plainSockets();
    there.on('error', () => {});
    const ops = socketOps(here, { lingerMs: 20 });
    const written = rejectsWith(writeAll(ops, pattern(SIZE)), 'ECANCELED');
    await manyTurns();
    assert.equal(await isSettled(written), false);
    await ops.shutDown?.(true, true);
    await written;
    await ops.close?.();
    there.destroy();
  });

  test('is not done under TLS', async () => {
    const [here, there] = await tlsSockets();
    const count = countWrites(here);
    const received = collect(streamPeer(there).read);
    const ops = socketOps(here, { lingerMs: 20 });
    await promised(() => ops.writevBuffer?.([Buffer.from('text')], 0) ?? -1);
    assert.equal(count.writes, 1);
    await ops.close?.();
    assert.equal((await received).toString(), 'text');
    there.destroy();
  });

  test(`is switched off by ${FAST_PATH_SWITCH}`, async () => {
    process.env[FAST_PATH_SWITCH] = '1';
    const [here, there] = await plainSockets();
    const count = countWrites(here);
    const received = collect(streamPeer(there).read);
    const ops = socketOps(here, { lingerMs: 20 });
    await promised(() => ops.writevBuffer?.([Buffer.from('a'), Buffer.from('b')], 0) ?? -1);
    assert.equal(count.writes, 2);
    await ops.close?.();
    assert.equal((await received).toString(), 'ab');
    there.destroy();
  });
});

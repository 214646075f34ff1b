import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { execOps } from '../../../adapters/process/exec.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { FAST_PATH_SWITCH, keepFastPathSwitch } from '../../helpers/fast-path-switch.ts';
import { pattern, promised } from '../../helpers/transports/backend.ts';
import { plainSockets, tlsSockets } from '../../helpers/transports/sockets.ts';

const LIMITS = { timeout: 300_000 };
const SIZE = 8 * 1024 * 1024;

interface Received {
  bytes: Buffer;
  /** Number of reads that filled the space. */
  filled: number;
}

/** Read to the end, into one space; a slow reader pauses now and then, so that chunks pile up. */
async function readAll(ops: QemuFileOps, isSlow: boolean): Promise<Received> {
  const space = Buffer.alloc(65536);
  const parts: Buffer[] = [];
  let position = 0;
  let filled = 0;
  for (let i = 0; ; i++) {
    const answer = await promised(() => ops.getBuffer?.(space, position) ?? 0);
    const part = typeof answer === 'number' ? space.subarray(0, answer) : answer;
    if (part.length === 0) return { bytes: Buffer.concat(parts), filled };
    if (typeof answer === 'number') filled += 1;
    parts.push(Buffer.from(part));
    position += part.length;
    if (isSlow && i % 5 === 0) for (let turns = 0; turns < 3; turns++) await turn();
  }
}

describe('reading a socket directly', LIMITS, () => {
  keepFastPathSwitch();

  for (const isSlow of [false, true]) {
    const pace = isSlow ? 'slowly' : 'as fast as it comes';
    for (const way of ['tcp', 'unix']) {
      test(`keeps the order over ${way}, ${pace}`, async () => {
        await using folder = makeTempDir();
        const path = way === 'unix' ? folder.join('socket') : undefined;
        const [here, there] = await plainSockets(path);
        const sent = pattern(SIZE);
        there.end(sent);
        const ops = socketOps(here);
        const { bytes, filled } = await readAll(ops, isSlow);
        assert.ok(bytes.equals(sent));
        assert.ok(filled > 0, 'nothing was read directly');
        await ops.close?.();
        there.destroy();
      });
    }

    test(`keeps the order of a command's output, ${pace}`, async () => {
      const ops = execOps(`head -c ${SIZE} /dev/zero | tr '\\0' x; echo end`, 'read');
      const { bytes, filled } = await readAll(ops, isSlow);
      assert.equal(bytes.length, SIZE + 4);
      assert.equal(bytes.subarray(-5).toString(), 'xend\n');
      assert.ok(filled > 0, 'nothing was read directly');
      await ops.close();
    });
  }

  test('is not done under TLS', async () => {
    const [here, there] = await tlsSockets();
    const sent = pattern(1024 * 1024);
    there.end(sent);
    const ops = socketOps(here);
    const { bytes, filled } = await readAll(ops, false);
    assert.ok(bytes.equals(sent));
    assert.equal(filled, 0);
    await ops.close();
    there.destroy();
  });

  test(`is switched off by ${FAST_PATH_SWITCH}`, async () => {
    process.env[FAST_PATH_SWITCH] = '1';
    const [here, there] = await plainSockets();
    const sent = pattern(SIZE);
    there.end(sent);
    const ops = socketOps(here);
    const { bytes, filled } = await readAll(ops, true);
    assert.ok(bytes.equals(sent));
    assert.equal(filled, 0);
    await ops.close();
    there.destroy();
  });
});

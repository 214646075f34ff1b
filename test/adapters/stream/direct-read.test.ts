import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { execOps } from '../../../adapters/process/exec.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { pattern, promised } from '../../helpers/backend.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { plainSockets, tlsSockets } from '../../helpers/sockets.ts';

const LIMITS = { timeout: 20_000 };
const SIZE = 8 * 1024 * 1024;

interface Answers {
  bytes: Buffer;
  /** Answers that were put into the space that was given. */
  filled: number;
}

/** Reads to the end into one space again and again; pauses now and then, so that chunks pile up. */
async function readAll(ops: QemuFileOps, isSlow: boolean): Promise<Answers> {
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

describe('reading at once what lies behind a chunk', LIMITS, () => {
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
        assert.ok(filled > 0, 'nothing was read at once');
        await ops.close?.();
        there.destroy();
      });
    }

    test(`keeps the order of a command's output, ${pace}`, async () => {
      const ops = execOps(`head -c ${SIZE} /dev/zero | tr '\\0' x; echo end`, 'read');
      const { bytes, filled } = await readAll(ops, isSlow);
      assert.equal(bytes.length, SIZE + 4);
      assert.equal(bytes.subarray(-5).toString(), 'xend\n');
      assert.ok(filled > 0, 'nothing was read at once');
      await ops.close();
    });
  }

  test('leaves TLS alone', async () => {
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
});

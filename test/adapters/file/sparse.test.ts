import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, type TestContext, test } from 'node:test';
import { openFd } from '../../../adapters/file/open-file.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { injectedError } from '../../helpers/errors.ts';
import { pattern, promised } from '../../helpers/transports/backend.ts';

const BLOCK = 4096;
const MIB = 2 ** 20;

type WritevDone = (error: NodeJS.ErrnoException | null, written: number) => void;

/** Replace fs.writev by one that follows a plan, call by call: write at most so many bytes, or fail. */
function plannedWritev(t: TestContext, ...plan: (number | string)[]): { calls: number } {
  const real = fs.writev;
  const seen = { calls: 0 };
  const planned = (fd: number, buffers: Uint8Array[], at: number | null, done: WritevDone) => {
    const step = plan[seen.calls++];
    if (typeof step === 'string') setImmediate(done, injectedError(step), 0);
    else if (step === undefined) real(fd, buffers, at, done);
    else if (step === 0) setImmediate(done, null, 0);
    else real(fd, [Buffer.concat(buffers).subarray(0, step)], at, done);
  };
  t.mock.method(fs, 'writev', planned as typeof fs.writev);
  return seen;
}

/** Write chunks one after another to a new file, and close it. */
async function writeAll(directory: TempDir, chunks: readonly Uint8Array[]): Promise<void> {
  const ops = await openFd(directory.join('file'), { direction: 'write' });
  let position = 0;
  for (const chunk of chunks) {
    assert.equal(await ops.writevBuffer([chunk], position), chunk.length);
    position += chunk.length;
  }
  await ops.close();
}

function content(directory: TempDir): Buffer {
  return fs.readFileSync(directory.join('file'));
}

/** Return the space that the file takes, in bytes. */
function allocated(directory: TempDir): number {
  return fs.statSync(directory.join('file')).blocks * 512;
}

/** Return a generator of integers below a bound: the same ones at every run. */
function sequence(): (below: number) => number {
  let state = 12345;
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
}

describe('a new file', () => {
  test('has holes for zeros, at its start, between data and at its end', async () => {
    await using directory = makeTempDir();
    const bytes = Buffer.alloc(8 * MIB);
    bytes.set(pattern(BLOCK), 2 * MIB);
    bytes.set(pattern(BLOCK), 5 * MIB);
    await writeAll(directory, [bytes]);
    assert.ok(content(directory).equals(bytes));
    assert.ok(allocated(directory) <= 64 * 1024, `${allocated(directory)} bytes`);
  });

  test('of zeros alone has its length and no data', async () => {
    await using directory = makeTempDir();
    await writeAll(directory, [Buffer.alloc(MIB), Buffer.alloc(MIB + 5)]);
    assert.ok(content(directory).equals(Buffer.alloc(2 * MIB + 5)));
    assert.ok(allocated(directory) <= BLOCK, `${allocated(directory)} bytes`);
  });

  test('has a hole for zeros that arrive in pieces of any size', async () => {
    await using directory = makeTempDir();
    const chunks = [pattern(1000), ...Array.from({ length: 3000 }, () => Buffer.alloc(999))];
    await writeAll(directory, [...chunks, pattern(1000)]);
    assert.ok(content(directory).equals(Buffer.concat([...chunks, pattern(1000)])));
    assert.ok(allocated(directory) <= 4 * BLOCK, `${allocated(directory)} bytes`);
  });

  test('has the bytes that were written, however they are cut into batches', async () => {
    await using directory = makeTempDir();
    const next = sequence();
    for (let round = 0; round < 20; round++) {
      const bytes = Buffer.alloc(64 * BLOCK + next(BLOCK));
      for (let run = 0; run < 30; run++) {
        const start = next(bytes.length);
        const size = next(run % 2 === 0 ? 20 : 3 * BLOCK);
        bytes.fill(1 + next(255), start, Math.min(start + size, bytes.length));
      }
      const ops = await openFd(directory.join('file'), { direction: 'write' });
      for (let at = 0; at < bytes.length; ) {
        const batch: Buffer[] = [];
        const start = at;
        for (let entries = 1 + next(5); entries > 0; entries--) {
          const size = next(4) === 0 ? BLOCK : next(3 * BLOCK);
          batch.push(bytes.subarray(at, at + size));
          at = Math.min(at + size, bytes.length);
        }
        assert.equal(await ops.writevBuffer(batch, start), at - start);
      }
      await ops.close();
      assert.ok(content(directory).equals(bytes), `round ${round}`);
    }
  });

  test('has its bytes in blocking mode', async () => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write' });
    ops.setBlocking(true);
    const bytes = Buffer.concat([
      pattern(5000),
      Buffer.alloc(MIB),
      pattern(100),
      Buffer.alloc(MIB),
    ]);
    assert.equal(
      ops.writevBuffer([bytes.subarray(0, 6000), bytes.subarray(6000)], 0),
      bytes.length,
    );
    await ops.close();
    assert.ok(content(directory).equals(bytes));
    assert.ok(allocated(directory) <= 8 * BLOCK, `${allocated(directory)} bytes`);
  });

  test('has zeros on disk with `sparse: false`', async () => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write', sparse: false });
    await ops.writevBuffer([Buffer.alloc(MIB)], 0);
    await ops.close();
    assert.ok(content(directory).equals(Buffer.alloc(MIB)));
    assert.ok(allocated(directory) >= MIB, `${allocated(directory)} bytes`);
  });

  test('has the zeros that were written over data', async () => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write' });
    await ops.writevBuffer([pattern(10 * BLOCK)], 0);
    assert.equal(ops.setOffset?.(2 * BLOCK, 'set'), 2 * BLOCK);
    await ops.writevBuffer([Buffer.alloc(20 * BLOCK)], 0);
    assert.equal(ops.getOffset?.(), 22 * BLOCK);
    await ops.close();
    const expected = Buffer.alloc(22 * BLOCK);
    expected.set(pattern(10 * BLOCK).subarray(0, 2 * BLOCK));
    assert.ok(content(directory).equals(expected));
  });

  test('has the zeros that were written over data put at an offset', async () => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write' });
    assert.equal(await ops.putBufferAt?.(pattern(BLOCK), 4 * BLOCK), BLOCK);
    await ops.writevBuffer([Buffer.alloc(8 * BLOCK)], 0);
    await ops.putBufferAt?.(pattern(10), 6 * BLOCK);
    await ops.close();
    const expected = Buffer.alloc(8 * BLOCK);
    expected.set(pattern(10), 6 * BLOCK);
    assert.ok(content(directory).equals(expected));
  });

  test('has an end for seeking that includes a hole', async () => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write' });
    await ops.writevBuffer([Buffer.alloc(10 * BLOCK)], 0);
    assert.equal(ops.setOffset?.(-BLOCK, 'end'), 9 * BLOCK);
    await ops.writevBuffer([pattern(3)], 0);
    await ops.close();
    const expected = Buffer.alloc(10 * BLOCK);
    expected.set(pattern(3), 9 * BLOCK);
    assert.ok(content(directory).equals(expected));
  });
});

test('a file in place keeps no old bytes where zeros were written', async () => {
  await using directory = makeTempDir();
  fs.writeFileSync(directory.join('file'), pattern(20 * BLOCK));
  const ops = await openFd(directory.join('file'), { direction: 'write', offset: BLOCK });
  await ops.writevBuffer([Buffer.alloc(8 * BLOCK)], 0);
  await ops.close();
  const head = pattern(20 * BLOCK).subarray(0, BLOCK);
  assert.ok(content(directory).equals(Buffer.concat([head, Buffer.alloc(8 * BLOCK)])));
  assert.ok(allocated(directory) >= 9 * BLOCK, `${allocated(directory)} bytes`);
});

describe('a new file with faults', () => {
  test('is whole after short writes, EAGAIN and writes that take nothing', async (t) => {
    await using directory = makeTempDir();
    const bytes = Buffer.concat([
      Buffer.alloc(BLOCK),
      pattern(2 * BLOCK),
      Buffer.alloc(3 * BLOCK),
      pattern(BLOCK),
      Buffer.alloc(BLOCK),
    ]);
    for (const plan of [[1], [4095, 1, 1], ['EAGAIN', 5000, 'EINTR', 0, 7], [2 * BLOCK, 0, 4000]]) {
      await t.test(plan.join(', '), async (t) => {
        const ops = await openFd(directory.join('file'), { direction: 'write' });
        plannedWritev(t, ...plan);
        const batch = [
          bytes.subarray(0, 5000),
          bytes.subarray(5000, 20_000),
          bytes.subarray(20_000),
        ];
        assert.equal(await ops.writevBuffer(batch, 0), bytes.length);
        assert.equal(await ops.writevBuffer([pattern(5)], bytes.length), 5);
        await ops.close();
        assert.ok(content(directory).equals(Buffer.concat([bytes, pattern(5)])));
      });
    }
  });

  test('fails at the byte reached, after the zeros before it, and is kept up to there', async (t) => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write', keepPartial: true });
    plannedWritev(t, 2 * BLOCK, 'ENOSPC');
    const bytes = Buffer.concat([pattern(2 * BLOCK), Buffer.alloc(3 * BLOCK), pattern(BLOCK)]);
    const failure = { code: 'ENOSPC', position: 100 + 5 * BLOCK, operation: 'writevBuffer' };
    await assert.rejects(
      promised(() => ops.writevBuffer([bytes], 100)),
      failure,
    );
    await assert.rejects(ops.close(), failure);
    assert.deepEqual(fs.readFileSync(ops.partialPath ?? ''), bytes.subarray(0, 5 * BLOCK));
    assert.equal(fs.existsSync(directory.join('file')), false);
  });

  test('fails after zeros that followed a failed write', async (t) => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write' });
    plannedWritev(t, 'EIO');
    await assert.rejects(
      promised(() => ops.writevBuffer([pattern(10)], 0)),
      { code: 'EIO' },
    );
    await assert.rejects(
      promised(() => ops.writevBuffer([Buffer.alloc(BLOCK)], 10)),
      { code: 'EIO' },
    );
    await assert.rejects(ops.close(), { code: 'EIO' });
    assert.deepEqual(fs.readdirSync(directory.path), []);
  });

  test('gets its length before it is made durable', async (t) => {
    await using directory = makeTempDir();
    const calls: string[] = [];
    const { ftruncate, fsync } = fs;
    t.mock.method(fs, 'ftruncate', (fd: number, length: number, done: () => void) => {
      calls.push(`ftruncate ${length}`);
      ftruncate(fd, length, done);
    });
    t.mock.method(fs, 'fsync', (fd: number, done: () => void) => {
      calls.push('fsync');
      fsync(fd, done);
    });
    await writeAll(directory, [pattern(10), Buffer.alloc(2 * BLOCK)]);
    assert.deepEqual(calls.slice(0, 2), [`ftruncate ${10 + 2 * BLOCK}`, 'fsync']);
  });

  test('is not published when its length cannot be set', async (t) => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write' });
    await ops.writevBuffer([Buffer.alloc(2 * BLOCK)], 0);
    t.mock.method(fs, 'ftruncate', (_: number, __: number, done: (error: Error) => void) => {
      setImmediate(done, injectedError('EFBIG'));
    });
    await assert.rejects(ops.close(), { code: 'EFBIG', operation: 'close', position: 2 * BLOCK });
    assert.deepEqual(fs.readdirSync(directory.path), []);
  });

  test('is removed when it is closed with an error after zeros', async () => {
    await using directory = makeTempDir();
    const ops = await openFd(directory.join('file'), { direction: 'write' });
    await ops.writevBuffer([Buffer.alloc(2 * BLOCK)], 0);
    await ops.close(new Error('no'));
    assert.deepEqual(fs.readdirSync(directory.path), []);
  });
});

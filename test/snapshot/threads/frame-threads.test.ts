import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import zlib from 'node:zlib';
import { QemuFileError } from '../../../lib/index.ts';
import type {
  FrameResults,
  FrameTask,
  PackedFrame,
} from '../../../lib/snapshot/threads/frame-tasks.ts';
import { FrameThreads } from '../../../lib/snapshot/threads/frame-threads.ts';
// Translated here once: a thread that did it would leave a child process of the compiler.
import '../../../lib/snapshot/threads/frame-worker.ts';
import { watchLeaks } from '../../helpers/leaks.ts';
import { until } from '../../helpers/until.ts';

const PAGE = 4096;
/** Tasks after which threads are at work, if there are any. */
const MANY = 200;
/** Node 20 runs the sources in no thread but the main one. */
const HAS_THREADS = !process.version.startsWith('v20.');

function shared(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}

describe('threads of a store', () => {
  const folder = mkdtempSync(join(tmpdir(), 'qemu-file-threads-'));
  after(() => rmSync(folder, { recursive: true }));

  for (const maxThreads of [0, 2]) {
    test(`${maxThreads} of them: fingerprints, stored forms and contents are right, and the threads end`, async () => {
      await using _leaks = await watchLeaks();
      const threads = new FrameThreads(maxThreads);
      const pages = shared(Buffer.concat([randomBytes(PAGE), Buffer.alloc(PAGE, 'text ')]));
      const expected = Buffer.concat([
        sha256(pages.subarray(0, PAGE)).subarray(0, 16),
        sha256(pages.subarray(PAGE)).subarray(0, 16),
      ]);
      let most = 0;
      for (let round = 0; round < MANY || (HAS_THREADS && maxThreads > 0 && most === 0); round++) {
        const fingerprints = shared(new Uint8Array(32));
        await threads.run({ kind: 'fingerprint', pages, count: 2, pageSize: PAGE, fingerprints });
        assert.deepEqual(Buffer.from(fingerprints), expected);
        most = Math.max(most, threads.size);
      }
      assert.equal(most, HAS_THREADS ? maxThreads : 0);
      const packed = shared(new Uint8Array(pages.length));
      const task = { kind: 'pack', pages, frameBytes: pages.length, packed } as const;
      const [form] = await threads.run(task);
      const { codec, storedBytes, digest } = form as PackedFrame;
      const stored = Uint8Array.from(packed.subarray(0, storedBytes));
      assert.ok(codec !== 0 && storedBytes < 1.1 * PAGE);
      assert.deepEqual(Buffer.from(digest), sha256(stored));
      const frame = {
        codec,
        start: 0,
        end: storedBytes,
        digest: Buffer.from(digest).toString('latin1'),
        contents: shared(new Uint8Array(pages.length)),
      };
      const frames = [
        frame,
        { ...frame, contents: shared(new Uint8Array(PAGE)) },
        { ...frame, digest: sha256(pages).toString('latin1') },
      ];
      const check = (faults: FrameResults['open']): void => {
        const [none, short, other] = faults;
        assert.equal(none, null);
        assert.deepEqual(Buffer.from(frame.contents), Buffer.from(pages));
        assert.match(String(short?.reason), /does not decompress/);
        assert.match(String(other?.reason), /SHA-256/);
      };
      const file = await open(join(folder, `pack-${maxThreads}`), 'w+');
      await file.write(stored);
      check(await threads.run({ kind: 'open', source: file.fd, frames }));
      frame.contents.fill(0);
      const beyond = { ...frame, start: 1, end: storedBytes + 1 };
      const [ended] = await threads.run({ kind: 'open', source: file.fd, frames: [beyond] });
      assert.equal(ended?.code, 'ENODATA');
      await file.close();
      const [closed] = await threads.run({ kind: 'open', source: 1_000_000, frames: [frame] });
      assert.equal(closed?.code, 'EBADF');
      check(await threads.run({ kind: 'open', source: stored, frames }));
      await until(() => threads.size === 0, { what: 'the end of the threads' });
    });
  }

  test('if one ends, the tasks that it had fail, and those that come later are done', async (t) => {
    if (!HAS_THREADS) return t.skip('there are no threads');
    await using _leaks = await watchLeaks();
    const threads = new FrameThreads(1);
    const pages = shared(randomBytes(PAGE));
    const good = (): FrameTask => ({
      kind: 'fingerprint',
      pages,
      count: 1,
      pageSize: PAGE,
      fingerprints: shared(new Uint8Array(16)),
    });
    const bad = (): FrameTask =>
      ({ ...good(), fingerprints: shared(new Uint8Array(0)), count: 2 }) as FrameTask;
    for (;;) {
      const [ended, next] = await Promise.allSettled([threads.run(bad()), threads.run(good())]);
      assert.ok(ended.status === 'rejected');
      if (ended.reason instanceof QemuFileError) {
        assert.equal(ended.reason.code, 'EIO');
        assert.match(ended.reason.message, /thread .* has ended; try again/);
        assert.ok(ended.reason.cause instanceof RangeError);
        assert.ok(next.status === 'rejected' && next.reason === ended.reason);
        break;
      }
      // The caller's thread did it.
      assert.equal(next.status, 'fulfilled');
      await turn();
    }
    assert.equal(threads.size, 0);
    await threads.run(good());
    assert.equal(threads.size, 1);
    await until(() => threads.size === 0, { what: 'the end of the threads' });
  });

  test('pages that look dense and repeat are compressed', async () => {
    const threads = new FrameThreads(0);
    const stored = async (part: Buffer): Promise<number> => {
      const pages = shared(Buffer.concat(Array<Buffer>(131_072 / part.length).fill(part)));
      const packed = shared(new Uint8Array(pages.length));
      const task = { kind: 'pack', pages, frameBytes: pages.length, packed } as const;
      let bytes = 0;
      for (let frame = 0; frame < 64; frame++) {
        for (const { storedBytes } of await threads.run(task)) bytes += storedBytes;
      }
      return bytes / (64 * pages.length);
    };
    // One in eight is tried until one gains.
    assert.ok((await stored(randomBytes(8192))) < 0.25);
    // Deflate does not look back so far.
    const hasZstd = 'zstdCompressSync' in zlib;
    assert.ok((await stored(randomBytes(65_536))) < (hasZstd ? 0.65 : 1.01));
  });
});

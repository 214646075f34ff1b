import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import {
  type CompressedSource,
  type DecompressFormat,
  decompressWith,
} from '../../../adapters/compress/decompress.ts';
import { unwrap } from '../../../lib/migration/containers/unwrap.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { workedExample } from '../../helpers/streams/stream-bytes.ts';
import {
  collect,
  isSettled,
  pattern,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';
import { Source } from '../../helpers/transports/backends.ts';
import { until, within } from '../../helpers/until.ts';

const FORMATS: readonly DecompressFormat[] = ['gzip', 'bzip2', 'xz', 'lzop', 'zstd'];

function isInstalled(tool: string): boolean {
  return (process.env.PATH ?? '').split(':').some((folder) => fs.existsSync(`${folder}/${tool}`));
}

/** Chunks, and then an end, an error, or nothing for ever. */
class Chunks implements CompressedSource {
  readonly ends: (Error | undefined)[] = [];
  readonly #chunks: readonly Uint8Array[];
  readonly #then: 'end' | 'wait' | Error;
  #stop = (): void => {};
  given = 0;

  constructor(chunks: readonly Uint8Array[], then: 'end' | 'wait' | Error = 'end') {
    this.#chunks = chunks;
    this.#then = then;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (const chunk of this.#chunks) {
      this.given += chunk.length;
      yield chunk;
    }
    if (this.#then instanceof Error) throw this.#then;
    if (this.#then === 'wait') {
      await new Promise<void>((resolve) => {
        this.#stop = resolve;
      });
    }
  }

  async close(): Promise<void> {
    this.ends.push(undefined);
    this.#stop();
  }

  destroy(error?: Error): void {
    this.ends.push(error);
    this.#stop();
  }
}

/** The children of this process by that name. */
function children(name: string): string[] {
  return fs.readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const fields = /\((.*)\) (\S) (\d+) /.exec(fs.readFileSync(`/proc/${pid}/stat`, 'latin1'));
      return fields?.[1] === name && fields[3] === String(process.pid);
    } catch {
      return false;
    }
  });
}

for (const format of FORMATS) {
  describe(`decompressing with ${format}`, {
    skip: !isInstalled(format) && 'not installed',
  }, () => {
    const bytes = Buffer.concat([pattern(500_000), Buffer.alloc(500_000)]);
    const packed = isInstalled(format)
      ? execFileSync(format, ['-c'], { input: bytes, maxBuffer: 1e8 })
      : Buffer.alloc(0);

    test('returns the decompressed bytes, and then the end', async () => {
      const source = new Chunks(piecesOf(packed, 10_000));
      const ops = decompressWith(format)(source);
      assert.ok((await collect(() => readOnce(ops))).equals(bytes));
      assert.equal((await readOnce(ops)).length, 0);
      await ops.close();
      assert.deepEqual(source.ends, [undefined]);
    });

    test('reports an error instead of the end when the source is truncated', async () => {
      const source = new Chunks([packed.subarray(0, -5)]);
      const ops = decompressWith(format)(source);
      await assert.rejects(
        collect(() => readOnce(ops)),
        { code: 'EIO', operation: 'decompress', message: /exited with status \d+, stderr: "/ },
      );
      await ops.close(new Error('cut'));
      assert.match(source.ends[0]?.message ?? '', /cut/);
    });

    test('reports an error for damaged bytes while the source continues', async () => {
      const damaged = Buffer.from(packed);
      damaged.fill(0x55, 20, 200_000);
      const many = Array.from({ length: 100 }, () => damaged);
      const ops = decompressWith(format)(new Chunks(many, 'wait'));
      await rejectsWith(
        within(
          collect(() => readOnce(ops)),
          { what: 'the error' },
        ),
        'EIO',
      );
      await ops.close();
    });

    test('reads on only as far as is read of it, and ends when it is closed', async () => {
      const chunks = Array.from({ length: 400 }, () => packed);
      const source = new Chunks(chunks, 'wait');
      const ops = decompressWith(format)(source);
      assert.ok((await readOnce(ops)).equals(bytes.subarray(0, 1)) === false);
      assert.equal(children(format).length, 1);
      await until(() => source.given > 0, { what: 'a chunk' });
      assert.ok(source.given < packed.length * 200);
      await within(ops.close(), { what: 'the close' });
      assert.deepEqual(children(format), []);
      assert.deepEqual(source.ends, [undefined]);
      await rejectsWith(
        promised(() => ops.getBuffer(Buffer.alloc(1), 0)),
        'ECANCELED',
      );
    });
  });
}

describe('decompressing', () => {
  const packed = gzipSync(pattern(1000));

  test('fails with what its source fails with, after all bytes before', async () => {
    const failure = new Error('no more disks');
    const chunks = piecesOf(packed, 100);
    const ops = decompressWith('gzip')(new Chunks(chunks.slice(0, 5), failure));
    await assert.rejects(
      collect(() => readOnce(ops)),
      failure,
    );
    await ops.close();
  });

  test('is closed while it waits for its source', async () => {
    const source = new Chunks([packed.subarray(0, 100)], 'wait');
    const ops = decompressWith('gzip')(source);
    const read = promised(() => ops.getBuffer(Buffer.alloc(1), 0));
    assert.equal(await isSettled(read), false);
    const failed = rejectsWith(read, 'ECANCELED');
    await within(ops.close(), { what: 'the close' });
    await failed;
    assert.deepEqual(children('gzip'), []);
  });

  test('ends when it is shut down while it waits for its source', async () => {
    const ops = decompressWith('gzip')(new Chunks([packed.subarray(0, 100)], 'wait'));
    const read = promised(() => ops.getBuffer(Buffer.alloc(1), 0));
    assert.equal(await isSettled(read), false);
    const failed = rejectsWith(read, 'ECANCELED');
    await ops.shutDown(true, false);
    await within(failed, { what: 'the read to fail' });
    await within(ops.close(), { what: 'the close' });
    assert.deepEqual(children('gzip'), []);
  });

  test('names the tool to install when it is missing', async () => {
    const { PATH } = process.env;
    await using empty = makeTempDir();
    process.env.PATH = empty.path;
    try {
      const source = new Chunks([packed]);
      const ops = decompressWith('xz')(source);
      await assert.rejects(
        promised(() => ops.getBuffer(Buffer.alloc(1), 0)),
        { code: 'ENOTSUP', message: /install xz/ },
      );
      await ops.close();
      assert.deepEqual(source.ends, [undefined]);
    } finally {
      process.env.PATH = PATH;
    }
  });

  test('takes the look-ahead of a file first, and closes the file', async () => {
    for (const reads of [false, true]) {
      const file = new QemuFile(new Source(piecesOf(gzipSync(workedExample()), 50)));
      await file.fill(100);
      const inner = new QemuFile(decompressWith('gzip')(file));
      if (reads) assert.ok((await inner.readBuffer(4664)).equals(workedExample()));
      await inner.close();
      assert.ok(file.destroyed);
    }
  });

  test('lets the tool read a descriptor, from its offset, and closes the source unread', async () => {
    await using dir = makeTempDir();
    const path = dir.join('packed');
    fs.writeFileSync(path, Buffer.concat([Buffer.from('before'), packed]));
    const fd = fs.openSync(path, 'r');
    fs.readSync(fd, Buffer.alloc(6), 0, 6, null);
    const source = new Chunks([Buffer.from('not read')]);
    const ops = decompressWith('gzip', { stdin: fd })(source);
    fs.closeSync(fd);
    assert.ok((await collect(() => readOnce(ops))).equals(pattern(1000)));
    await ops.close();
    assert.equal(source.given, 0);
    assert.deepEqual(source.ends, [undefined]);
  });

  test('serves to unwrap a stream', { skip: !isInstalled('xz') && 'not installed' }, async () => {
    const bytes = execFileSync('xz', ['-c'], { input: workedExample() });
    const file = new QemuFile(new Source([gzipSync(bytes)]));
    const unwrapped = await unwrap(file, {
      decompress: (format) => (compressed) => new QemuFile(decompressWith(format)(compressed)),
    });
    assert.deepEqual(unwrapped.containers, ['gzip', 'xz']);
    assert.ok((await unwrapped.file.readBuffer(4664)).equals(workedExample()));
    assert.ok(await unwrapped.file.atEnd());
    await unwrapped.file.close();
    assert.ok(file.destroyed);
    assert.deepEqual(children('xz'), []);
  });
});

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { type Duplex, Readable, Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import zlib from 'node:zlib';
import {
  BlockCompressor,
  type CompressBlock,
} from '../../../adapters/compress/block-compressor.ts';
import { type CompressFormat, compressTo } from '../../../adapters/compress/compress.ts';
import { decompressWith } from '../../../adapters/compress/decompress.ts';
import { ExternalCompressor } from '../../../adapters/compress/external-compressor.ts';
import { openFrom, openTo } from '../../../adapters/open.ts';
import { unwrap } from '../../../lib/migration/containers/unwrap.ts';
import { verifyStream } from '../../../lib/migration/verify/verify.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { countedSignal } from '../../helpers/counted-signal.ts';
import { watchLeaks } from '../../helpers/leaks.ts';
import { collect, manyTurns, pattern, readOnce } from '../../helpers/transports/backend.ts';
import { Source } from '../../helpers/transports/backends.ts';
import { until, within } from '../../helpers/until.ts';

const MIB = 1_048_576;
const END = new Uint8Array(0);
const FORMATS: readonly CompressFormat[] = ['gzip', 'zstd'];
const RECORDING = zlib.gunzipSync(
  fs.readFileSync(new URL('../../fixtures/microvm.mig.gz', import.meta.url)),
);

const NODE_HAS_ZSTD = 'zstdCompress' in zlib;
const HAS_TOOL = spawnSync('zstd', ['--version']).status === 0;

/** Why a format cannot be tested here. */
function without(format: CompressFormat): string | false {
  if (format === 'gzip' || HAS_TOOL) return false;
  assert.equal(process.env.CI, undefined, 'there is no zstd here: install it');
  return 'there is no zstd here';
}

/** Data, long runs of zeros across the places where blocks are cut, short ones, and an odd end. */
const MIXED: Buffer = Buffer.concat([
  pattern(1_300_000),
  Buffer.alloc(3 * MIB),
  pattern(70_001),
  Buffer.alloc(70_000),
  pattern(MIB, 2),
  Buffer.alloc(4099),
]);

async function compressed(bytes: Uint8Array, compressor: Duplex, size = 100_000): Promise<Buffer> {
  const output: Buffer[] = [];
  await pipeline(Readable.from(piecesOf(bytes, size)), compressor, async (chunks) => {
    for await (const chunk of chunks as AsyncIterable<Buffer>) output.push(chunk);
  });
  return Buffer.concat(output);
}

/** Decompress with the system's tool, which fails for truncated input. */
function unpackedByTool(format: CompressFormat, bytes: Uint8Array): Buffer {
  return execFileSync(format, ['-dc'], { input: bytes, maxBuffer: 1e9, stdio: 'pipe' });
}

function decompressing(format: 'gzip' | 'bzip2' | 'xz' | 'lzop' | 'zstd') {
  return (packed: QemuFile) => new QemuFile(decompressWith(format)(packed));
}

function packed(bytes: Uint8Array, size = 30_000): QemuFile {
  return new QemuFile(new Source(piecesOf(bytes, size)));
}

/** A compressor that completes on request, with recognisable output. */
class Works {
  readonly pending: { bytes: Buffer; resolve(): void; reject(error: Error): void }[] = [];
  started = 0;
  most = 0;

  readonly compress: CompressBlock = (bytes) => {
    this.started++;
    return new Promise((resolve, reject) => {
      const work = {
        bytes: Buffer.from(bytes),
        resolve: () => {
          this.#remove(work);
          resolve(Buffer.from(work.bytes));
        },
        reject: (error: Error) => {
          this.#remove(work);
          reject(error);
        },
      };
      this.pending.push(work);
      this.most = Math.max(this.most, this.pending.length);
    });
  };

  #remove(work: (typeof this.pending)[number]): void {
    this.pending.splice(this.pending.indexOf(work), 1);
  }
}

/** A block whose bytes tell which one it is. */
function block(number: number): Buffer {
  return Buffer.alloc(MIB, number + 1);
}

for (const format of FORMATS) {
  describe(`compressing to ${format}`, { skip: without(format) }, () => {
    test('outputs a file that Node decompresses, for data and zeros in chunks of any size', async () => {
      for (const size of [997, 65_536, 10_000_000]) {
        const bytes = size < 1000 ? MIXED.subarray(1_000_000, 1_400_000) : MIXED;
        const output = await compressed(bytes, compressTo(format), size);
        assert.ok(output.length < bytes.length);
        assert.ok(unpackedByTool(format, output).equals(bytes));
      }
    });

    test('keeps the bytes with any number of threads and any level', async () => {
      for (const [level, threads] of [
        [1, 1],
        [3, 3],
        [format === 'gzip' ? 9 : 19, 5],
      ]) {
        const bytes = MIXED.subarray(0, 2.5 * MIB);
        const output = await compressed(bytes, compressTo(format, { level, threads }));
        assert.ok(unpackedByTool(format, output).equals(bytes));
      }
    });

    test('makes a valid file of an empty input', async () => {
      const output = await compressed(Buffer.alloc(0), compressTo(format));
      assert.notEqual(output.length, 0);
      assert.equal(unpackedByTool(format, output).length, 0);
    });

    test('outputs a file that `unwrap` reads as a valid stream', async () => {
      const output = await compressed(RECORDING, compressTo(format));
      const { file, container } = await unwrap(packed(output), { decompress: decompressing });
      assert.equal(container, format);
      const { faults } = await verifyStream(file);
      assert.deepEqual(faults, []);
      await file.close();
    });

    test("outputs a file that the system's tool decompresses", async () => {
      const output = await compressed(MIXED, compressTo(format));
      const ops = decompressWith(format)(packed(output));
      assert.ok((await collect(() => readOnce(ops))).equals(MIXED));
      await ops.close();
    });

    test('cannot be read where it is cut off', async () => {
      const output = await compressed(MIXED, compressTo(format));
      for (const size of [output.length - 1, output.length - 9, 700_000, 5]) {
        assert.throws(() => unpackedByTool(format, output.subarray(0, size)));
      }
    });

    test('works between two files, and leaves no resource', async () => {
      await using folder = makeTempDir();
      const plain = folder.join('plain');
      fs.writeFileSync(plain, MIXED);
      await using leaks = await watchLeaks();
      const from = await openFrom(`file:${plain}`);
      const to = await openTo(`file:${folder.join('packed')}`);
      await pipeline(from, compressTo(format), to);
      await Promise.all([from.close(), to.close()]);
      const output = fs.readFileSync(folder.join('packed'));
      assert.ok(unpackedByTool(format, output).equals(MIXED));
      await leaks.check();
    });

    test('ends when its signal aborts, with the reason, and lets the signal go', async () => {
      await using leaks = await watchLeaks();
      const abort = new AbortController();
      const compressor = compressTo(format, { signal: abort.signal });
      compressor.write(MIXED);
      const reason = new Error('the guest is gone');
      const ended = assert.rejects(finished(compressor), { code: 'ECANCELED', cause: reason });
      abort.abort(reason);
      await ended;
      await until(() => compressor.closed, { what: 'the close' });
      assert.throws(() => compressTo(format, { signal: abort.signal }), { code: 'ECANCELED' });
      const { signal, listeners } = countedSignal();
      await compressed(MIXED, compressTo(format, { signal }));
      assert.equal(listeners(), 0);
      await leaks.check();
    });

    test('is destroyed while it works, and closes with nothing left', async () => {
      await using leaks = await watchLeaks();
      for (const error of [undefined, new Error('no more')]) {
        const compressor = compressTo(format);
        const written = new Promise((resolve) => {
          compressor.write(Buffer.concat([MIXED, MIXED, MIXED]), resolve);
        });
        compressor.destroy(error);
        await until(() => compressor.closed, { what: 'the close' });
        assert.ok((await written) instanceof Error);
      }
      await leaks.check();
    });

    test('fails with its sink, and stops its source', async () => {
      await using leaks = await watchLeaks();
      const source = Readable.from(piecesOf(Buffer.concat([MIXED, MIXED]), 65_536));
      const compressor = compressTo(format);
      const failure = new Error('the disk is full');
      const sink = new Writable({ write: (_chunk, _encoding, done) => done(failure) });
      await assert.rejects(pipeline(source, compressor, sink), failure);
      assert.ok(source.destroyed);
      await until(() => compressor.closed, { what: 'the close' });
      await leaks.check();
    });

    test('stops reading its source while its output is not read', async () => {
      const compressor = compressTo(format, { threads: 2 });
      const noise = pattern(MIB);
      let taken = 0;
      const endless = new Readable({
        read() {
          taken += noise.length;
          this.push(noise);
        },
      });
      endless.pipe(compressor);
      let before = -1;
      await until(
        () => {
          const isStill = taken === before;
          before = taken;
          return isStill;
        },
        { what: 'the source to wait', intervalMs: 200 },
      );
      assert.ok(taken < 20 * MIB, `${taken} bytes were taken`);
      endless.destroy();
      compressor.destroy();
      await until(() => compressor.closed, { what: 'the close' });
    });
  });
}

describe('a compressor', () => {
  test('rejects levels, threads and formats out of range, and names the range', () => {
    for (const level of [0, 10, 1.5, Number.NaN]) {
      assert.throws(() => compressTo('gzip', { level }), /RangeError: compressTo: level .* 1 to 9/);
    }
    assert.throws(() => compressTo('zstd', { level: 20 }), /1 to 19/);
    assert.throws(
      () => compressTo('gzip', { threads: 0 }),
      /threads must be an integer 1 or more: 0/,
    );
    assert.throws(() => compressTo('xz' as 'gzip'), /unknown format xz/);
  });

  test('whose gzip stream is cut off inside a member is reported by its reader', async () => {
    const output = await compressed(RECORDING, compressTo('gzip'));
    const { file } = await unwrap(packed(output.subarray(0, -5)));
    const chunks = file[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
    await assert.rejects(
      collect(async () => ((await chunks.next()).value as Uint8Array | undefined) ?? END),
      { fault: 'truncated' },
    );
  });
});

describe('blocks', () => {
  function blocks(threads: number) {
    const works = new Works();
    const zeros = new Works();
    const { compress } = works;
    const compressor = new BlockCompressor({ compress, compressZeros: zeros.compress, threads });
    compressor.on('error', () => {});
    return { compressor, works, zeros };
  }

  test('are compressed so many at once, and given in order however they are done', async () => {
    const { compressor, works } = blocks(3);
    const output: Buffer[] = [];
    compressor.on('data', (chunk: Buffer) => output.push(chunk));
    for (let i = 0; i < 5; i++) compressor.write(block(i));
    compressor.end();
    for (let left = 5; left > 0; left--) {
      await until(() => works.pending.length === Math.min(left, 3), { what: 'the works' });
      works.pending.at(-1)?.resolve();
      await manyTurns();
    }
    await finished(compressor);
    assert.equal(works.most, 3);
    const bytes = Buffer.concat(output);
    assert.ok(bytes.equals(Buffer.concat([0, 1, 2, 3, 4].map(block))));
  });

  test('of no more than twice that number are taken while none is done', async () => {
    const { compressor, works } = blocks(2);
    compressor.resume();
    let taken = 0;
    for (let i = 0; i < 9; i++) compressor.write(block(i), () => taken++);
    await manyTurns();
    assert.equal(taken, 4);
    assert.equal(works.started, 2);
    works.pending[0]?.resolve();
    await until(() => taken === 5, { what: 'one more' });
    assert.equal(works.started, 3);
    compressor.destroy();
    for (const work of [...works.pending]) work.resolve();
    await until(() => compressor.closed, { what: 'the close' });
  });

  test('of zeros are compressed once, even if a caller changes the output', async () => {
    const { compressor, works, zeros } = blocks(2);
    const done = (async () => {
      let size = 0;
      for await (const chunk of compressor as AsyncIterable<Buffer>) {
        assert.ok(chunk.equals(Buffer.alloc(chunk.length)));
        size += chunk.length;
        chunk.fill(0xff);
      }
      return size;
    })();
    for (let i = 0; i < 50; i++) compressor.write(Buffer.alloc(MIB));
    compressor.end(Buffer.alloc(1000));
    await until(() => zeros.pending.length === 1, { what: 'the first' });
    zeros.pending[0]?.resolve();
    await until(() => zeros.started === 2 && zeros.pending.length === 1, { what: 'the end' });
    zeros.pending[0]?.resolve();
    assert.equal(await done, 50 * MIB + 1000);
    assert.equal(works.started, 0);
  });

  test('are divided where many zeros are, and only there', async () => {
    const few = Buffer.concat([pattern(70_000), Buffer.alloc(200_000), pattern(70_000)]);
    const many = Buffer.concat([pattern(70_000), Buffer.alloc(800_000), pattern(70_000)]);
    for (const [bytes, parts] of [
      [few, 1],
      [many, 3],
    ] as const) {
      const sizes: number[] = [];
      const compress = (size: number, isZero: boolean) => async (part: Buffer) => {
        assert.equal(part.equals(Buffer.alloc(part.length)), isZero);
        sizes.push(part.length);
        return Buffer.from(part.subarray(0, size));
      };
      const compressor = new BlockCompressor({
        compress: compress(MIB, false),
        compressZeros: compress(MIB, true),
        threads: 1,
      });
      assert.ok((await compressed(bytes, compressor)).equals(bytes));
      assert.equal(sizes.length, parts);
    }
  });

  test('that cannot be compressed fail it with their position, after what other threads do', async () => {
    const { compressor, works } = blocks(2);
    for (let i = 0; i < 3; i++) compressor.write(block(i));
    const ended = assert.rejects(finished(compressor), {
      name: 'QemuFileError',
      code: 'EIO',
      operation: 'compress',
      position: MIB,
      message: /out of memory/,
    });
    await until(() => works.pending.length === 2, { what: 'two works' });
    works.pending[1]?.reject(new Error('out of memory'));
    await manyTurns();
    assert.deepEqual([compressor.destroyed, compressor.closed], [true, false]);
    works.pending[0]?.resolve();
    await ended;
    await until(() => compressor.closed, { what: 'the close' });
    assert.equal(works.started, 2);
  });

  test('continue when the reader of one requests more at once', async () => {
    const quick = new BlockCompressor({
      compress: async (bytes) => Buffer.from(bytes),
      compressZeros: async (bytes) => Buffer.from(bytes),
      threads: 2,
    });
    let size = 0;
    quick.on('readable', () => {
      for (;;) {
        const chunk = quick.read() as Buffer | null;
        if (chunk === null) break;
        size += chunk.length;
      }
    });
    for (let i = 0; i < 20; i++) quick.write(block(i));
    quick.end();
    await within(finished(quick), { what: 'the end' });
    assert.equal(size, 20 * MIB);
  });
});

describe('the tool of the system', () => {
  /** A `zstd` of our own, alone in `PATH`. */
  async function withTool(script: string | undefined, work: () => Promise<void>): Promise<void> {
    const { PATH } = process.env;
    await using folder = makeTempDir();
    if (script !== undefined) {
      fs.writeFileSync(folder.join('zstd'), `#!/bin/sh\nPATH=/usr/bin:/bin\n${script}\n`, {
        mode: 0o755,
      });
    }
    process.env.PATH = folder.path;
    try {
      await work();
    } finally {
      process.env.PATH = PATH;
    }
  }
  const make = () => {
    const compressor = new ExternalCompressor('zstd', ['-1', '-q', '-c']);
    compressor.on('error', () => {});
    return compressor;
  };

  test('compresses', { skip: without('zstd') }, async () => {
    for (const bytes of [MIXED, Buffer.alloc(0)]) {
      assert.ok(unpackedByTool('zstd', await compressed(bytes, make())).equals(bytes));
    }
  });

  test('is called for where Node.js has no zstd, and only there', async () => {
    await withTool('cat; echo "$@"', async () => {
      const output = await compressed(pattern(1000), compressTo('zstd', { level: 7, threads: 2 }));
      if (NODE_HAS_ZSTD) assert.equal(output.readUInt32LE(), 0xfd2fb528);
      else assert.equal(output.subarray(1000).toString(), '-7 -T2 -q -c\n');
    });
  });

  test('that is missing is reported with the remedy', async () => {
    await withTool(undefined, async () => {
      await using leaks = await watchLeaks();
      await assert.rejects(compressed(MIXED, make()), {
        code: 'ENOTSUP',
        operation: 'compress',
        message: /install zstd, use Node\.js 22\.15 or newer, or choose gzip/,
      });
      await leaks.check();
    });
  });

  test('that fails is reported with the end of its standard error', async () => {
    for (const script of [
      'echo no memory >&2; exit 3',
      'head -c 70000 >/dev/null; echo no memory >&2; exit 3',
      'cat; echo no memory >&2; exit 3',
    ]) {
      await withTool(script, async () => {
        await using leaks = await watchLeaks();
        await assert.rejects(compressed(MIXED, make()), {
          code: 'EIO',
          message: /exited with status 3, stderr: "no memory"/,
        });
        await leaks.check();
      });
    }
  });

  test('that is killed is reported', async () => {
    await withTool('head -c 70000; kill -9 $$', async () => {
      await assert.rejects(compressed(MIXED, make()), { code: 'EIO', message: /SIGKILL/ });
    });
  });

  test('that does nothing is ended when the compressor is destroyed', async () => {
    await withTool('exec sleep 1000', async () => {
      await using leaks = await watchLeaks();
      const compressor = make();
      compressor.write(MIXED);
      compressor.resume();
      compressor.destroy();
      await until(() => compressor.closed, { what: 'the close' });
      await leaks.check();
    });
  });
});

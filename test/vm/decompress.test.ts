import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { openFrom } from '../../adapters/index.ts';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { bytesRead, decompress, prefersProgram, reopenInput } from '../../lib/vm/decompress.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { Source } from '../helpers/transports/backends.ts';

const isMissing = !(process.env.PATH ?? '')
  .split(':')
  .some((folder) => existsSync(`${folder}/zstd`));
const BYTES = Buffer.alloc(300_000, 'guest memory');

describe('decompressing for save and restore', { skip: isMissing && 'zstd is missing' }, () => {
  const packed = isMissing ? Buffer.alloc(0) : execFileSync('zstd', ['-c'], { input: BYTES });

  /** Write a file that has the compressed data after 5000 other bytes; return its path. */
  const writeImage = (dir: TempDir): string => {
    const path = dir.join('image');
    writeFileSync(path, Buffer.concat([Buffer.alloc(5000, 'before'), packed]));
    return path;
  };

  test('hands a regular file to the program, from its next byte on', async () => {
    await using dir = makeTempDir();
    const path = writeImage(dir);
    const file = await openFrom(`file:${path}`);
    await file.readSkip(5000);
    const opened = await decompress('zstd')(file);
    assert.ok((await opened.readBuffer(BYTES.length)).equals(BYTES));
    assert.ok(await opened.atEnd());
    assert.equal(file.getPosition, 5000);
    assert.equal(bytesRead(file), 5000 + packed.length);
    await opened.close();
    assert.ok(file.destroyed);
  });

  test('hands on what follows an offset at which the file was opened', async () => {
    await using dir = makeTempDir();
    const path = writeImage(dir);
    const file = await openFrom({ scheme: 'file', path, offset: 5000 });
    const opened = await decompress('zstd')(file);
    assert.ok((await opened.readBuffer(BYTES.length)).equals(BYTES));
    assert.equal(bytesRead(file), packed.length);
    await opened.close();
  });

  test('opens a regular file once more, at the start of its data', async () => {
    await using dir = makeTempDir();
    const path = writeImage(dir);
    const file = await openFrom(`file:${path}`);
    await file.readSkip(5000);
    const opened = await decompress('zstd')(file);
    assert.equal(reopenInput(opened, 'xz'), undefined);
    const input = reopenInput(opened, 'zstd');
    await opened.close();
    assert.ok(input !== undefined);
    assert.equal(bytesRead(file), 5000);
    for (let i = 0; i < 2; i++) {
      const again = await input.open();
      assert.ok((await again?.readBuffer(BYTES.length))?.equals(BYTES));
      await again?.close();
    }
    assert.equal(readSync(input.fd, Buffer.alloc(100_000)), packed.length);
    assert.equal(bytesRead(file), 5000 + packed.length);
    input.close();
    assert.equal(bytesRead(file), 5000);
    assert.equal(await input.open(), undefined);
  });

  test('does not open any other file once more', async () => {
    const opened = await decompress('zstd')(new QemuFile(new Source([packed])));
    assert.equal(reopenInput(opened, 'zstd'), undefined);
    await opened.close();
  });

  test('copies any other file to the program', async () => {
    const file = new QemuFile(new Source([packed]));
    const opened = await decompress('zstd')(file);
    assert.ok((await opened.readBuffer(BYTES.length)).equals(BYTES));
    assert.equal(bytesRead(file), packed.length);
    await opened.close();
    assert.ok(file.destroyed);
  });

  test('prefers the program for zstd, where it is installed', async () => {
    assert.equal(prefersProgram('zstd'), true);
    assert.equal(prefersProgram('gzip'), false);
    const { PATH } = process.env;
    await using empty = makeTempDir();
    process.env.PATH = empty.path;
    try {
      assert.equal(prefersProgram('zstd'), false);
    } finally {
      process.env.PATH = PATH;
    }
  });
});

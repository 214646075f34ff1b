import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { openFrom } from '../../adapters/index.ts';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { bytesRead, decompress, prefersProgram } from '../../lib/vm/decompress.ts';
import { Source } from '../helpers/backends.ts';
import { makeTempDir } from '../helpers/cleanup.ts';

const isMissing = !(process.env.PATH ?? '')
  .split(':')
  .some((folder) => existsSync(`${folder}/zstd`));
const BYTES = Buffer.alloc(300_000, 'guest memory');

describe('decompressing for save and restore', { skip: isMissing && 'zstd is missing' }, () => {
  const packed = isMissing ? Buffer.alloc(0) : execFileSync('zstd', ['-c'], { input: BYTES });

  test('hands a regular file to the program, from its next byte on', async () => {
    await using dir = makeTempDir();
    const path = dir.join('image');
    writeFileSync(path, Buffer.concat([Buffer.alloc(5000, 'before'), packed]));
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
    const path = dir.join('image');
    writeFileSync(path, Buffer.concat([Buffer.alloc(5000, 'before'), packed]));
    const file = await openFrom({ scheme: 'file', path, offset: 5000 });
    const opened = await decompress('zstd')(file);
    assert.ok((await opened.readBuffer(BYTES.length)).equals(BYTES));
    assert.equal(bytesRead(file), packed.length);
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

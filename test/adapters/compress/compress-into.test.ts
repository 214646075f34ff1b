import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { compressInto } from '../../../adapters/compress/compress-into.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { watchLeaks } from '../../helpers/leaks.ts';
import { pattern } from '../../helpers/transports/backend.ts';

const isMissing = spawnSync('zstd', ['--version']).status !== 0;
if (isMissing) assert.equal(process.env.CI, undefined, 'there is no zstd here: install it');

const BYTES: Buffer = Buffer.concat([pattern(1_300_000), Buffer.alloc(3_000_000), pattern(70_001)]);

/** Open a file whose bytes are compressed into another one. */
function open(path: string, flags: string): QemuFile {
  const output = openSync(path, flags);
  try {
    return new QemuFile(compressInto(output)).on('error', () => {});
  } finally {
    closeSync(output);
  }
}

async function write(file: QemuFile): Promise<void> {
  for (const piece of piecesOf(BYTES, 100_000)) {
    file.putBufferAsync(piece);
    await file.flush();
  }
  await file.close();
}

describe('compressing into a descriptor', { skip: isMissing && 'there is no zstd here' }, () => {
  test('writes at its offset, and is complete when the file has been closed', async () => {
    await using folder = makeTempDir();
    await using leaks = await watchLeaks();
    const path = folder.join('packed');
    writeFileSync(path, 'before');
    await write(open(path, 'a'));
    const written = readFileSync(path);
    assert.equal(written.subarray(0, 6).toString(), 'before');
    const input = written.subarray(6);
    assert.ok(execFileSync('zstd', ['-dc'], { input, maxBuffer: 1e9 }).equals(BYTES));
    await leaks.check();
  });

  test('an empty stream is a valid file', async () => {
    await using folder = makeTempDir();
    await open(folder.join('packed'), 'w').close();
    const input = readFileSync(folder.join('packed'));
    assert.equal(execFileSync('zstd', ['-dc'], { input }).length, 0);
  });

  test('reports a full disk', async () => {
    await using leaks = await watchLeaks();
    const expected = { code: 'ENOSPC', operation: 'compress', message: /zstd: .*No space left/ };
    await assert.rejects(write(open('/dev/full', 'w')), expected);
    await leaks.check();
  });

  test('ends the tool when the file is destroyed', async () => {
    await using folder = makeTempDir();
    await using leaks = await watchLeaks();
    const file = open(folder.join('packed'), 'w');
    file.putBufferAsync(BYTES);
    await file.flush();
    file.destroy(new Error('given up'));
    await assert.rejects(file.close());
    await leaks.check();
  });

  test('reports a tool that fails, and one that is missing', async () => {
    await using folder = makeTempDir();
    const { PATH } = process.env;
    try {
      process.env.PATH = folder.path;
      await assert.rejects(write(open('/dev/null', 'w')), { code: 'ENOTSUP' });
      writeFileSync(folder.join('zstd'), '#!/bin/sh\necho no memory >&2; exit 3\n', {
        mode: 0o755,
      });
      const expected = { code: 'EIO', message: /status 3, stderr: "no memory"/ };
      await assert.rejects(write(open('/dev/null', 'w')), expected);
    } finally {
      process.env.PATH = PATH;
    }
  });
});

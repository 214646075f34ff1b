import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { openTo } from '../../../adapters/index.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { sinkFile } from '../../../lib/vm/save/sink.ts';
import { pattern } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Sink } from '../../helpers/transports/backends.ts';

const isMissing = spawnSync('zstd', ['--version']).status !== 0;
const BYTES = pattern(3_000_000);

function unpacked(bytes: Uint8Array): Buffer {
  return execFileSync('zstd', ['-dcq'], { input: bytes, maxBuffer: 1e9 });
}

describe('a sink compressed with zstd', { skip: isMissing && 'zstd is missing' }, () => {
  test('that is a new file is written by the program, and appears once it is complete', async () => {
    await using dir = makeTempDir();
    const path = dir.join('saved.zst');
    const opened = await openTo(path);
    const file = await sinkFile(opened, 'zstd');
    file.putBuffer(BYTES);
    await file.flush();
    assert.ok(!existsSync(path));
    await file.close();
    assert.ok(unpacked(readFileSync(path)).equals(BYTES));
    // None of its bytes passed through this process.
    assert.equal(opened.putPosition, 0);
  });

  test('does not appear when it is destroyed', async () => {
    await using dir = makeTempDir();
    const file = await sinkFile(await openTo(dir.join('saved.zst')), 'zstd');
    file.putBuffer(BYTES);
    file.destroy(new Error('enough'));
    await assert.rejects(file.close(), /enough/);
    assert.deepEqual(readdirSync(dir.path), []);
  });

  test('begins where a file was opened', async () => {
    await using dir = makeTempDir();
    const path = dir.join('image');
    writeFileSync(path, Buffer.alloc(8192, 'before'));
    const file = await sinkFile(await openTo({ scheme: 'file', path, offset: 4096 }), 'zstd');
    file.putBuffer(BYTES);
    await file.close();
    const written = readFileSync(path);
    assert.ok(written.subarray(0, 4096).equals(Buffer.alloc(4096, 'before')));
    assert.ok(unpacked(written.subarray(4096)).equals(BYTES));
  });

  test('follows what was written to a file before', async () => {
    await using dir = makeTempDir();
    const path = dir.join('image');
    const opened = await openTo(path);
    opened.putBuffer(Buffer.alloc(100, 'before'));
    const file = await sinkFile(opened, 'zstd');
    file.putBuffer(BYTES);
    await file.close();
    const written = readFileSync(path);
    assert.ok(written.subarray(0, 100).equals(Buffer.alloc(100, 'before')));
    assert.ok(unpacked(written.subarray(100)).equals(BYTES));
  });

  test('may be anything else', async () => {
    const sink = new Sink('async');
    const file = await sinkFile(new QemuFile(sink), 'zstd');
    file.putBuffer(BYTES);
    await file.close();
    assert.ok(unpacked(sink.written).equals(BYTES));
  });
});

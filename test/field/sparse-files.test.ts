import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { run } from '../helpers/command/command.ts';

const MAPPED_RAM = new URL('../fixtures/q10-mapped-ram.mig.gz', import.meta.url);
const BLOCK = 4096;

/** Write the recording as QEMU does: with holes where guest memory is zero. */
function writeSparse(directory: TempDir, name: string): { bytes: Buffer; allocated: number } {
  const bytes = gunzipSync(fs.readFileSync(MAPPED_RAM));
  const fd = fs.openSync(directory.join(name), 'w');
  for (let at = 0; at < bytes.length; at += BLOCK) {
    const block = bytes.subarray(at, at + BLOCK);
    if (block.some((byte) => byte !== 0)) fs.writeSync(fd, block, 0, block.length, at);
  }
  fs.ftruncateSync(fd, bytes.length);
  fs.closeSync(fd);
  return { bytes, allocated: allocated(directory, name) };
}

/** Return the space that a file takes, in bytes. */
function allocated(directory: TempDir, name: string): number {
  return fs.statSync(directory.join(name)).blocks * 512;
}

describe('a mapped-ram file of QEMU 10', () => {
  test('takes no more space after relay and --tee than before', async () => {
    await using directory = makeTempDir();
    const original = writeSparse(directory, 'vm.mig');
    const [from, to] = ['vm.mig', 'copy.mig'].map((name) => `file:${directory.join(name)}`);
    const { code, stderr } = await run([
      'relay',
      from ?? '',
      to ?? '',
      '--tee',
      directory.join('tee.mig'),
    ]);
    assert.equal(code, 0, stderr);
    for (const name of ['copy.mig', 'tee.mig']) {
      assert.ok(fs.readFileSync(directory.join(name)).equals(original.bytes), name);
      const size = allocated(directory, name);
      assert.ok(size <= original.allocated + 64 * 1024, `${name}: ${size} bytes`);
      assert.ok(size < original.bytes.length / 4, `${name}: ${size} bytes`);
    }
  });

  test('gets its holes back when it arrives through a pipe', async () => {
    await using directory = makeTempDir();
    const bytes = gunzipSync(fs.readFileSync(MAPPED_RAM));
    const { code, stderr } = await run(['relay', '-', `file:${directory.join('vm.mig')}`], bytes);
    assert.equal(code, 0, stderr);
    assert.ok(fs.readFileSync(directory.join('vm.mig')).equals(bytes));
    assert.ok(allocated(directory, 'vm.mig') < bytes.length / 4);
  });
});

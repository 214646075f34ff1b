// libvirt starts every guest with NUMA nodes with one memory backend for each: ram-node0, ram-node1 …
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { makeTempDir } from '../helpers/cleanup.ts';
import { run } from '../helpers/command/command.ts';

const MIB = 2 ** 20;
const stream = gunzipSync(
  fs.readFileSync(new URL('../fixtures/field/numas.mig.gz', import.meta.url)),
);

/** Read bytes of a sparse file. */
function read(path: string, at: number, length: number): string {
  const fd = fs.openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(length);
    fs.readSync(fd, bytes, 0, length, at);
    return bytes.toString('hex');
  } finally {
    fs.closeSync(fd);
  }
}

/** Return the PT_LOAD segments of an ELF core, by address. */
function segments(path: string): { address: number; offset: number; length: number }[] {
  const header = Buffer.from(read(path, 0, 4096), 'hex');
  const count = header.readUInt16LE(56);
  return Array.from({ length: count - 1 }, (_, index) => {
    const at = 64 + 56 * (index + 1);
    return {
      offset: Number(header.readBigUInt64LE(at + 8)),
      address: Number(header.readBigUInt64LE(at + 24)),
      length: Number(header.readBigUInt64LE(at + 32)),
    };
  });
}

describe('a guest with two NUMA nodes of 4 and 12 MiB', () => {
  test('as a flat image has node 0 at address 0 and node 1 after it', async () => {
    await using dir = makeTempDir();
    const flat = dir.join('flat');
    const { code, stderr } = await run(['extract', '-', '--flat', flat], stream);
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(read(flat, 0x1000, 8), '8877665544332211');
    assert.ok(fs.statSync(flat).blocks * 512 < 2 * MIB, 'the image is sparse');
  });

  test('as an ELF core has the same bytes at the same addresses', async () => {
    await using dir = makeTempDir();
    const core = dir.join('core');
    const { code, stderr } = await run(['extract', '-', '--elf', core], stream);
    assert.deepEqual([code, stderr], [0, '']);
    const [node0, node1] = segments(core);
    assert.deepEqual([node0?.address, node0?.length], [0, 4 * MIB]);
    assert.deepEqual([node1?.address, node1?.length], [4 * MIB, 12 * MIB]);
    assert.equal(read(core, (node0?.offset ?? 0) + 0x1000, 8), '8877665544332211');
  });

  test('with --nodes has the order that was given', async () => {
    await using dir = makeTempDir();
    const flat = dir.join('flat');
    const options = ['--flat', flat, '--nodes', 'ram-node1,ram-node0'];
    const { code, stderr } = await run(['extract', '-', ...options], stream);
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(read(flat, 12 * MIB + 0x1000, 8), '8877665544332211');
  });
});

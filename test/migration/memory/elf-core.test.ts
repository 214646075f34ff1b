import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { test } from 'node:test';
import { elfCore } from '../../../lib/migration/memory/elf-core.ts';
import { guestMap } from '../../../lib/migration/memory/guest-map.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { stream } from '../../helpers/streams/stream-bytes.ts';

const GIB = 2 ** 30;

test('the header of a core file has the fields of an ELF header', () => {
  const { header, fileOffsets, length } = elfCore(
    [
      { address: 0, length: 0x3000 },
      { address: 0x1_0000_0000, length: 0x1000 },
    ],
    { architecture: 'x86_64', note: 'guest' },
  );
  const wanted = stream(
    '7f454c46 02 01 01 00 0000000000000000', // ELF, 64-bit, little-endian
    '0400 3e00 01000000', // core, x86-64, version
    '0000000000000000 4000000000000000 0000000000000000', // entry, program headers, sections
    '00000000 4000 3800 0300 0000 0000 0000', // flags, sizes and numbers of headers
    '04000000 04000000 e800000000000000 0000000000000000 0000000000000000', // note
    '2000000000000000 0000000000000000 0400000000000000',
    '01000000 07000000 0010000000000000 0000000000000000 0000000000000000', // load
    '0030000000000000 0030000000000000 0010000000000000',
    '01000000 07000000 0040000000000000 0000000001000000 0000000001000000', // load
    '0010000000000000 0010000000000000 0010000000000000',
    '0a000000 06000000 464d4551', // sizes and type of the note
    Buffer.from('qemu-file\0\0\0guest\0\0\0'),
  );
  assert.deepEqual(header, wanted);
  assert.deepEqual(fileOffsets, [0x1000, 0x4000]);
  assert.equal(length, 0x5000);
});

test('each architecture has its e_machine, an unknown one EM_NONE', () => {
  const machineOf = (architecture: 'aarch64' | 'riscv64' | null) =>
    elfCore([], { architecture, note: '' }).header.readUInt16LE(18);
  assert.equal(machineOf('aarch64'), 183);
  assert.equal(machineOf('riscv64'), 243);
  assert.equal(machineOf(null), 0);
});

test('many ranges are page-aligned after the header', () => {
  const ranges = Array.from({ length: 200 }, (_, index) => ({ address: index * 8192, length: 1 }));
  const { header, fileOffsets, length } = elfCore(ranges, { architecture: null, note: 'x' });
  assert.ok((fileOffsets[0] as number) >= header.length);
  assert.ok(
    fileOffsets.every((offset, index) => offset === (fileOffsets[0] as number) + 4096 * index),
  );
  assert.equal(length, (fileOffsets[199] as number) + 1);
  assert.equal(header.readUInt16LE(56), 201);
  const tooMany = Array.from({ length: 65_534 }, () => ({ address: 0, length: 1 }));
  assert.throws(() => elfCore(tooMany, { architecture: null, note: '' }), RangeError);
});

test('a note is printable and bounded in length', () => {
  const { header } = elfCore([], { architecture: null, note: '\x1b]0;\u{1f600}' });
  assert.ok(header.includes('\\u{1b}]0;\\u{1f600}\0'));
  assert.ok(elfCore([], { architecture: null, note: 'x'.repeat(1e6) }).header.length < 5000);
});

/** Runs a program of the system; undefined where it is not installed. */
function run(command: string, ...args: string[]): string | undefined {
  const { error, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    timeout: 300_000,
  });
  if ((error as NodeJS.ErrnoException | undefined)?.code === 'ENOENT') return undefined;
  assert.ifError(error);
  return stdout + stderr;
}

test('readelf and gdb find a guest of more than 4 GiB in a sparse core file', async (t) => {
  await using directory = makeTempDir();
  const path = directory.join('core');
  const { ranges, architecture } = guestMap('pc-q35-7.2', [
    { name: 'pc.ram', usedLength: 6 * GIB },
    { name: 'pc.bios', usedLength: 0x40000 },
  ]);
  const core = elfCore(ranges, { architecture, note: 'memory of a guest' });
  const fd = fs.openSync(path, 'wx');
  fs.writeSync(fd, core.header, 0, core.header.length, 0);
  const [low, bios, high] = core.fileOffsets as [number, number, number];
  fs.writeSync(fd, Buffer.from([1, 2, 3, 4]), 0, 4, low + 0x10_0000);
  fs.writeSync(fd, Buffer.from([5, 6, 7, 8]), 0, 4, bios + 0x3fffc);
  fs.writeSync(fd, Buffer.from([9, 10, 11, 12]), 0, 4, high);
  fs.writeSync(fd, Buffer.from([13, 14, 15, 16]), 0, 4, high + 4 * GIB - 4);
  fs.ftruncateSync(fd, core.length);
  fs.closeSync(fd);

  const headers = run('readelf', '-W', '-l', '-n', path);
  if (headers === undefined) t.diagnostic('readelf is not installed');
  else {
    assert.doesNotMatch(headers, /warning|error/i);
    assert.match(headers, /NOTE\s+0x000120/);
    assert.match(headers, /LOAD\s+\S+ 0x0{16} 0x0{16} 0x80000000 0x80000000 RWE 0x1000/);
    assert.match(headers, /LOAD\s+\S+ 0x00000000fffc0000 0x00000000fffc0000 0x040000 0x040000/);
    assert.match(
      headers,
      /LOAD\s+\S+ 0x0000000100000000 0x0000000100000000 0x100000000 0x100000000/,
    );
    assert.match(headers, /qemu-file\s+0x00000012/);
  }

  const asked = ['x/4ub 0x100000', 'x/4ub 0xfffffffc', 'x/4ub 0x100000000', 'x/4ub 0x1fffffffc'];
  const commands = asked.flatMap((command) => ['-ex', command]);
  const seen = run('gdb', '-batch', '-nx', ...commands, '-c', path);
  if (seen === undefined) t.diagnostic('gdb is not installed');
  else {
    assert.match(seen, /^0x100000:\s+1\s+2\s+3\s+4$/m);
    assert.match(seen, /^0xfffffffc:\s+5\s+6\s+7\s+8$/m);
    assert.match(seen, /^0x100000000:\s+9\s+10\s+11\s+12$/m);
    assert.match(seen, /^0x1fffffffc:\s+13\s+14\s+15\s+16$/m);
  }
});

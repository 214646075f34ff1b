// `qemu-file extract`, as its users meet it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { recording } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import {
  assertSays,
  has,
  jsonIn,
  put,
  putRecording,
} from '../../helpers/command/reading-command.ts';
import { modeOf } from '../../helpers/files.ts';
import {
  be64,
  blockList,
  configuration,
  end,
  eos,
  FLAG,
  header,
  NO_DEVICES,
  page,
  piece,
  section,
  stream,
  workedExample,
} from '../../helpers/streams/stream-bytes.ts';
import { xxh64 } from '../../helpers/xxh64.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;
const PAGE = 4096;

/** A stream of blocks of one page each, the first byte of which is the block's number. */
function blocksNamed(names: readonly Uint8Array[]): Buffer {
  const list = names.map((name) => stream(Uint8Array.of(name.length), name, be64(PAGE)));
  const pages = names.map((name, index) =>
    stream(be64(FLAG.page), Uint8Array.of(name.length), name, Buffer.alloc(PAGE, index + 1)),
  );
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], be64(names.length * PAGE + FLAG.memSize), ...list, eos),
    piece('part', 2, ...pages, eos),
    piece('end', 2, eos),
    end,
    NO_DEVICES,
  );
}

/** One block of 64 MiB, of which two pages came. */
function sparse(): Buffer {
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 64 << 20]), eos),
    piece(
      'part',
      2,
      page('pc.ram', 0x1000, Buffer.alloc(PAGE, 0x11)),
      page(null, (64 << 20) - PAGE, Buffer.alloc(PAGE, 0x22)),
      eos,
    ),
    piece('end', 2, eos),
    end,
    NO_DEVICES,
  );
}

describe('extract', { concurrency }, () => {
  test('--block --raw writes one block, with holes, for its owner only', async () => {
    await using dir = makeTempDir();
    const raw = dir.join('pc.raw');
    const ended = await run(['extract', '-', '--block', 'pc.ram', '--raw', raw], sparse());
    assert.equal(ended.code, 0, ended.stderr);
    assert.equal(ended.stdout.toString(), `${raw}\n`);
    const expected = Buffer.alloc(64 << 20);
    expected.fill(0x11, 0x1000, 0x2000);
    expected.fill(0x22, (64 << 20) - PAGE);
    assert.ok(fs.readFileSync(raw).equals(expected));
    const { size, blocks } = fs.statSync(raw);
    assert.ok(blocks * 512 < size / 10, `${blocks} blocks of 512 bytes`);
    assert.equal(modeOf(raw), 0o600);
    assert.deepEqual(fs.readdirSync(dir.path), ['pc.raw']);
  });

  test('--all-blocks writes the memory that QEMU itself dumped', async () => {
    await using dir = makeTempDir();
    const [path = ''] = putRecording(dir, 'xbzrle');
    const to = dir.join('blocks');
    const ended = await run(['extract', path, '--all-blocks', to, '--json']);
    assert.equal(ended.code, 0, ended.stderr);
    const { ram } = recording('xbzrle').facts;
    const files = ram.map(({ name }) => `${to}/${name}.raw`);
    assert.deepEqual(jsonIn(ended), { from: path, files, warnings: [] });
    for (const [index, { name, sha256 }] of ram.entries()) {
      const bytes = fs.readFileSync(files[index] as string);
      assert.equal(createHash('sha256').update(bytes).digest('hex'), sha256, name);
      assert.equal(modeOf(files[index] as string), 0o600);
    }
    assert.equal(modeOf(to), 0o700);
  });

  test('--all-blocks stays in its directory, with any name of a block', async () => {
    await using dir = makeTempDir();
    const names = [
      '../../etc/passwd',
      '/etc/passwd',
      '..',
      '.hidden',
      '-rf',
      'a/b',
      'a%2fb',
      'a%b',
      'A',
      'x'.repeat(255),
      `${'x'.repeat(254)}y`,
      '\u00e4\u{1f40e}',
      'new\nline',
    ].map((name) => Buffer.from(name));
    names.push(Buffer.from([0xff, 0xfe]));
    const to = dir.join('to');
    const ended = await run(['extract', '-', '--all-blocks', to, '--quiet'], blocksNamed(names));
    assert.equal(ended.code, 0, ended.stderr);
    assert.deepEqual(fs.readdirSync(dir.path), ['to']);
    const files = fs.readdirSync(to);
    assert.equal(files.length, names.length);
    const first = files.map((file) => {
      assert.match(file, /^[A-Za-z0-9_%][A-Za-z0-9_.%-]*\.raw$/);
      const bytes = fs.readFileSync(`${to}/${file}`);
      assert.equal(bytes.length, PAGE);
      return bytes[0] as number;
    });
    // Each block in a file of its own.
    assert.deepEqual(
      first.sort((a, b) => a - b),
      names.map((_, index) => index + 1),
    );
    const listed = ended.stdout.toString().trimEnd().split('\n');
    assert.deepEqual(listed.sort(), files.map((file) => `${to}/${file}`).sort());
  });

  test('--elf puts the memory at its physical addresses', { skip: !has('readelf') }, async () => {
    await using dir = makeTempDir();
    const core = dir.join('vm.core');
    const ended = await run(['extract', '-', '--elf', core], sparse());
    assert.equal(ended.code, 0, ended.stderr);
    assert.equal(modeOf(core), 0o600);
    const table = execFileSync('readelf', ['-lW', core], { encoding: 'utf8' });
    assert.match(table, /Elf file type is CORE/);
    const loads = [...table.matchAll(/^ +LOAD +(0x\w+) 0x\w+ (0x\w+) (0x\w+) (0x\w+)/gm)];
    const bytes = fs.readFileSync(core);
    let total = 0;
    for (const [, offset, physical, inFile, inMemory] of loads) {
      assert.equal(Number(inFile), Number(inMemory));
      total += Number(inFile);
      const at = (address: number) => bytes[Number(offset) + address - Number(physical)];
      if (Number(physical) === 0) assert.equal(at(0x1000), 0x11);
      const last = (64 << 20) - 1;
      if (Number(physical) + Number(inFile) > last) assert.equal(at(last), 0x22);
    }
    assert.ok(total >= (64 << 20) - (384 << 10) && total <= 64 << 20, `${total} bytes`);
    assert.ok(fs.statSync(core).blocks * 512 < (64 << 20) / 10);
  });

  test('--at, --nodes and --allow-missing are checked', async () => {
    await using dir = makeTempDir();
    const flat = ['--flat', dir.join('flat')];
    const refused: readonly (readonly [what: RegExp, ...options: string[]])[] = [
      [/Give BLOCK=ADDRESS/, ...flat, '--at', 'pc.ram'],
      [/Give BLOCK=ADDRESS/, ...flat, '--at', 'pc.ram=-1'],
      [/Give BLOCK=ADDRESS/, ...flat, '--at', 'pc.ram=0xfffffffffffffff'],
      [/need --elf FILE or --flat FILE/, '--all-blocks', dir.join('all'), '--at', 'pc.ram=0'],
      [/no RAM block "nodes"/, ...flat, '--nodes', 'nodes'],
      [/no RAM block "dimm"/, ...flat, '--at', 'dimm=0x100000000'],
    ];
    for (const [what, ...options] of refused) {
      assertSays(await run(['extract', '-', ...options], sparse()), 2, what);
    }
    assert.equal(fs.existsSync(dir.join('flat')), false);
    const at = ['--at', 'pc.ram=0x10000'];
    const ended = await run(['extract', '-', ...flat, ...at], sparse());
    assert.equal(ended.code, 0, ended.stderr);
    const fd = fs.openSync(dir.join('flat'), 'r');
    const page = Buffer.alloc(1);
    fs.readSync(fd, page, 0, 1, 0x11000);
    fs.closeSync(fd);
    assert.equal(page[0], 0x11);
  });

  test('--manifest writes the digests of sections and blocks', async () => {
    await using dir = makeTempDir();
    const path = dir.join('manifest.json');
    const bytes = workedExample();
    const ended = await run(['extract', '-', '--manifest', path], bytes);
    assert.equal(ended.code, 0, ended.stderr);
    assert.equal(modeOf(path), 0o600);
    const one = (kind: string, offset: number, size: number) => ({
      sectionId: 2,
      name: 'ram',
      instanceId: 0,
      kind,
      offset,
      bytes: size,
      xxh64: xxh64(bytes.subarray(offset, offset + size)),
    });
    const ram = Buffer.alloc(8192);
    ram.fill(0xaa, 0, 4096);
    assert.deepEqual(JSON.parse(fs.readFileSync(path, 'utf8')), {
      format: 'qemu-file-manifest',
      version: 1,
      machine: 'pc-i440fx-7.2',
      bytes: 4664,
      xxh64: xxh64(bytes),
      sections: [
        one('start', 26, 70),
        one('part', 96, 4138),
        one('end', 4234, 36),
        { ...one('full', 4270, 50), sectionId: 5, name: 'demo' },
      ],
      ram: {
        pageSize: 4096,
        blocks: [
          { name: 'pc.ram', usedLength: 8192, xxh64: xxh64(ram) },
          { name: 'vga.vram', usedLength: 4096, xxh64: xxh64(Buffer.alloc(4096)) },
        ],
      },
    });
  });

  test('does all at once', async () => {
    await using dir = makeTempDir();
    const outputs = ['--block', 'vga.vram', '--raw', dir.join('vga'), '--elf', dir.join('elf')];
    const more = ['--all-blocks', dir.path, '--manifest', dir.join('manifest')];
    const ended = await run(['extract', '-', ...outputs, ...more], workedExample());
    assert.equal(ended.code, 0, ended.stderr);
    const files = ['elf', 'manifest', 'pc.ram.raw', 'vga', 'vga.vram.raw'];
    assert.deepEqual(fs.readdirSync(dir.path).sort(), files);
  });
});

describe('of a bad stream', { concurrency }, () => {
  test('nothing is extracted, and existing files stay', async () => {
    await using dir = makeTempDir();
    const old = put(dir, 'old.raw', 'old');
    const outputs = ['--block', 'pc.ram', '--raw', old, '--elf', dir.join('elf')];
    const more = ['--all-blocks', dir.path, '--manifest', dir.join('manifest')];
    const cut = workedExample().subarray(0, 4300);
    const ended = await run(['extract', '-', ...outputs, ...more], cut);
    assertSays(ended, 1, /at byte 4300; nothing was extracted/);
    assert.equal(ended.stdout.length, 0);
    assert.deepEqual(fs.readdirSync(dir.path), ['old.raw']);
    assert.equal(fs.readFileSync(old, 'utf8'), 'old');
  });

  test('and an unreadable one leaves no file', async () => {
    await using dir = makeTempDir();
    const outputs = ['--elf', dir.join('elf'), '--manifest', dir.join('manifest')];
    assertSays(await run(['extract', '-', ...outputs], 'no stream at all'), 3, /not a migration/);
    assertSays(await run(['extract', '-', ...outputs], ''), 3, /empty/);
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });
});

describe('exit code of extract', { concurrency }, () => {
  test('0: a stream that has no description', async () => {
    await using dir = makeTempDir();
    const bytes = workedExample().subarray(0, 4321);
    const ended = await run(['extract', '-', '--all-blocks', dir.path], bytes);
    assertSays(ended, 0, /no VM description/);
  });

  test('2: a block that there is not, with those that there are', async () => {
    await using dir = makeTempDir();
    const outputs = ['--block', 'ram', '--raw', dir.join('raw')];
    const ended = await run(['extract', '-', ...outputs], workedExample());
    assertSays(ended, 2, /no RAM block "ram"; its blocks are pc\.ram, vga\.vram/);
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('quotes no name that a terminal would obey', async () => {
    await using dir = makeTempDir();
    const bytes = blocksNamed([Buffer.from('ram\u001b]0;title\u0007\u009b2J')]);
    const outputs = ['--block', 'ram', '--raw', dir.join('raw')];
    const ended = await run(['extract', '-', ...outputs], bytes);
    assert.notEqual(ended.code, 0);
    assert.match(ended.stderr, /ram\\u\{1b\}\]0;title/);
    assert.match(ended.stderr, /^[\x20-\x7e\n]+$/);
  });

  for (const args of [[], ['--block', 'x'], ['--raw', 'x']]) {
    test(`2: ${['extract -', ...args].join(' ')}`, async () => {
      assertSays(await run(['extract', '-', ...args]), 2, /--block NAME/);
    });
  }

  test('4: a place where nothing can be written', async () => {
    await using dir = makeTempDir();
    const path = dir.join('no/such/place');
    assertSays(await run(['extract', '-', '--elf', path], workedExample()), 4, /ENOENT/);
    const manifest = await run(['extract', '-', '--manifest', path], workedExample());
    assertSays(manifest, 4, /ENOENT/);
  });

  test('130: interrupted, and no file is left', async () => {
    await using dir = makeTempDir();
    fs.mkdirSync(dir.join('to'));
    const outputs = ['--elf', dir.join('to/elf'), '--all-blocks', dir.join('to')];
    const command = new Command(['extract', `unix:${dir.join('s')}`, ...outputs]);
    await command.listening();
    command.child.kill('SIGINT');
    assertSays(await command.ended(), 130, /interrupted by SIGINT/);
    assert.deepEqual(fs.readdirSync(dir.join('to')), []);
  });
});

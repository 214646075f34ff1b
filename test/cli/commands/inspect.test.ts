// `qemu-file inspect`, as its users meet it.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { buildPackage } from '../../helpers/command/built-package.ts';
import { Command, run } from '../../helpers/command/command.ts';
import {
  assertSays,
  has,
  jsonIn,
  put,
  putRecording,
} from '../../helpers/command/reading-command.ts';
import {
  blockList,
  command,
  configuration,
  end,
  eos,
  header,
  page,
  piece,
  section,
  stream,
  vmDescription,
  workedExample,
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';
import { until } from '../../helpers/until.ts';
import { xxh64 } from '../../helpers/xxh64.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;
const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** The output of --json for the worked example. */
const EXAMPLE = {
  format: { version: 3, bytes: 4664, trailingBytes: 0, container: null },
  configuration: { machine: 'pc-i440fx-7.2', capabilities: [] },
  ram: {
    pageSize: 4096,
    rounds: 1,
    perRound: [{ zero: 2, normal: 1, xbzrle: 0, compressed: 0, multifd: 0 }],
    blocks: [
      {
        name: 'pc.ram',
        usedLength: 8192,
        pages: { zero: 1, normal: 1, xbzrle: 0, compressed: 0, multifd: 0 },
      },
      {
        name: 'vga.vram',
        usedLength: 4096,
        pages: { zero: 1, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 },
      },
    ],
  },
  sections: [
    {
      sectionId: 2,
      name: 'ram',
      kind: 'start',
      offset: 26,
      bytes: 70,
      instanceId: 0,
      versionId: 4,
    },
    {
      sectionId: 2,
      name: 'ram',
      kind: 'part',
      offset: 96,
      bytes: 4138,
      instanceId: 0,
      versionId: 4,
    },
    {
      sectionId: 2,
      name: 'ram',
      kind: 'end',
      offset: 4234,
      bytes: 36,
      instanceId: 0,
      versionId: 4,
    },
    {
      sectionId: 5,
      name: 'demo',
      kind: 'full',
      offset: 4270,
      bytes: 50,
      instanceId: 0,
      versionId: 1,
    },
  ],
  commands: [],
  devices: { demo: { a: 0x12345678, arr: [1, 2, 3], 'demo/extra': { flag: true } } },
  vmDescription: true,
  warnings: [],
};

/** Two rounds, a command, and a name that must not be taken for markup of a terminal. */
function twoRounds(): Buffer {
  const data = Buffer.alloc(4096, 0x5a);
  return stream(
    header,
    configuration('pc\u001b[31m'),
    command(2, '00000001'),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x4000]), eos),
    piece(
      'part',
      2,
      page('pc.ram', 0, data),
      page(null, 0x1000, data),
      zeroPage(null, 0x2000),
      eos,
    ),
    piece('part', 2, page(null, 0x1000, data), eos),
    piece('end', 2, eos),
    section('full', 3, ['0000:00:01.0/nic', 2, 7], '11'),
    end,
    vmDescription({
      page_size: 4096,
      devices: [
        {
          name: '0000:00:01.0/nic',
          instance_id: 2,
          vmsd_name: 'nic',
          version: 7,
          fields: [{ name: 'x', type: 'uint8', size: 1 }],
        },
      ],
    }),
  );
}

describe('inspect --json', { concurrency }, () => {
  test('prints the contents of the stream on one line, and nothing else', async () => {
    await using dir = makeTempDir();
    const ended = await run(['inspect', put(dir, 'vm.mig', workedExample()), '--json']);
    assert.deepEqual(jsonIn(ended), EXAMPLE);
    assert.deepEqual([ended.code, ended.stderr], [0, '']);
  });

  test('summarises the PARTs of a section; --json=full lists them', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', twoRounds());
    const parts = async (...args: string[]): Promise<(number | undefined)[]> => {
      const { sections } = jsonIn(await run(['inspect', ...args])) as {
        sections: { kind: string; count?: number }[];
      };
      return sections.filter(({ kind }) => kind === 'part').map(({ count }) => count);
    };
    // The endpoint after --json is not taken for its value.
    assert.deepEqual(await parts('--json', path), [2]);
    assert.deepEqual(await parts('--json=full', path), [undefined, undefined]);
    const wrong = await run(['inspect', '--json=brief', path]);
    assertSays(wrong, 2, /unknown option '--json=brief'/);
  });

  test('takes the stream from standard input, and from a live socket', async () => {
    await using dir = makeTempDir();
    assert.deepEqual(jsonIn(await run(['inspect', '-', '--json'], workedExample())), EXAMPLE);
    const inspecting = new Command(['inspect', `unix:${dir.join('s')}`, '--json']);
    await inspecting.listening();
    const socket = net.connect(dir.join('s'));
    await once(socket, 'connect');
    socket.write(workedExample().subarray(0, 4300));
    socket.end(workedExample().subarray(4300));
    const ended = await inspecting.ended();
    assert.deepEqual(jsonIn(ended), EXAMPLE);
    assert.match(ended.stderr, /^qemu-file: listening on unix:.*\n$/);
  });

  test('prints commands with their payload, rounds, and devices with their instance', async () => {
    const object = jsonIn(await run(['inspect', '-', '--json'], twoRounds()));
    assert.deepEqual(object.commands, [
      { offset: 20, bytes: 9, number: 2, name: 'PING', value: 1 },
    ]);
    const { ram, devices } = object as typeof EXAMPLE;
    assert.deepEqual(
      ram.perRound.map(({ zero, normal }) => [zero, normal]),
      [
        [1, 2],
        [0, 1],
      ],
    );
    assert.deepEqual(devices, { '0000:00:01.0/nic/2': { x: 0x11 } });
  });

  test('has the XXH64 of the contents of each block with --digest', async () => {
    await using dir = makeTempDir();
    const [path = ''] = putRecording(dir, 'xbzrle');
    const object = jsonIn(await run(['inspect', path, '--json', '--digest']));
    const extracted = await run(['extract', path, '--all-blocks', dir.join('blocks'), '--quiet']);
    assert.equal(extracted.code, 0, extracted.stderr);
    const { blocks } = object.ram as { blocks: { name: string; xxh64: string }[] };
    assert.deepEqual(
      blocks.map(({ name, xxh64: digest }) => [name, digest]),
      recording('xbzrle').facts.ram.map(({ name }) => [
        name,
        xxh64(fs.readFileSync(dir.join(`blocks/${name}.raw`))),
      ]),
    );
  });

  test('reads further channels', async () => {
    await using dir = makeTempDir();
    const [path = '', ...channels] = putRecording(dir, 'multifd-none');
    const options = channels.flatMap((channel) => ['--channel', channel]);
    const ended = await run(['inspect', path, '--json', '--digest', ...options]);
    assert.equal(ended.code, 0, ended.stderr);
    const { blocks } = jsonIn(ended).ram as {
      blocks: { name: string; pages: { multifd: number } }[];
    };
    assert.ok((blocks[0]?.pages.multifd ?? 0) > 200);
  });
});

describe('inspect', { concurrency }, () => {
  test('shows machine, memory, devices and time line', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    const { code, stdout, stderr } = await run(['inspect', path]);
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(
      stdout.toString(),
      `${path}: migration stream, 4.55 KiB (4664 bytes)
  machine pc-i440fx-7.2

RAM: 12 KiB in 2 blocks, pages of 4 KiB, 1 round
  pc.ram  8 KiB  zero 1, normal 1
    █·
  vga.vram  4 KiB  zero 1
    ·
    · zeros   ░▒▓█ data   ◆ some of it sent again   (blank) never sent

Devices: 1, 50 B
  demo  v1  50 B

Time line
    26  ram START           70 B
    96  ram PART        4.04 KiB
  4234  ram END             36 B
  4270  devices             50 B
   end  VM description
`,
    );
  });

  test('shows rounds and repeated pages, and escapes text of the stream', async () => {
    const { code, stdout } = await run(['inspect', '-'], twoRounds());
    const text = stdout.toString();
    assert.equal(code, 0);
    assert.match(text, /^ {2}machine pc\\u\{1b\}\[31m$/m);
    assert.match(text, /^ {2}pc\.ram {2}16 KiB {2}zero 1, normal 3\n {4}█◆·$/m);
    assert.match(text, /^RAM: 16 KiB in 1 block, pages of 4 KiB, 2 rounds$/m);
    assert.match(text, /^Pages per round\n {2}round {2}zero {2}normal\n {2}1 +1 +2\n {2}2 +0 +1$/m);
    assert.match(text, /^ {2}0000:00:01\.0\/\n {4}nic \(2\) +v7 {2}36 B$/m);
    assert.match(text, /^ +20 {2}command PING +9 B$/m);
    assert.match(text, /^ +\d+ {2}ram PART × 2 /m);
  });

  test('groups the devices of a machine by their bus', async () => {
    await using dir = makeTempDir();
    const { code, stdout } = await run(['inspect', ...putRecording(dir, 'pc')]);
    assert.equal(code, 0);
    assert.match(stdout.toString(), /^Devices: 47, /m);
    assert.match(stdout.toString(), /^ {2}0000:00:04\.0\/\n {4}virtio-blk +v2 +44\.59 KiB$/m);
  });

  test('--device prints the state of one device as JSON', async () => {
    const { code, stdout } = await run(['inspect', '-', '--device', 'demo'], workedExample());
    assert.equal(code, 0);
    assert.deepEqual(JSON.parse(stdout.toString()), EXAMPLE.devices.demo);
    const second = await run(['inspect', '-', '--device', '0000:00:01.0/nic/2'], twoRounds());
    assert.deepEqual(JSON.parse(second.stdout.toString()), { x: 0x11 });
  });

  test('--snapshot chooses a snapshot of a disk image', async () => {
    await using dir = makeTempDir();
    const [path = ''] = putRecording(dir, 'savevm');
    const named = await run(['inspect', path, '--snapshot', 'recorded', '--json']);
    assert.equal(named.code, 0, named.stderr);
    const { format } = jsonIn(named) as typeof EXAMPLE;
    assert.match(format.container ?? '', /qcow2/);
    const wrong = await run(['inspect', path, '--snapshot', 'other']);
    assertSays(wrong, 3, /recorded/);
    const none = await run(['inspect', '-', '--snapshot', 'other'], workedExample());
    assertSays(none, 2, /not a qcow2 image/);
  });

  test('--quiet prints only the requested output', async () => {
    await using dir = makeTempDir();
    const inspecting = new Command(['inspect', `unix:${dir.join('s')}`, '--json', '--quiet']);
    await until(() => fs.existsSync(dir.join('s')), { what: 'the socket' });
    net.connect(dir.join('s')).end(workedExample());
    const ended = await inspecting.ended();
    assert.deepEqual([ended.code, ended.stderr, jsonIn(ended)], [0, '', EXAMPLE]);
    const cut = await run(['inspect', '-', '--quiet'], workedExample().subarray(0, 4290));
    assert.match(cut.stderr, /^qemu-file: -: ENODATA: .*\n$/);
  });
});

describe('inspect unpacks', { concurrency }, () => {
  const packers: Record<string, (bytes: Buffer) => Buffer> = {
    gzip: (bytes) => gzipSync(bytes),
    ...Object.fromEntries(
      ['xz', 'zstd', 'bzip2', 'lzop'].map((tool) => [
        tool,
        (input: Buffer) => spawnSync(tool, ['-c'], { input }).stdout,
      ]),
    ),
  };
  for (const [tool, packed] of Object.entries(packers)) {
    test(tool, { skip: tool !== 'gzip' && !has(tool) && `${tool} is not installed` }, async () => {
      await using dir = makeTempDir();
      const path = put(dir, 'vm.mig.packed', packed(workedExample()));
      const ended = await run(['inspect', path, '--json']);
      assert.equal(ended.code, 0, ended.stderr);
      assert.deepEqual(jsonIn(ended), {
        ...EXAMPLE,
        format: { ...EXAMPLE.format, container: tool },
      });
    });
  }

  test('an image of libvirt', async () => {
    // Magic, version, length of the XML, running or not, format, offset of the cookie, and padding.
    const head = Buffer.alloc(92);
    head.write('LibvirtQemudSave');
    head.writeUInt32LE(2, 16);
    head.writeUInt32LE(8, 20);
    const image = stream(head, Buffer.from('<domain\0'), workedExample());
    const ended = await run(['inspect', '-', '--json'], image);
    assert.equal(ended.code, 0, ended.stderr);
    assert.deepEqual(jsonIn(ended), {
      ...EXAMPLE,
      format: { ...EXAMPLE.format, container: 'libvirt' },
    });
  });
});

describe('exit code of inspect', { concurrency }, () => {
  test('1: a truncated stream, with the part before its end', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample().subarray(0, 4300));
    const shown = await run(['inspect', path]);
    assertSays(shown, 1, /ENODATA: in section "demo": the stream ends.* at byte 4300/);
    assert.match(shown.stderr, /the output shows the part of the stream before that/);
    assert.match(
      shown.stderr,
      /^qemu-file: hint: the stream is incomplete: .*save the guest again$/m,
    );
    assert.match(shown.stdout.toString(), /migration stream, 4\.17 KiB \(4270 bytes\)/);
    assert.match(shown.stdout.toString(), /pc\.ram {2}8 KiB {2}zero 1, normal 1/);

    const ended = await run(['inspect', path, '--json']);
    assert.equal(ended.code, 1);
    const { failure, sections, ram } = jsonIn(ended) as typeof EXAMPLE & { failure: object };
    assert.equal(sections.length, 4);
    assert.deepEqual(ram, EXAMPLE.ram);
    const reason = 'the stream ends without a section footer after 12 bytes of body';
    assert.deepEqual(failure, {
      message: `ENODATA: in section "demo": ${reason} at byte 4300`,
      reason,
      fault: 'truncated',
      offset: 4300,
      section: { sectionId: 5, name: 'demo', instanceId: 0 },
    });
  });

  test('1: a malformed stream', async () => {
    const bytes = workedExample();
    bytes[4266] = 0xff;
    assertSays(await run(['inspect', '-'], bytes), 1, /EBADMSG: in section "ram": .*at byte 4266/);
  });

  test('2: a device that there is not, with those that there are', async () => {
    const ended = await run(['inspect', '-', '--device', 'toString'], workedExample());
    assertSays(ended, 2, /no device "toString"; its devices are demo/);
    assert.equal(ended.stdout.length, 0);
  });

  for (const args of [['inspect'], ['inspect', '-', '--nonsense'], ['inspect', 'foo:bar']]) {
    test(`2: ${args.join(' ')}`, async () => {
      const ended = await run(args);
      assert.equal(ended.code, 2, ended.stderr);
      assert.equal(ended.stdout.length, 0);
      assert.notEqual(ended.stderr, '');
    });
  }

  test('3: another file than a migration stream, with its format', async () => {
    const text = await run(['inspect', '-'], 'root:x:0:0');
    assertSays(text, 3, /EPROTO: not a migration stream.*72 6f 6f 74/);
    assert.equal(text.stdout.length, 0);
    assertSays(await run(['inspect', '-'], '\x7fELF\x02\x01\x01 and more'), 3, /an ELF file/);
  });

  test('3: nothing', async () => {
    assertSays(await run(['inspect', '-'], ''), 3, /empty/);
    assertSays(await run(['inspect', '-', '--json'], 'QEV'), 3, /too short/);
  });

  test('4: a file that is not there, be it a channel', async () => {
    await using dir = makeTempDir();
    assertSays(await run(['inspect', dir.join('no')]), 4, /ENOENT/);
    const path = put(dir, 'vm.mig', workedExample());
    assertSays(await run(['inspect', path, '--channel', dir.join('no')]), 4, /ENOENT/);
  });

  test('4: a command that fails, even if it wrote before', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    assertSays(await run(['inspect', `exec:cat ${path}; exit 3`]), 4, /exited with status 3/);
  });

  test('130: interrupted while it waits, and in mid-stream', async () => {
    await using dir = makeTempDir();
    const waiting = new Command(['inspect', `unix:${dir.join('s')}`]);
    await waiting.listening();
    waiting.child.kill('SIGINT');
    assertSays(await waiting.ended(), 130, /interrupted by SIGINT/);
    assert.equal(fs.existsSync(dir.join('s')), false);

    const reading = new Command(['inspect', `unix:${dir.join('s')}`]);
    await reading.listening();
    const socket = net.connect(dir.join('s'));
    await once(socket, 'connect');
    socket.on('error', () => {});
    await new Promise<void>((resolve) =>
      socket.write(workedExample().subarray(0, 4200), () => resolve()),
    );
    reading.child.kill('SIGTERM');
    const ended = await reading.ended();
    assertSays(ended, 143, /interrupted by SIGTERM/);
    assert.equal(ended.stdout.length, 0);
    socket.destroy();
  });
});

describe('the outputs of inspect', { concurrency }, () => {
  test('can be closed by their reader without a message', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    const args = ['--import', 'tsx', 'lib/cli/main.ts', 'inspect', path, '--json'];
    const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.destroy();
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    const [code] = (await once(child, 'close')) as [number];
    assert.equal(stderr, '');
    assert.equal(code, 4);
  });

  test('have progress where they are a terminal', { skip: !has('script') }, async (t) => {
    await using dir = makeTempDir();
    await using built = makeTempDir();
    // On Node 22 tsx gives a module of CommonJS that is imported late no exports.
    const main = `${await buildPackage(built)}/main.js`;
    const inspect = `${process.execPath} ${main} inspect unix:${dir.join('s')}`;
    const child = spawn('script', ['-qec', inspect, '/dev/null'], { cwd: ROOT, stdio: 'pipe' });
    const closed = once(child, 'close');
    t.after(() => child.kill());
    let shown = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      shown += text;
    });
    await until(() => /listening/.test(shown), { what: 'the command to listen' });
    const socket = net.connect(dir.join('s'));
    socket.write(workedExample().subarray(0, 4200));
    await until(() => /\d (B|KiB) {2}.*B\/s/.test(shown), { what: 'the progress line' });
    socket.end(workedExample().subarray(4200));
    const [code] = (await closed) as [number];
    assert.equal(code, 0, shown);
    assert.match(shown, /Time line/);
  });

  test('contain a complete recording, even a large one', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', unpack({ file: 'pc.mig.gz' }));
    const { devices } = jsonIn(await run(['inspect', path, '--json'])) as typeof EXAMPLE;
    assert.equal(Object.keys(devices).length, 47);
  });
});

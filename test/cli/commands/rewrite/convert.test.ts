// A converted stream is the stream, but for what was to change; nothing appears where that is impossible.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { recording, unpack } from '../../../fixtures/recording.ts';
import { makeTempDir, type TempDir } from '../../../helpers/cleanup.ts';
import { Command, run } from '../../../helpers/command/command.ts';
import { assertSays, jsonIn, put, putRecording } from '../../../helpers/command/reading-command.ts';
import { savedGuestOf } from '../../../helpers/guests/saved-guest.ts';
import { readStream } from '../../../helpers/reading/read-stream.ts';
import { mountSmallDisk, requireSmallDisk } from '../../../helpers/storage/small-disk.ts';
import { type RecordedDevice, recordedDevices } from '../../../helpers/streams/recorded-devices.ts';

function bytesOf(name: string): Buffer {
  const [main] = recording(name).files;
  assert.ok(main);
  return unpack(main);
}

const stream = (dir: TempDir, name = 'microvm'): string => putRecording(dir, name)[0] ?? '';

describe('convert', () => {
  test('writes a stream byte for byte, from a file and from a pipe, compressed or not', async () => {
    await using dir = makeTempDir();
    const bytes = bytesOf('microvm');
    const [to, packed] = [dir.join('to'), dir.join('packed')];
    const ended = await run(['convert', stream(dir), to, '--json']);
    assertSays(ended, 0, /converted .* \(8727063 bytes\) to .* \(8727063 bytes\)/);
    assert.equal(jsonIn(ended).bytesAfter, bytes.length);
    assert.ok(fs.readFileSync(to).equals(bytes));
    assertSays(await run(['convert', to, packed, '--compress', 'gzip']), 0);
    const plain = await run(['convert', '-', '-', '--quiet'], fs.readFileSync(packed));
    assertSays(plain, 0);
    assert.ok(plain.stdout.equals(bytes));
  });

  test('gives a RAM block another name', async () => {
    await using dir = makeTempDir();
    const to = dir.join('to');
    const args = ['convert', stream(dir), to, '--rename-block', 'microvm.ram=mem'];
    assertSays(await run(args), 0);
    const [was, is] = [
      await readStream([bytesOf('microvm')]),
      await readStream([fs.readFileSync(to)]),
    ];
    assert.deepEqual(
      is.reader.ram.blocks.map(({ name }) => name),
      was.reader.ram.blocks.map(({ name }) => (name === 'microvm.ram' ? 'mem' : name)),
    );
    assert.ok(is.ram.get('mem')?.equals(was.ram.get('microvm.ram') ?? Buffer.alloc(0)));
  });

  test('leaves out the VM description', async () => {
    await using dir = makeTempDir();
    assertSays(await run(['convert', stream(dir), dir.join('to'), '--drop-description']), 0);
    const { events } = await readStream([bytesOf('microvm')]);
    const described = events.find(({ type }) => type === 'vmDescription');
    assert.ok(
      fs.readFileSync(dir.join('to')).equals(bytesOf('microvm').subarray(0, described?.offset)),
    );
  });

  test('changes fields of devices, and nothing else', async () => {
    await using dir = makeTempDir();
    const bytes = bytesOf('pc');
    const expected = Buffer.from(bytes);
    const offsetOf = (wanted: string): number => {
      const device = recordedDevices(bytes)?.find(({ description }) => description.name === wanted);
      return (device as RecordedDevice).body.byteOffset - bytes.byteOffset;
    };
    // The scratch register of the serial port, and the first two registers of the processor.
    expected[offsetOf('serial') + 9] = 0x5a;
    expected.writeBigUInt64BE(0xfedcba9876543210n, offsetOf('cpu'));
    expected.writeBigUInt64BE(17n, offsetOf('cpu') + 8);
    const changes = ['serial.state.scr=0x5A', 'cpu.env.regs[0]=0xfedcba9876543210'];
    const args = [...changes, 'cpu.env.regs[1]=17'].flatMap((change) => ['--set', change]);
    const to = dir.join('to');
    assertSays(await run(['convert', stream(dir, 'pc'), to, ...args]), 0);
    assert.ok(fs.readFileSync(to).equals(expected));
    const piped = await run(['convert', '-', '-', '--quiet', ...args], bytes);
    assertSays(piped, 0);
    assert.ok(piped.stdout.equals(expected));
  });

  test('puts the pages of further channels into the stream', async () => {
    await using dir = makeTempDir();
    const [main = '', ...channels] = putRecording(dir, 'multifd-none');
    const to = dir.join('to');
    const args = channels.flatMap((channel) => ['--channel', channel]);
    assertSays(await run(['convert', main, to, ...args]), 0);
    const { pages } = await savedGuestOf(bytesOf('multifd-none'), {
      channels: channels.map((channel) => fs.createReadStream(channel)),
    });
    const { ram } = await readStream([fs.readFileSync(to)]);
    for (const [index, { name, usedLength }] of pages.blocks.entries()) {
      const bytes = Buffer.alloc(usedLength);
      await pages.read(index, 0, bytes);
      assert.ok(ram.get(name)?.equals(bytes), name);
    }
  });

  test('moves a mapped-ram stream to another offset of its file', async () => {
    await using dir = makeTempDir();
    const from = stream(dir, 'q10-mapped-ram');
    const [there, back] = [dir.join('there'), dir.join('back')];
    assertSays(await run(['convert', from, `file:${there},offset=0x3000`]), 0);
    assertSays(await run(['verify', `file:${there},offset=0x3000`]), 0);
    assertSays(await run(['convert', `file:${there},offset=0x3000`, back]), 0);
    assert.ok(fs.readFileSync(back).equals(fs.readFileSync(from)));
  });
});

describe('convert --layout', () => {
  test('writes a mapped-ram file with holes, and the sequential stream again', async () => {
    await using dir = makeTempDir();
    const [mapped, back] = [dir.join('mapped'), dir.join('back')];
    assertSays(await run(['convert', stream(dir), mapped, '--layout', 'mapped-ram']), 0);
    assertSays(await run(['verify', mapped]), 0);
    assertSays(await run(['convert', mapped, back, '--layout', 'sequential']), 0);
    const was = await readStream([bytesOf('microvm')]);
    for (const path of [mapped, back]) {
      const { ram, reader } = await readStream([fs.readFileSync(path)]);
      for (const [name, bytes] of was.ram) assert.ok(ram.get(name)?.equals(bytes), name);
      const { machine, capabilities } = reader.configuration ?? {};
      assert.deepEqual([machine, capabilities], ['microvm', path === mapped ? ['mapped-ram'] : []]);
    }
  });

  for (const [name, layout] of [
    ['q10-mapped-ram', 'sequential'],
    ['q10-mapped-ram', 'mapped-ram'],
    ['microvm', 'mapped-ram'],
  ] as const) {
    test(`goes together with new names, changed fields and no VM description, from ${name} to ${layout}`, async () => {
      await using dir = makeTempDir();
      const [main = ''] = putRecording(dir, name);
      const device = ['--set', 'timer.cpu_ticks_offset=0x1234'];
      const args = ['--rename-block', 'microvm.ram=mem', ...device, '--drop-description'];
      const to = dir.join('to');
      assertSays(await run(['convert', main, to, '--layout', layout, ...args]), 0);
      const [was, is] = [
        await readStream([bytesOf(name)]),
        await readStream([fs.readFileSync(to)]),
      ];
      assert.ok(is.ram.get('mem')?.equals(was.ram.get('microvm.ram') ?? Buffer.alloc(0)));
      const bodyOf = ({ events }: typeof was): Buffer => {
        const timer = events.find(
          (event) => event.type === 'device' && event.section.name === 'timer',
        );
        assert.ok(timer?.type === 'device');
        return timer.body;
      };
      const expected = Buffer.from(bodyOf(was));
      // It is the first field of the section.
      expected.writeBigUInt64BE(0x1234n, 0);
      assert.deepEqual(bodyOf(is), expected);
      assert.ok(is.events.every(({ type }) => type !== 'vmDescription'));
    });
  }

  test('leaves a stream that has this layout byte for byte', async () => {
    await using dir = makeTempDir();
    const from = stream(dir, 'q10-mapped-ram');
    assertSays(await run(['convert', from, dir.join('to'), '--layout', 'mapped-ram']), 0);
    assert.ok(fs.readFileSync(dir.join('to')).equals(fs.readFileSync(from)));
  });
});

describe('convert writes nothing', () => {
  for (const [what, make, args, code, says] of [
    [
      'for a stream that was cut',
      (dir) => put(dir, 'cut', bytesOf('microvm').subarray(0, 8_000_000)),
      [],
      1,
      /ENODATA: .*ends/,
    ],
    [
      'for a stream that was cut, where the layout changes',
      (dir) => put(dir, 'cut', bytesOf('microvm').subarray(0, 8_000_000)),
      ['--layout', 'mapped-ram'],
      1,
      /ENODATA: .*ends/,
    ],
    [
      'for a stream that is damaged',
      (dir) => put(dir, 'damaged', bytesOf('microvm').fill(0x55, 10_000, 20_000)),
      [],
      1,
      /EBADMSG/,
    ],
    ['for anything else', (dir) => put(dir, 'text', 'no stream at all'), [], 3, /EPROTO/],
    [
      'without the block that is to be renamed',
      stream,
      ['--rename-block', 'pc.ram=mem'],
      2,
      /no RAM block "pc.ram"; its blocks are "microvm.ram"/,
    ],
    [
      'without that block, where the layout changes',
      stream,
      ['--layout', 'mapped-ram', '--rename-block', 'pc.ram=mem'],
      2,
      /no RAM block "pc.ram"; its blocks are "microvm.ram"/,
    ],
    [
      'for a value that does not fit, where the layout changes',
      (dir) => stream(dir, 'pc'),
      ['--layout', 'mapped-ram', '--set', 'serial.state.scr=256'],
      2,
      /serial: "state\.scr" is uint8, 0 to 255: 256 does not fit/,
    ],
    ['for a name without a new one', stream, ['--rename-block', 'pc.ram'], 2, /Give OLD=NEW/],
    [
      'for a change of another form',
      stream,
      ['--set', 'serial'],
      2,
      /"serial" is not DEVICE\.FIELD=VALUE/,
    ],
    [
      'for a change of no device',
      (dir) => stream(dir, 'pc'),
      ['--set', 'floppy.a=1'],
      2,
      /no device that "floppy\.a=1" begins with; its devices are .*serial/,
    ],
    [
      'for a value that does not fit',
      (dir) => stream(dir, 'pc'),
      ['--set', 'timer.cpu_ticks_offset=1', '--set', 'serial.state.scr=256'],
      2,
      /serial: "state\.scr" is uint8, 0 to 255: 256 does not fit/,
    ],
    [
      'for a change of a device without a description',
      (dir) => stream(dir, 'postcopy'),
      ['--set', 'timer.cpu_ticks_offset=1'],
      2,
      /"timer" was not decoded, so none of its fields can be set/,
    ],
    [
      'for names in a mapped-ram stream that is to be compressed',
      (dir) => stream(dir, 'q10-mapped-ram'),
      ['--rename-block', 'microvm.ram=mem', '--compress', 'gzip'],
      2,
      /mapped-ram stream goes to a file, not compressed/,
    ],
    [
      'for a mapped-ram layout that is to be compressed',
      stream,
      ['--layout', 'mapped-ram', '--compress', 'gzip'],
      2,
      /--layout mapped-ram and --compress exclude each other/,
    ],
    [
      'for a mapped-ram stream that is to be compressed',
      (dir) => stream(dir, 'q10-mapped-ram'),
      ['--compress', 'gzip'],
      2,
      /mapped-ram stream goes to a file, not compressed/,
    ],
  ] as readonly [string, (dir: TempDir) => string, string[], number, RegExp][]) {
    test(what, async () => {
      await using dir = makeTempDir();
      assertSays(await run(['convert', make(dir), dir.join('to'), ...args]), code, says);
      assert.ok(!fs.existsSync(dir.join('to')));
    });
  }

  test('to a pipe, with --layout mapped-ram', async () => {
    await using dir = makeTempDir();
    const ended = await run(['convert', stream(dir), '-', '--layout', 'mapped-ram']);
    assertSays(ended, 2, /needs a file to write to/);
    assert.equal(ended.stdout.length, 0);
  });

  test('to a file that takes no such bytes: EINVAL of a system call is an error of the file', async () => {
    await using dir = makeTempDir();
    // The kernel takes only a number here.
    const descriptor = fs.openSync('/proc/self/oom_score_adj', 'w');
    try {
      const ended = await new Command(['convert', stream(dir), 'fd:3'], '', [descriptor]).ended();
      assertSays(ended, 4, /fd:3: EINVAL/);
    } finally {
      fs.closeSync(descriptor);
    }
  });

  test('for names in a mapped-ram stream that comes from a pipe, or goes to one', async () => {
    await using dir = makeTempDir();
    const [from, to] = [stream(dir, 'q10-mapped-ram'), dir.join('to')];
    const rename = ['--rename-block', 'microvm.ram=mem'];
    const piped = await run(['convert', '-', to, ...rename], fs.readFileSync(from));
    assertSays(piped, 5, /mapped-ram stream cannot be renamed as it passes: give a file/);
    assert.ok(!fs.existsSync(to));
    const ended = await run(['convert', from, '-', ...rename]);
    assertSays(ended, 2, /mapped-ram stream goes to a file/);
    assert.equal(ended.stdout.length, 0);
  });

  test('to the file that it reads', async () => {
    await using dir = makeTempDir();
    const from = stream(dir);
    assertSays(await run(['convert', from, from]), 2, /is the file that is read/);
    assert.ok(fs.readFileSync(from).equals(bytesOf('microvm')));
  });

  test('to a disk that is full', { skip: requireSmallDisk() }, async () => {
    await using dir = makeTempDir();
    await using disk = mountSmallDisk();
    for (const layout of [[], ['--layout', 'mapped-ram']]) {
      const ended = await run(['convert', stream(dir), disk.join('to'), ...layout]);
      assertSays(ended, 4, /\/to: ENOSPC/);
      assert.deepEqual(fs.readdirSync(disk.path), []);
    }
  });
});

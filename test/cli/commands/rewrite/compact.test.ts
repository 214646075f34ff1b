// The guest of a compacted stream is that of the stream, and nothing appears where that is impossible.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { recording, unpack } from '../../../fixtures/recording.ts';
import { makeTempDir, type TempDir } from '../../../helpers/cleanup.ts';
import { run } from '../../../helpers/command/command.ts';
import { assertSays, jsonIn, put, putRecording } from '../../../helpers/command/reading-command.ts';
import { savedGuestOf } from '../../../helpers/guests/saved-guest.ts';
import { readStream } from '../../../helpers/reading/read-stream.ts';
import { mountSmallDisk, requireSmallDisk } from '../../../helpers/storage/small-disk.ts';
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
} from '../../../helpers/streams/stream-bytes.ts';

/** Return the arguments for a recording with its further channels. */
function argumentsOf([main = '', ...channels]: readonly string[], to: string): string[] {
  const given = channels.filter((path) => !path.endsWith('.ret'));
  return ['compact', main, to, ...given.flatMap((path) => ['--channel', path])];
}

function bodyOf(name: string, body: Uint8Array): string {
  return `${name} ${Buffer.from(body).toString('hex')}`;
}

/** A small stream with a command that no QEMU knows before its end. */
function withUnknownCommand(): Buffer {
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x1000]), eos),
    piece('part', 2, page('pc.ram', 0, Buffer.alloc(4096, 0xaa)), eos),
    piece('end', 2, eos),
    command(99, 'aabb'),
    end,
    vmDescription({ page_size: 4096, devices: [] }),
  );
}

/** Assert that a file holds one round of a recorded guest. */
async function assertCompact(path: string, name: string): Promise<void> {
  const written = await readStream([fs.readFileSync(path)]);
  const [main, ...others] = recording(name).files.filter(({ kind }) => kind !== 'return');
  assert.ok(main);
  const channels = others.map((file) =>
    (async function* () {
      yield unpack(file);
    })(),
  );
  const { pages, sections } = await savedGuestOf(unpack(main), { channels });
  for (const [index, { name: block, usedLength }] of pages.blocks.entries()) {
    const bytes = Buffer.alloc(usedLength);
    await pages.read(index, 0, bytes);
    assert.ok(written.ram.get(block)?.equals(bytes), `RAM block ${block}`);
  }
  for (const block of written.reader.ram.blocks) {
    const { zero, normal, ...rest } = block.pages;
    assert.equal((zero + normal) * 4096, block.usedLength, 'each page came once');
    assert.deepEqual(rest, { xbzrle: 0, compressed: 0, multifd: 0 });
  }
  assert.deepEqual(
    written.events.flatMap((event) =>
      event.type === 'device' ? [bodyOf(event.section.name, event.body)] : [],
    ),
    sections.map(({ name: device, body }) => bodyOf(device, body)),
  );
  assert.ok(written.events.every(({ type }) => type !== 'command'));
}

describe('compact writes each page once, from a stream', () => {
  for (const [name, what] of [
    ['microvm', 'of several rounds'],
    ['compress', 'with compressed pages'],
    ['xbzrle', 'with XBZRLE pages'],
    ['multifd-zlib', 'with multifd channels'],
    ['q10-postcopy-preempt', 'of postcopy-preempt with its channel'],
  ] as const) {
    test(what, async () => {
      await using dir = makeTempDir();
      const to = dir.join('to');
      const ended = await run([...argumentsOf(putRecording(dir, name), to), '--json']);
      assertSays(ended, 0, /compacted .* \(\d+ bytes\) to .* \(\d+ bytes\)/);
      await assertCompact(to, name);
      const { bytesAfter } = jsonIn(ended);
      assert.equal(bytesAfter, fs.statSync(to).size);
      assert.equal(fs.statSync(to).mode & 0o777, 0o600);
    });
  }

  test('of a postcopy migration, without a VM description, and says so', async () => {
    await using dir = makeTempDir();
    const [main = ''] = putRecording(dir, 'postcopy');
    assertSays(await run(['compact', main, dir.join('to')]), 0, /there is no VM description/);
    await assertCompact(dir.join('to'), 'postcopy');
  });

  test('that comes from a pipe, compressed, and leaves compressed', async () => {
    await using dir = makeTempDir();
    const input = fs.readFileSync(new URL('../../../fixtures/microvm.mig.gz', import.meta.url));
    const packed = dir.join('packed');
    assertSays(await run(['compact', '-', packed, '--compress', 'gzip'], input), 0);
    const again = await run(['compact', packed, '-', '--quiet']);
    assertSays(again, 0);
    await assertCompact(put(dir, 'plain', again.stdout), 'microvm');
  });
});

/** The sections of a handler that is not known. */
const UNKNOWN = [
  section('start', 3, ['mystery', 0, 1], Buffer.from('a start of an unknown form')),
  piece('part', 3, Buffer.from('a part of an unknown form')),
  piece('end', 3, Buffer.from('an end of an unknown form')),
] as const;

/** Return a stream of one round with these sections. */
function withUnknownHandler(): Buffer {
  const [start, part, last] = UNKNOWN;
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 4096]), eos),
    start,
    piece('part', 2, page('pc.ram', 0, Buffer.alloc(4096, 1)), eos),
    part,
    piece('end', 2, eos),
    last,
    end,
    vmDescription({ page_size: 4096, devices: [] }),
  );
}

describe('sections of handlers that are not known', () => {
  for (const [name, ...options] of [
    ['convert'],
    ['compact'],
    ['convert', '--layout', 'mapped-ram'],
  ] as const) {
    test(`go through ${[name, ...options].join(' ')} untouched`, async () => {
      await using dir = makeTempDir();
      const bytes = withUnknownHandler();
      const to = dir.join('to');
      assertSays(await run([name, put(dir, 'from', bytes), to, ...options]), 0);
      const written = fs.readFileSync(to);
      if (options.length === 0) assert.ok(written.equals(bytes));
      for (const expected of UNKNOWN) assert.ok(written.includes(stream(expected)));
    });
  }
});

describe('compact writes nothing', () => {
  const recorded = (dir: TempDir, name = 'microvm'): string => putRecording(dir, name)[0] ?? '';

  for (const [what, make, code, says] of [
    [
      'for a stream that was cut',
      (dir) => put(dir, 'cut', fs.readFileSync(recorded(dir)).subarray(0, 1_000_000)),
      1,
      /ENODATA: .*ends/,
    ],
    [
      'for a stream that is damaged',
      (dir) => {
        const bytes = fs.readFileSync(recorded(dir));
        bytes.fill(0x55, 10_000, 20_000);
        return put(dir, 'damaged', bytes);
      },
      1,
      /EBADMSG/,
    ],
    ['for anything else', (dir) => put(dir, 'text', 'no stream at all'), 3, /EPROTO/],
    ['for an empty file', (dir) => put(dir, 'empty', ''), 3, /ENODATA/],
    [
      'for a stream whose channels were not given',
      (dir) => recorded(dir, 'multifd-none'),
      5,
      /multifd channels, which were not given \(--channel FILE for each channel\)/,
    ],
    [
      'for a stream of postcopy-preempt whose channel was not given',
      (dir) => recorded(dir, 'q10-postcopy-preempt'),
      1,
      /\d+ pages? of RAM block ".+" that postcopy discarded did not come after that: .*--channel FILE/,
    ],
    [
      'for a stream with a command that QEMU does not know',
      (dir) => put(dir, 'unknown', withUnknownCommand()),
      5,
      /ENOTSUP: command 99 is unknown/,
    ],
    ['for a file that does not exist', (dir) => dir.join('nothing'), 4, /ENOENT/],
  ] as readonly [string, (dir: TempDir) => string, number, RegExp][]) {
    test(what, async () => {
      await using dir = makeTempDir();
      const to = dir.join('to');
      assertSays(await run(['compact', make(dir), to]), code, says);
      assert.deepEqual(
        fs.readdirSync(dir.path).filter((name) => name.startsWith('to') || name.startsWith('.')),
        [],
      );
    });
  }

  test('to the file that it reads', async () => {
    await using dir = makeTempDir();
    const from = recorded(dir);
    fs.linkSync(from, dir.join('link'));
    const before = fs.readFileSync(from);
    assertSays(await run(['compact', from, dir.join('link')]), 2, /is the file that is read/);
    assert.ok(fs.readFileSync(from).equals(before));
  });

  test('to a directory that does not exist', async () => {
    await using dir = makeTempDir();
    assertSays(await run(['compact', recorded(dir), dir.join('no/to')]), 4, /no\/to: ENOENT/);
  });

  test('to a disk that is full', { skip: requireSmallDisk() }, async () => {
    await using dir = makeTempDir();
    await using disk = mountSmallDisk();
    const to = disk.join('to');
    assertSays(await run(['compact', recorded(dir), to]), 4, /\/to: ENOSPC/);
    assert.deepEqual(fs.readdirSync(disk.path), []);
  });
});

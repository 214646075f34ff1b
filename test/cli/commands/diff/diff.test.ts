// `qemu-file diff`, as its users meet it.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { makeTempDir } from '../../../helpers/cleanup.ts';
import { run } from '../../../helpers/command/command.ts';
import { assertSays, jsonIn, put, putRecording } from '../../../helpers/command/reading-command.ts';
import {
  blockList,
  configuration,
  end,
  eos,
  header,
  page,
  piece,
  section,
  stream,
  subsection,
  vmDescription,
  workedExample,
  zeroPage,
} from '../../../helpers/streams/stream-bytes.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;

/** The worked example after its guest has run: other pages, other fields, and no subsection. */
function laterExample(): Buffer {
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x2000], ['vga.vram', 0x1000]), eos),
    piece(
      'part',
      2,
      page('pc.ram', 0, Buffer.alloc(4096, 0xbb)),
      page(null, 0x1000, Buffer.alloc(4096, 0xaa)),
      eos,
    ),
    // The last copy of a page counts.
    piece('end', 2, zeroPage('vga.vram', 0), zeroPage('pc.ram', 0), eos),
    section('full', 5, ['demo', 0, 1], '12345679 0001 0009 0003'),
    section('full', 6, ['new', 3, 1], 'ff'),
    end,
    vmDescription({
      page_size: 4096,
      devices: [
        {
          name: 'demo',
          instance_id: 0,
          version: 1,
          fields: [
            { name: 'a', type: 'uint32', size: 4 },
            { name: 'arr', array_len: 3, type: 'uint16', size: 2 },
          ],
        },
        {
          name: 'new',
          instance_id: 3,
          version: 1,
          fields: [{ name: 'x', type: 'uint8', size: 1 }],
        },
      ],
    }),
  );
}

/** How the two differ, worked out by hand. */
const DIFFERENCES = {
  same: false,
  devices: [
    {
      name: 'demo',
      instanceId: 0,
      fields: [
        { path: 'a', a: 0x12345678, b: 0x12345679 },
        { path: 'arr[1]', a: 2, b: 9 },
        { path: 'demo/extra', a: { flag: true }, b: null },
      ],
    },
    { name: 'new', instanceId: 3, onlyIn: 'b', fields: [] },
  ],
  blocks: [
    {
      name: 'pc.ram',
      usedLength: [0x2000, 0x2000],
      pages: { changed: 0, becameZero: 1, wasZero: 0, moved: 1 },
      ranges: [
        { offset: 0, length: 0x1000, kind: 'becameZero' },
        { offset: 0x1000, length: 0x1000, kind: 'moved' },
      ],
    },
  ],
};

describe('diff', { concurrency }, () => {
  test('prints with --json what differs, and exits with 1', async () => {
    await using dir = makeTempDir();
    const a = put(dir, 'a.mig', workedExample());
    const b = put(dir, 'b.mig.gz', gzipSync(laterExample()));
    const ended = await run(['diff', a, b, '--json']);
    assert.deepEqual(jsonIn(ended), DIFFERENCES);
    assert.deepEqual([ended.code, ended.stderr], [1, '']);
  });

  test('exits with 0 if nothing differs except ignored fields', async () => {
    await using dir = makeTempDir();
    const a = put(dir, 'a.mig', workedExample());
    const same = await run(['diff', a, '-', '--json'], gzipSync(workedExample()));
    assert.deepEqual(jsonIn(same), { same: true, devices: [], blocks: [] });
    assert.equal(same.code, 0);
    const other = stream(workedExample());
    // The first byte of the field "a" of "demo".
    other[0x10c0] = 0x99;
    const args = ['diff', a, put(dir, 'b.mig', other)];
    assert.equal((await run(args)).code, 1);
    const ignored = await run([...args, '--ignore', 'nic.*', '--ignore', 'demo.?']);
    assert.equal(ignored.code, 0, ignored.stderr);
    assert.match(ignored.stdout.toString(), /The guests are the same/);
  });

  test('shows devices, pages and two maps', async () => {
    await using dir = makeTempDir();
    const a = put(dir, 'a.mig', workedExample());
    const ended = await run(['diff', a, '-'], laterExample());
    assert.deepEqual([ended.code, ended.stderr], [1, '']);
    assert.equal(
      ended.stdout.toString(),
      `A  ${a}
B  -

Devices: 2 devices differ
  demo
    a  305419896 → 305419897
    arr[1]  2 → 9
    demo/extra  {flag:true} → (none)
  new/3: only in B

RAM: 1 block differs
  pc.ram  8 KiB  pages became zero 1, moved 1
    █·   ◆◆
    · zeros   ░▒▓█ data   ◆ differs from A   (blank) not in the guest
`,
    );
    const quiet = await run(['diff', a, '-', '--quiet'], laterExample());
    assert.deepEqual([quiet.code, quiet.stdout.toString(), quiet.stderr], [1, '', '']);
  });

  test('writes a report with --html', async () => {
    await using dir = makeTempDir();
    const a = put(dir, 'a.mig', workedExample());
    const ended = await run(['diff', a, '-', '--html', dir.join('d.html')], laterExample());
    assert.equal(ended.code, 1, ended.stderr);
    assert.match(fs.readFileSync(dir.join('d.html'), 'utf8'), /"path":"arr\[1\]","a":2,"b":9/);
    const nowhere = await run(['diff', a, a, '--html', dir.join('none/d.html')]);
    assertSays(nowhere, 4, /none\/d\.html: ENOENT/);
  });

  test('compares two machines, with text of the streams escaped', async () => {
    await using dir = makeTempDir();
    const name = 'q\u001b[31m';
    const other = stream(header, configuration(name), workedExample().subarray(0x1a));
    const a = put(dir, 'a.mig', workedExample());
    const b = put(dir, 'b.mig', other);
    const json = jsonIn(await run(['diff', a, b, '--json']));
    assert.deepEqual(json, {
      same: false,
      configuration: [{ path: 'machine', a: 'pc-i440fx-7.2', b: name }],
      devices: [],
      blocks: [],
    });
    const { stdout } = await run(['diff', a, b]);
    assert.match(
      stdout.toString(),
      /Configuration\n {2}machine {2}pc-i440fx-7\.2 → q\\u\{1b\}\[31m\n/,
    );
    const ignored = await run(['diff', a, b, '--ignore', 'configuration.machine']);
    assert.equal(ignored.code, 0);
  });

  test('compares recordings with their channels', async () => {
    await using dir = makeTempDir();
    const [main = '', ...channels] = putRecording(dir, 'q10-multifd-none');
    const options = (side: string): string[] => channels.flatMap((path) => [side, path]);
    const args = ['diff', main, main, ...options('--a-channel')];
    const same = await run([...args, ...options('--b-channel'), '--json']);
    assert.deepEqual(jsonIn(same), { same: true, devices: [], blocks: [] });
    assertSays(await run(args), 3, /multifd channels, which were not given .*--b-channel/);
  });
});

describe('diff of streams that cannot be compared', { concurrency }, () => {
  test('exits with 3 and names the stream and its fault', async () => {
    await using dir = makeTempDir();
    const sound = put(dir, 'sound.mig', workedExample());
    const cut = put(dir, 'cut.mig', workedExample().subarray(0, 3000));
    const corrupt = workedExample();
    corrupt[0x0060] = 0x55;
    const cases = [
      [cut, sound, /cut\.mig: ENODATA/],
      [sound, put(dir, 'corrupt.mig', corrupt), /corrupt\.mig: EBADMSG/],
      [sound, put(dir, 'text.mig', 'no stream at all'), /text\.mig: EPROTO/],
      [put(dir, 'empty.mig', ''), sound, /empty\.mig: ENODATA/],
    ] as const;
    for (const [a, b, says] of cases) {
      const ended = await run(['diff', a, b, '--json']);
      assertSays(ended, 3, says);
      assert.equal(ended.stdout.toString(), '');
    }
  });

  test('exits with 3 for guests of other page sizes', async () => {
    await using dir = makeTempDir();
    const wide = stream(
      header,
      configuration('virt-7.2', subsection('configuration/target-page-bits', 1, '00000010')),
      section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x10000]), eos),
      piece('end', 2, zeroPage('pc.ram', 0), eos),
      end,
      vmDescription({ page_size: 65536, devices: [] }),
    );
    const a = put(dir, 'a.mig', workedExample());
    const ended = await run(['diff', a, put(dir, 'b.mig', wide)]);
    assertSays(ended, 3, /pages of 4096 bytes, the other of 65536 bytes/);
  });

  test('exits with 2 for a usage error and with 4 for a file that is not there', async () => {
    await using dir = makeTempDir();
    const a = put(dir, 'a.mig', workedExample());
    assertSays(await run(['diff', '-', '-']), 2, /only one of the two streams/);
    assertSays(await run(['diff', a, 'carrier-pigeon:x']), 2, /carrier-pigeon/);
    assertSays(await run(['diff', a, a, '--a-snapshot', 'x']), 2, /snapshot/);
    assertSays(await run(['diff', a, dir.join('none')]), 4, /none: ENOENT/);
  });
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { MigrationEvent } from '../../../lib/migration/format/events.ts';
import type { MigrationStreamError } from '../../../lib/migration/format/stream-error.ts';
import { outline, readStream } from '../../helpers/reading/read-stream.ts';
import {
  be32,
  be64,
  blockList,
  command,
  configuration,
  counted,
  end,
  eos,
  footer,
  header,
  PC,
  piece,
  RAM,
  section,
  stream,
  subsection,
  vmDescription,
  workedExample,
  workedExampleDevice,
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';
import { fault } from './ram-stream.ts';

const PAGE = 4096;

describe('a reader of the worked example', () => {
  const bytes = workedExample();
  const expected = [
    '0 header 3',
    '8 configuration pc-i440fx-7.2',
    '26 section start 2 ram',
    '43 ramBlocks pc.ram 8192, vga.vram 4096',
    '96 sectionEnd 2 70 footer 91',
    '96 section part 2 ram',
    '4234 sectionEnd 2 4138 footer 4229',
    '4234 section end 2 ram',
    '4270 sectionEnd 2 36 footer 4265',
    '4270 section full 5 demo',
    `4270 device demo ${'12345678000100020003'}${'050a64656d6f2f65787472610000000101'}`,
    '4320 sectionEnd 5 50 footer 4315',
    '4320 end',
    '4321 vmDescription 343',
  ];

  test('yields all items with their offsets', async () => {
    const { events } = await readStream([bytes]);
    assert.deepEqual(outline(events), expected);
  });

  test('delivers the pages, and decodes the device', async () => {
    const { events, ram } = await readStream([bytes]);
    assert.deepEqual(
      ram.get('pc.ram'),
      Buffer.concat([Buffer.alloc(PAGE, 0xaa), Buffer.alloc(PAGE)]),
    );
    assert.deepEqual(ram.get('vga.vram'), Buffer.alloc(PAGE));
    const device = events.find((event) => event.type === 'device');
    assert.deepEqual(JSON.parse(JSON.stringify((device as { state: unknown }).state)), {
      a: 0x12345678,
      arr: [1, 2, 3],
      'demo/extra': { flag: true },
    });
  });

  test('yields the same at every split', async () => {
    for (let at = 1; at < bytes.length; at++) {
      const { events, ram } = await readStream([bytes.subarray(0, at), bytes.subarray(at)]);
      assert.deepEqual(outline(events), expected, `parted at ${at}`);
      assert.equal(ram.get('pc.ram')?.[PAGE - 1], 0xaa, `parted at ${at}`);
    }
  });

  test('yields the same byte by byte', async () => {
    const { events } = await readStream(Array.from(bytes, (byte) => Uint8Array.of(byte)));
    assert.deepEqual(outline(events), expected);
  });

  test('knows the description beforehand, and holds nothing', async () => {
    const description = {
      page_size: 4096,
      devices: [workedExampleDevice],
    };
    const { events } = await readStream([bytes], { description: { description, offset: 4321 } });
    assert.deepEqual(outline(events), expected);
  });
});

describe('framing', () => {
  const list = blockList(['a', PAGE]);
  const start = section('start', 2, RAM, list, eos);
  const finish = piece('end', 2, eos);

  const faults: [name: string, bytes: Buffer, fault: string, reason: RegExp, position: number][] = [
    [
      'of something else',
      stream('7f454c46', Buffer.alloc(60)),
      'not-a-stream',
      /begins with 7f454c46/,
      0,
    ],
    ['of version 2', stream('5145564d 00000002'), 'unsupported', /version 2/, 4],
    ['of nothing', stream(), 'truncated', /inside the header: 0 of 8/, 0],
    [
      'with a name of 2 GiB',
      stream(header, '07 80000000'),
      'corrupt',
      /machine name of 2147483648/,
      9,
    ],
    [
      'with page bits that cannot be',
      stream(header, configuration('x', subsection('configuration/target-page-bits', 1, be32(40)))),
      'corrupt',
      /40 target page bits/,
      50,
    ],
    [
      'with a thousand capabilities',
      stream(header, configuration('x', subsection('configuration/capabilities', 1, be32(1000)))),
      'corrupt',
      /1000 capabilities/,
      46,
    ],
    [
      'with a capability that is not known',
      stream(
        header,
        configuration('x', subsection('configuration/capabilities', 1, be32(1), counted('rdma'))),
      ),
      'unsupported',
      /unknown capability "rdma"/,
      50,
    ],
    [
      'with a subsection that is not known',
      stream(header, configuration('x', subsection('configuration/colour', 1))),
      'corrupt',
      /"configuration\/colour" is not a subsection/,
      14,
    ],
    [
      'with an item of type 9',
      stream(header, PC, '09'),
      'corrupt',
      /0x09 does not begin an item/,
      26,
    ],
    [
      'with an item of type 5 after a section',
      stream(header, PC, start, '05'),
      'corrupt',
      /0x05 after section "ram" does not begin an item: the previous section/,
      74,
    ],
    [
      'with a second stream in it',
      stream(header, PC, start, header),
      'corrupt',
      /second stream/,
      74,
    ],
    [
      'with a PART of nothing',
      stream(header, PC, '02 00000007'),
      'corrupt',
      /section 7, which had no SECTION_START/,
      27,
    ],
    [
      'with a PART after the END',
      stream(header, PC, start, finish, piece('part', 2, eos)),
      'corrupt',
      /SECTION_PART of section 2 \("ram"\), which had its SECTION_END/,
      93,
    ],
    [
      'with a section id that is in use',
      stream(header, PC, start, section('start', 2, ['ram', 1, 4], list, eos)),
      'corrupt',
      /section id 2 of "ram" belongs to "ram"/,
      75,
    ],
    [
      'with RAM of version 3',
      stream(header, PC, section('start', 2, ['ram', 0, 3], list, eos)),
      'unsupported',
      /^RAM section of version 3, not 4$/,
      26,
    ],
    [
      'with a section without a name',
      stream(header, PC, '01 00000002', counted(''), be32(0), be32(4)),
      'corrupt',
      /without a name/,
      31,
    ],
    [
      'with a name that is not text',
      stream(header, PC, '01 00000002', counted('a\x1b[2J'), be32(0), be32(4)),
      'corrupt',
      /with the name "a\\u\{1b\}\[2J"/,
      31,
    ],
    [
      'with pieces of what is not known',
      stream(header, PC, section('start', 3, ['gpu', 0, 1])),
      'truncated',
      /without a section footer after 5 bytes of body/,
      48,
    ],
    [
      'with a footer of another section',
      stream(header, PC, start.subarray(0, -1), '09', finish),
      'corrupt',
      /the section footer has id 9, not 2/,
      70,
    ],
    [
      'with a missing footer',
      stream(header, PC, start, finish.subarray(0, -5), end),
      'corrupt',
      /no section footer after/,
      87,
    ],
    [
      'that ends before RAM does',
      stream(header, PC, start, end),
      'corrupt',
      /before the SECTION_END of every section/,
      74,
    ],
    [
      'without an end mark',
      stream(header, PC, start, finish),
      'truncated',
      /without its end mark/,
      92,
    ],
    ['with command 0', stream(header, PC, command(0)), 'corrupt', /command number 0/, 27],
    [
      'with a package in a package',
      stream(header, PC, command(7, be32(9)), command(7, be32(0))),
      'corrupt',
      /PACKAGED inside a postcopy package/,
      35,
    ],
    [
      'with bytes behind the end of a package',
      stream(header, PC, command(7, be32(3)), end, '0102'),
      'corrupt',
      /2 bytes are left over after the end of a postcopy package/,
      36,
    ],
    [
      'with a package that is cut off',
      stream(header, PC, command(7, be32(900)), command(1)),
      'truncated',
      /inside a postcopy package: 5 of 900 bytes/,
      40,
    ],
  ];
  for (const [name, bytes, kind, reason, position] of faults) {
    test(`${name} is a fault that says where`, async () => {
      const error = await fault(bytes);
      assert.match(error.reason, reason);
      assert.deepEqual([error.fault, error.position], [kind, position], error.message);
    });
  }

  test('of a machine without configuration and footers is read', async () => {
    const bare = (bytes: Buffer): Buffer => bytes.subarray(0, -5);
    const body = section('full', 7, ['dev', 0, 1], '0000002a');
    const bytes = stream(
      header,
      bare(start),
      bare(piece('end', 2, zeroPage('a', 0), eos)),
      bare(body),
      end,
      vmDescription(
        '{"page_size": 4096, "devices": [{"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 1, "fields": [{"name": "x", "type": "uint32", "size": 4}]}]}',
      ),
    );
    const { events } = await readStream([bytes]);
    const device = events.find(({ type }) => type === 'device') as unknown as {
      state: { x: unknown };
    };
    assert.equal(device.state.x, 42);
    assert.deepEqual(
      events
        .filter(({ type }) => type === 'sectionEnd')
        .map((event) => (event as { footer: unknown }).footer),
      [null, null, null],
    );
  });

  test('of a background snapshot ends without the END of any section', async () => {
    // As a QEMU with the capability sends it: the devices were saved first and come last.
    const whole = workedExample();
    const bytes = Buffer.concat([whole.subarray(0, 4234), whole.subarray(4270)]);
    const { events, ram } = await readStream([bytes]);
    const last = events.slice(-7).map(({ type, offset }) => `${type} ${offset}`);
    assert.deepEqual(last, [
      'sectionEnd 4234',
      'section 4234',
      'sectionEnd 4284',
      'end 4284',
      'vmDescription 4285',
      'device 4234',
      'warning 4284',
    ]);
    const device = events.at(-2);
    assert.ok(device?.type === 'device' && device.state !== null, 'the device is decoded');
    assert.deepEqual(ram.get('vga.vram'), Buffer.alloc(PAGE));
    assert.deepEqual(
      ram.get('pc.ram'),
      Buffer.concat([Buffer.alloc(PAGE, 0xaa), Buffer.alloc(PAGE)]),
    );
  });

  test('with an unknown command continues, with a warning', async () => {
    const { events } = await readStream([
      stream(header, PC, start, command(77, '01020304'), finish, end),
    ]);
    assert.match(outline(events).join('\n'), /74 warning unknown command 77 was skipped/);
  });

  test('with bytes after it reports their number', async () => {
    const { events } = await readStream([stream(workedExample(), Buffer.alloc(1000))]);
    assert.equal(outline(events).at(-1), '4664 trailing 1000');
  });
});

describe('device sections', () => {
  const list = blockList(['a', PAGE]);
  const before = stream(header, PC, section('start', 2, RAM, list, eos), piece('end', 2, eos));
  const describe32 = (...names: string[]): object => ({
    page_size: PAGE,
    devices: names.map((name) => ({
      name,
      instance_id: 0,
      vmsd_name: name,
      version: 1,
      fields: [{ name: 'x', type: 'uint32', size: 4 }],
    })),
  });
  const devices = (events: MigrationEvent[]): [string, unknown, string][] =>
    events
      .filter((event) => event.type === 'device')
      .map(({ section: { name }, state, body }) => [
        name,
        state === null ? null : state.x,
        body.toString('hex'),
      ]);

  test('without a description end at their footers, with a warning', async () => {
    const { events } = await readStream([
      stream(
        before,
        section('full', 7, ['dev', 0, 1], '00112233'),
        section('full', 8, ['two', 0, 1]),
        end,
      ),
    ]);
    assert.deepEqual(devices(events), [
      ['dev', null, '00112233'],
      ['two', null, ''],
    ]);
    assert.equal(events.filter(({ type }) => type === 'warning').length, 1);
    assert.match(outline(events).join('\n'), /warning there is no VM description/);
  });

  test('without a description are not ended by what only looks like their footer', async () => {
    const fake = stream(footer(7), 'ffffffff', footer(7), '09', footer(8));
    const { events } = await readStream([
      stream(before, section('full', 7, ['dev', 0, 1], fake), end),
    ]);
    assert.deepEqual(devices(events), [['dev', null, fake.toString('hex')]]);
  });

  test('that hold what looks like a description are read by the one at the end', async () => {
    const inner = vmDescription(describe32());
    const body = stream(be32(inner.length + 1), footer(7), end, inner);
    const description = {
      page_size: PAGE,
      devices: [
        {
          name: 'dev',
          instance_id: 0,
          vmsd_name: 'dev',
          version: 1,
          fields: [
            { name: 'x', type: 'uint32', size: 4 },
            { name: 'rest', type: 'buffer', size: body.length - 4 },
          ],
        },
      ],
    };
    const { events } = await readStream([
      stream(before, section('full', 7, ['dev', 0, 1], body), end, vmDescription(description)),
    ]);
    assert.deepEqual(devices(events), [['dev', inner.length + 1, body.toString('hex')]]);
  });

  test('before RAM wait for the description after it', async () => {
    const bytes = stream(
      header,
      PC,
      section('full', 1, ['early', 0, 1], '00000001'),
      section('start', 2, RAM, list, eos),
      piece('end', 2, zeroPage('a', 0), eos),
      section('full', 7, ['late', 0, 1], '00000002'),
      end,
      vmDescription(describe32('early', 'late')),
    );
    const { events } = await readStream([bytes]);
    assert.deepEqual(devices(events), [
      ['early', 1, '00000001'],
      ['late', 2, '00000002'],
    ]);
    assert.deepEqual(
      events.filter(({ type }) => type === 'warning'),
      [],
    );
  });

  test('in a package end where their footers are', async () => {
    const items = stream(
      command(4),
      section('full', 7, ['dev', 0, 1], '00000001'),
      section('full', 8, ['dev', 1, 1], '00000002'),
      command(2, be32(3)),
      command(5),
    );
    const bytes = stream(
      header,
      PC,
      command(1),
      command(3, be64(PAGE), be64(PAGE)),
      section('start', 2, RAM, list, eos),
      command(7, be32(items.length)),
      items,
      piece('part', 2, zeroPage('a', 0), eos),
      piece('end', 2, eos),
      end,
    );
    const { events } = await readStream([bytes]);
    assert.deepEqual(devices(events), [
      ['dev', null, '00000001'],
      ['dev', null, '00000002'],
    ]);
    // Offsets count in the whole stream, in a package too.
    const first = bytes.indexOf(stream('04 00000007'));
    const device = events.find(({ type }) => type === 'device');
    assert.equal(device?.offset, first);
    assert.equal(
      events.find(({ type }) => type === 'packageEnd')?.offset,
      first - 5 + items.length,
    );
  });

  test('of one name and instance are distinguished by their order', async () => {
    const bytes = stream(
      before,
      section('full', 7, ['ide', 0, 1], '00000001'),
      section('full', 8, ['ide', 0, 1], '00000002'),
      end,
      vmDescription(describe32('ide', 'ide')),
    );
    assert.deepEqual(devices((await readStream([bytes])).events), [
      ['ide', 1, '00000001'],
      ['ide', 2, '00000002'],
    ]);
  });

  const misfits: [name: string, bytes: Buffer, reason: RegExp, left: unknown[]][] = [
    [
      'longer than described',
      stream(
        section('full', 7, ['dev', 0, 1], '0000000a 0b'),
        end,
        vmDescription(describe32('dev')),
      ),
      /body has 5 bytes, but its description adds up to 4/,
      [['dev', null, '0000000a0b']],
    ],
    [
      'shorter than described',
      stream(section('full', 7, ['dev', 0, 1], '00000a'), end, vmDescription(describe32('dev'))),
      /body has 3 bytes, but its description adds up to 4/,
      [['dev', null, '00000a']],
    ],
    [
      'not described',
      stream(section('full', 7, ['dev', 0, 1], '0000000a'), end, vmDescription(describe32())),
      /not listed in the VM description/,
      [['dev', null, '0000000a']],
    ],
    [
      'described and missing',
      stream(
        section('full', 7, ['dev', 0, 1], '0000000a'),
        end,
        vmDescription(describe32('dev', 'gone')),
      ),
      /description lists section "gone", which did not come/,
      [['dev', 10, '0000000a']],
    ],
  ];
  for (const [name, bytes, reason, left] of misfits) {
    test(`${name} are a fault, after which reading continues`, async () => {
      const whole = stream(before, bytes);
      assert.match((await fault(whole)).reason, reason);
      const reasons: string[] = [];
      const { events } = await readStream([whole], {
        onFault: (error: MigrationStreamError) => void reasons.push(error.reason),
      });
      assert.equal(reasons.length, 1);
      assert.deepEqual(devices(events), left);
    });
  }
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { SectionKind } from '../../../lib/migration/format/events.ts';
import type { StreamInput } from '../../../lib/migration/format/stream-input.ts';
import {
  HandlerSections,
  type HandlerSummary,
} from '../../../lib/migration/savevm-handlers/handler-sections.ts';
import { pattern } from '../../helpers/bytes.ts';
import {
  assertFault,
  assertTruncated,
  inputOver,
  readSplit,
} from '../../helpers/reading/split-input.ts';
import {
  type Bytes,
  be16,
  be32,
  be64,
  counted,
  footer,
  stream,
} from '../../helpers/streams/stream-bytes.ts';

const VERSION: Readonly<Record<string, number>> = { 's390-storage_attributes': 0 };

/** Reads one or more bodies of a section, each by its kind. */
function reader(
  name: string,
  ...kinds: readonly SectionKind[]
): (input: StreamInput) => Promise<HandlerSummary[]> {
  return async (input) => {
    const sections = new HandlerSections({ warn() {} });
    const summaries: HandlerSummary[] = [];
    for (const kind of kinds) {
      const summary = await sections.skip(name, kind, VERSION[name] ?? 1, input);
      assert.ok(summary !== null);
      summaries.push(summary);
    }
    return summaries.map(({ records, bytes }) => ({ records, bytes }));
  };
}

interface Good {
  what: string;
  name: string;
  kinds: readonly SectionKind[];
  bytes: Buffer;
  wanted: readonly HandlerSummary[];
}

/** Bodies that are read at every split, and cut at every byte. */
const GOOD: readonly Good[] = [
  {
    what: 'disk contents without data',
    name: 'block',
    kinds: ['start', 'part', 'end'],
    bytes: stream(
      '00 00 00 00 00 00 00 02',
      stream('00 00 00 00 00 10 00 09', '06 76 64 69 73 6b 30'),
      '00 00 00 00 00 00 c8 04',
      '00 00 00 00 00 00 00 02',
      '00 00 00 00 00 00 00 02',
    ),
    wanted: [
      { records: 0, bytes: 0 },
      { records: 2, bytes: 0 },
      { records: 0, bytes: 0 },
    ],
  },
  {
    what: 'dirty bitmaps, names of which are left out across sections',
    name: 'dirty-bitmap',
    kinds: ['start', 'part', 'end'],
    bytes: stream(
      '1c 05 6e 6f 64 65 30 03 62 6d 30 00 01 00 00 03',
      '14 03 62 6d 31 00 00 02 00 00',
      '01',
      stream('44', counted('bm0'), be64(0), be32(0x80), be64(32), pattern(32)),
      '42 00 00 00 00 00 00 00 80 00 00 00 80',
      '01',
      '42 00 00 00 00 00 00 01 00 00 00 00 01',
      '20 24 03 62 6d 31 01',
    ),
    wanted: [
      { records: 2, bytes: 0 },
      { records: 2, bytes: 32 },
      { records: 3, bytes: 0 },
    ],
  },
  {
    what: 'the last chunk of dirty bitmaps that does something',
    name: 'dirty-bitmap',
    kinds: ['end'],
    bytes: stream('2d 01 61 01 62'),
    wanted: [{ records: 1, bytes: 0 }],
  },
  {
    what: 'a hash table',
    name: 'spapr/htab',
    kinds: ['start', 'part', 'part', 'end'],
    bytes: stream(
      '00 00 00 18',
      stream('00 00 00 00', '00 00 00 05 00 02 00 03', '00'.repeat(32)),
      stream('00 10 00 00 00 00 00 00', '00'.repeat(8)),
      '00 00 00 00 00 00 00 00 00 00 00 00',
      stream('00 00 00 00', '00 0f ff ff 00 01 00 00', 'ff'.repeat(16), '00'.repeat(8)),
    ),
    wanted: [
      { records: 0, bytes: 0 },
      { records: 2, bytes: 32 },
      { records: 0, bytes: 0 },
      { records: 1, bytes: 16 },
    ],
  },
  {
    what: 'no hash table',
    name: 'spapr/htab',
    kinds: ['start', 'part', 'end'],
    bytes: stream('ff ff ff ff ff ff ff ff ff ff ff ff'),
    wanted: [
      { records: 0, bytes: 0 },
      { records: 0, bytes: 0 },
      { records: 0, bytes: 0 },
    ],
  },
  {
    what: 'storage attributes',
    name: 's390-storage_attributes',
    kinds: ['start', 'part', 'end'],
    bytes: stream(
      '00 00 00 00 00 00 00 01',
      stream('00 00 00 00 00 01 00 02', '00 00 00 00 00 00 00 03', 'aa bb cc'),
      '00 00 00 00 00 00 00 01',
      stream('00 00 00 00 00 00 00 08', '00 00 00 00 00 00 00 01'),
    ),
    wanted: [
      { records: 0, bytes: 0 },
      { records: 1, bytes: 3 },
      { records: 0, bytes: 0 },
    ],
  },
  {
    what: 'storage keys',
    name: 's390-skeys',
    kinds: ['full'],
    bytes: stream(
      stream('00 00 00 00 00 00 00 02', '00 00 00 00 00 00 00 05', '01 02 03 04 05'),
      stream('00 00 00 00 00 00 50 02', '00 00 00 00 00 00 00 01', '06'),
      '00 00 00 00 00 00 00 01',
    ),
    wanted: [{ records: 2, bytes: 6 }],
  },
  {
    what: 'a clock',
    name: 'todclock',
    kinds: ['full'],
    bytes: stream('01 00 d8 1d 2c 3b 4a 59 68 77'),
    wanted: [{ records: 1, bytes: 9 }],
  },
  {
    what: 'no clock',
    name: 'todclock',
    kinds: ['full'],
    bytes: stream('00'),
    wanted: [{ records: 0, bytes: 0 }],
  },
  {
    what: 'a device that was passed through',
    name: '0000:00:02.0/vfio',
    kinds: ['start', 'part', 'part', 'end', 'full'],
    bytes: stream(
      'ff ff ff ff ef 10 00 03 ff ff ff ff ef 10 00 01',
      stream('ff ff ff ff ef 10 00 04', '00 00 00 00 00 00 00 03', 'aa bb cc'),
      stream('ff ff ff ff ef 10 00 04', '00 00 00 00 00 00 00 00', 'ff ff ff ff ef 10 00 01'),
      'ff ff ff ff ef 10 00 05',
      'ff ff ff ff ef 10 00 01',
      'ff ff ff ff ef 10 00 06',
    ),
    wanted: [
      { records: 0, bytes: 0 },
      { records: 2, bytes: 3 },
      { records: 0, bytes: 0 },
      { records: 0, bytes: 0 },
      { records: 0, bytes: 0 },
    ],
  },
];

describe('HandlerSections', () => {
  for (const { what, name, kinds, bytes, wanted } of GOOD) {
    test(`reads ${what}, at every split`, async () => {
      assert.deepEqual(await readSplit(bytes, reader(name, ...kinds)), wanted);
    });

    test(`finds ${what} truncated, at every place`, () =>
      assertTruncated(bytes, reader(name, ...kinds)));
  }

  test('contents of disks are dropped', async () => {
    const chunk = pattern(1_048_576);
    const part = stream('00 00 00 00 00 00 00 01', counted('vda'), chunk);
    const bytes = stream(part, '00 00 00 00 00 10 00 01', counted('vdb'), chunk, be64(2));
    const places = [12, 13, 500_000, part.length - 1, part.length, bytes.length - 8];
    const [summary] = await readSplit(bytes, reader('block', 'part'), places);
    assert.deepEqual(summary, { records: 2, bytes: 2_097_152 });
    await assertTruncated(bytes, reader('block', 'part'), places);
  });

  test('reads nothing of a section of another handler', () => {
    const input = inputOver(stream('00'));
    const sections = new HandlerSections({ warn() {} });
    for (const [name, kind] of [
      ['ram', 'start'],
      ['slirp', 'full'],
      ['vfio-pci', 'full'],
      ['xvfio', 'full'],
      ['__proto__', 'full'],
      ['constructor', 'start'],
      ['', 'part'],
      ['block', 'full'],
      ['dirty-bitmap', 'full'],
      ['todclock', 'start'],
      ['s390-skeys', 'part'],
      ['spapr/htab', 'full'],
    ] as const) {
      assert.equal(sections.skip(name, kind, 1, input), null, name);
    }
    assert.equal(input.position, 0);
  });

  test('a section of another version is not supported', async () => {
    const read = async (kind: SectionKind, name: string, version: number): Promise<unknown> => {
      const input = inputOver(stream('aa aa aa aa aa aa aa aa'));
      await input.skip(6, 'a header');
      input.section = { sectionId: 4, name, instanceId: 0 };
      return new HandlerSections({ warn() {} }).skip(name, kind, version, input);
    };
    await assertFault(
      read('start', 'block', 2),
      'unsupported',
      2,
      /version 2, but only 1 is known/,
    );
    await assertFault(read('full', 'vfio', 0), 'unsupported', 2, /version 0/);
    await assertFault(read('part', 's390-storage_attributes', 1), 'unsupported', 6, /only 0 is/);
  });

  describe('refuses', () => {
    const bad: readonly [
      what: string,
      name: string,
      kind: SectionKind,
      bytes: Buffer,
      position: number,
      reason: RegExp,
    ][] = [
      ['disk contents without flags', 'block', 'part', be64(0), 0, /0x0000000000000000/],
      [
        'disk contents of two flags',
        'block',
        'part',
        be64(6),
        0,
        /has unknown flags for section block/,
      ],
      [
        'zero blocks that are no blocks',
        'block',
        'part',
        be64(8),
        0,
        /has unknown flags for section block/,
      ],
      [
        'an end mark with a sector',
        'block',
        'part',
        be64(0x202),
        0,
        /has unknown flags for section block/,
      ],
      ['a negative sector', 'block', 'part', be64((1n << 63n) + 9n), 0, /beyond any disk/],
      ['a device without a name', 'block', 'part', stream(be64(1), '00'), 8, /name .* is empty/],
      ...bitmaps(),
      ['a hash table of no bytes', 'spapr/htab', 'start', be32(0), 0, /2\^0 bytes/],
      ['a hash table that is too small', 'spapr/htab', 'start', be32(17), 0, /2\^17 bytes/],
      ['a hash table that is too large', 'spapr/htab', 'start', be32(47), 0, /2\^47 bytes/],
      ['a part of another hash table', 'spapr/htab', 'part', be32(24), 0, /0x00000018/],
      [
        'entries of no hash table',
        'spapr/htab',
        'part',
        stream(be32(0), be32(0), be16(1), be16(0)),
        4,
        /exceed a hash table of 0/,
      ],
      [
        'storage attributes of two flags',
        's390-storage_attributes',
        'part',
        be64(3),
        0,
        /has unknown flags for storage/,
      ],
      [
        'an end mark with an address',
        's390-storage_attributes',
        'part',
        be64(0x1001),
        0,
        /has unknown flags for storage/,
      ],
      [
        'too many storage attributes',
        's390-storage_attributes',
        'part',
        stream(be64(2), be64(524_289)),
        8,
        /524289 bytes .* more than 524288/,
      ],
      [
        'storage attributes that could not be read',
        's390-storage_attributes',
        'end',
        be64(4),
        0,
        /the source failed to read its storage attributes/,
      ],
      [
        'storage keys without a flag',
        's390-skeys',
        'full',
        be64(0x1000),
        0,
        /has unknown flags for storage/,
      ],
      [
        'too many storage keys',
        's390-skeys',
        'full',
        stream(be64(2), be64(2n ** 64n - 1n)),
        8,
        /18446744073709551615 bytes of storage keys/,
      ],
      [
        'storage keys that could not be read',
        's390-skeys',
        'full',
        stream(be64(2), be64(1), 'aa', be64(4)),
        17,
        /the source failed to read its storage keys/,
      ],
      [
        'an unknown VFIO tag',
        'vfio',
        'part',
        stream('ffffffffef100007'),
        0,
        /ef100007 is not a tag/,
      ],
      [
        'a setup that is not followed by the end',
        'vfio',
        'start',
        stream('ffffffffef100003 ffffffffef100005'),
        8,
        /not by END_OF_STATE/,
      ],
      [
        'VFIO data without end',
        'vfio',
        'part',
        stream('ffffffffef100004', be64(2n ** 50n + 1n)),
        8,
        /bytes of VFIO state/,
      ],
    ];
    for (const [what, name, kind, bytes, position, reason] of bad) {
      test(what, () =>
        assertFault(reader(name, kind)(inputOver(bytes)), 'corrupt', position, reason),
      );
    }

    test('entries beyond a hash table', async () => {
      const bytes = stream(be32(18), be32(0), be32(16_383), be16(1), be16(1));
      const read = reader('spapr/htab', 'start', 'part')(inputOver(bytes));
      await assertFault(read, 'corrupt', 8, /1 \+ 1 entries from index 16383 exceed/);
    });

    test('flags of a dirty bitmap that continue, as no QEMU reads them', async () => {
      const read = reader('dirty-bitmap', 'part')(inputOver(stream('aa 00 81')));
      await assertFault(read, 'unsupported', 0, /0xaa of a dirty bitmap have extra bytes/);
    });
  });

  test('names that one stream has given are not those of another', async () => {
    const bytes = stream('1c 01 61 01 62 00 01 00 00 00 01', '20 01');
    await readSplit(bytes, reader('dirty-bitmap', 'start', 'end'));
    const read = reader('dirty-bitmap', 'end')(inputOver(bytes.subarray(11)));
    await assertFault(read, 'corrupt', 0, /before its node name and bitmap name/);
  });

  test('complete storage attributes can lack their end mark before a footer', async () => {
    const done = stream('00 00 00 00 00 00 00 08');
    const bytes = stream(done, footer(3));
    const read = async (input: StreamInput): Promise<void> => {
      await reader('s390-storage_attributes', 'end')(input);
      assert.equal(input.position, 8);
      await input.skip(5, 'the footer');
    };
    await readSplit(bytes, read);
    await assertTruncated(done, reader('s390-storage_attributes', 'end'));
  });

  test('a clock with an odd mark is read, and reported', async () => {
    const problems: [string, number][] = [];
    const sections = new HandlerSections({
      warn: (message, offset) => void problems.push([message, offset]),
    });
    const input = inputOver(stream('02', pattern(9)));
    await sections.skip('todclock', 'full', 1, input);
    assert.equal(input.position, 10);
    assert.deepEqual(problems, [['the mark of the clock is 2, not 1', 0]]);
  });

  describe('state of a VFIO PCI device', () => {
    const CONFIG = 'ff ff ff ff ef 10 00 02';
    const END = 'ff ff ff ff ef 10 00 01';

    async function skipConfig(
      input: StreamInput,
      problems: [string, number][] = [],
    ): Promise<HandlerSummary | null> {
      input.section = { sectionId: 0x1234, name: 'vfio', instanceId: 0 };
      const sections = new HandlerSections({
        warn: (message, offset) => void problems.push([message, offset]),
      });
      const summary = await sections.skip('vfio', 'full', 1, input);
      return summary === null ? null : { records: summary.records, bytes: summary.bytes };
    }

    /** A state with all that might be taken for its end. */
    const state: Bytes = stream(
      pattern(40),
      stream(END, '00 ff', END.repeat(2), 'ff ff ff', END, '7e 00 00 12 35', END, '7e'),
    );
    const bytes = stream(CONFIG, state, END, footer(0x1234));

    test('ends at the end mark before its footer, with a warning that this is a guess', async () => {
      const read = async (input: StreamInput): Promise<HandlerSummary | null> => {
        const problems: [string, number][] = [];
        const summary = await skipConfig(input, problems);
        assert.equal(input.position, bytes.length - 5);
        await input.skip(5, 'the footer');
        assert.equal(problems.length, 1);
        assert.equal(problems[0]?.[1], 8);
        assert.match(problems[0]?.[0] ?? '', /end mark, after 91 bytes/);
        return summary;
      };
      assert.deepEqual(await readSplit(bytes, read), { records: 1, bytes: 91 });
      await assertTruncated(bytes, read);
    });

    test('without a section id, any footer will do', async () => {
      const input = inputOver(stream(CONFIG, 'aa bb', END, '00', END, footer(9)));
      const [summary] = await reader('vfio', 'full')(input);
      assert.deepEqual(summary, { records: 1, bytes: 11 });
    });

    test('is found far from the start as well', async () => {
      const far = pattern(1_000_000);
      const parts = stream(CONFIG, far, END, footer(0x1234));
      const places = [8, 32_768 + 8, 1_000_000 + 10, 1_000_000 + 17];
      const read = async (input: StreamInput): Promise<HandlerSummary | null> => {
        const summary = await skipConfig(input);
        await input.skip(5, 'the footer');
        return summary;
      };
      assert.deepEqual(await readSplit(parts, read, places), { records: 1, bytes: 1_000_000 });
    });

    test('it is given up after a megabyte', async () => {
      const read = skipConfig(inputOver(stream(CONFIG, Buffer.alloc(1_200_000))));
      await assertFault(read, 'corrupt', 8, /no END_OF_STATE in the first 1048576 bytes/);
    });
  });
});

/** Dirty bitmaps that cannot be. */
function bitmaps(): [string, string, SectionKind, Buffer, number, RegExp][] {
  const names = '01 61 01 62';
  const bits = (first: number | bigint, sectors: number, ...rest: Bytes[]): Buffer =>
    stream('4c', names, be64(first), be32(sectors), ...rest);
  const start = (granularity: number, flags: string): Buffer =>
    stream('1c', names, be32(granularity), flags);
  const bad: readonly [string, Buffer, number, RegExp][] = [
    ['that do nothing', stream('0c', names), 0, /0x0c .* contradict each other/],
    ['that start and complete', stream('3c', names), 0, /contradict each other/],
    ['that complete with zeroes', stream('2e', names), 0, /contradict each other/],
    ['without any names', stream('20'), 0, /before its node name and bitmap name/],
    ['without a node', stream('24 01 62'), 0, /before its node name and bitmap name/],
    ['without a name', stream('28 01 61'), 0, /before its node name and bitmap name/],
    ['with an empty node', stream('2c 00'), 1, /node name is empty/],
    ['with an empty name', stream('2c 01 61 00'), 3, /name is empty/],
    ['without granularity', start(0, '01'), 5, /granularity of 0/],
    ['of odd granularity', start(0xc000_0000, '01'), 5, /granularity of 3221225472/],
    ['of unknown flags', start(0x8000_0000, '09'), 9, /unknown flags 0x09/],
    ['of no sectors', bits(0, 0), 5, /0 sectors/],
    [
      'of sectors beyond any disk',
      bits((1n << 54n) - 1n, 2),
      5,
      /sectors from sector 18014398509481983/,
    ],
    ['of no bytes', bits(0, 1, be64(0)), 17, /has 0 bytes/],
    ['of odd bytes', bits(0, 1, be64(33)), 17, /has 33 bytes/],
    ['of too many bytes', bits(0, 1, be64(10_241)), 17, /10241 bytes .* more than 10240/],
  ];
  return bad.map(([what, bytes, position, reason]) => [
    `dirty bitmaps ${what}`,
    'dirty-bitmap',
    'part',
    bytes,
    position,
    reason,
  ]);
}

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { StreamInput } from '../../../lib/migration/format/stream-input.ts';
import {
  type CommandItem,
  PostcopyOrder,
  readCommand,
} from '../../../lib/migration/reader/commands.ts';
import type { GuestMemory } from '../../../lib/migration/reader/guest-ranges.ts';
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
  command,
  counted,
  stream,
} from '../../helpers/streams/stream-bytes.ts';

const MEMORY: GuestMemory = {
  blocks: [
    { name: 'pc.ram', usedLength: 0x100000, hostPageSize: null },
    { name: 'huge', usedLength: 0x400000, hostPageSize: 0x200000 },
  ],
  pageSize: 4096,
};

/** Reads a command with its type byte. */
function reader(memory: GuestMemory | null = null): (input: StreamInput) => Promise<CommandItem> {
  return async (input) => {
    await input.need(1, 'a type');
    input.u8();
    return readCommand(input, memory);
  };
}

function read(bytes: Uint8Array, memory: GuestMemory | null = null): Promise<CommandItem> {
  return reader(memory)(inputOver(bytes));
}

function discard(
  name: string,
  ...ranges: readonly (readonly [number | bigint, number | bigint])[]
) {
  const all = ranges.map(([start, length]) => stream(be64(start), be64(length)));
  return command(6, '00', counted(name), '00', ...all);
}

const GOOD: readonly (readonly [bytes: Buffer, number: number, command: object])[] = [
  [command(1), 1, { name: 'OPEN_RETURN_PATH' }],
  [command(2, '00 00 00 02'), 2, { name: 'PING', value: 2 }],
  [command(2, 'ff ff ff ff'), 2, { name: 'PING', value: 0xffff_ffff }],
  [command(3), 3, { name: 'POSTCOPY_ADVISE' }],
  [
    command(3, '00 00 00 00 00 20 10 00 00 00 00 00 00 00 10 00'),
    3,
    { name: 'POSTCOPY_ADVISE', pageSizes: 0x201000n, targetPageSize: 4096 },
  ],
  [command(4), 4, { name: 'POSTCOPY_LISTEN' }],
  [command(5), 5, { name: 'POSTCOPY_RUN' }],
  [
    discard('a', [0, 4096]),
    6,
    { name: 'POSTCOPY_RAM_DISCARD', block: 'a', ranges: [{ start: 0, length: 4096 }] },
  ],
  [
    discard('pc.ram', [0x1000, 0x2000], [2 ** 49, 2 ** 49]),
    6,
    {
      name: 'POSTCOPY_RAM_DISCARD',
      block: 'pc.ram',
      ranges: [
        { start: 0x1000, length: 0x2000 },
        { start: 2 ** 49, length: 2 ** 49 },
      ],
    },
  ],
  [command(7, '00 00 32 f1'), 7, { name: 'PACKAGED', size: 13041 }],
  [command(7, '40 00 00 00'), 7, { name: 'PACKAGED', size: 0x4000_0000 }],
  [command(8), 8, { name: 'ENABLE_COLO' }],
  [command(9), 9, { name: 'POSTCOPY_RESUME' }],
  [command(10, counted('pc.ram')), 10, { name: 'RECV_BITMAP', block: 'pc.ram' }],
  [command(10, counted('x'.repeat(255))), 10, { name: 'RECV_BITMAP', block: 'x'.repeat(255) }],
  [command(11), 11, { name: 'SWITCHOVER_START' }],
];

describe('readCommand', () => {
  test('each command is decoded, at every split', async () => {
    for (const [bytes, number, wanted] of GOOD) {
      const item = await readSplit(bytes, reader());
      assert.deepEqual(item, { offset: 0, bytes: bytes.length, number, command: wanted });
    }
  });

  test('a command that ends early is truncated, at every place', async () => {
    for (const [bytes] of GOOD) await assertTruncated(bytes, reader());
  });

  test('offsets are those of the stream', async () => {
    const input = inputOver(stream('aa bb cc', command(2, be32(7)), command(2, be32(8))));
    await input.skip(3, 'something');
    const first = await reader()(input);
    const second = await reader()(input);
    assert.deepEqual([first.offset, first.bytes, second.offset], [3, 9, 12]);
  });

  test('bytes of a package are left alone', async () => {
    const input = inputOver(stream(command(7, be32(3)), '08 00 05'));
    await reader()(input);
    assert.equal(input.position, 9);
  });

  test('a command of later versions is passed over', async () => {
    const bytes = command(12, 'aa bb cc dd ee');
    const item = await readSplit(bytes, reader());
    assert.deepEqual(item, { offset: 0, bytes: 10, number: 12, command: { name: 'UNKNOWN' } });
    await assertTruncated(bytes, reader());
    const longest = command(65_535, Buffer.alloc(65_535, 0xee));
    assert.equal((await read(longest)).bytes, 65_540);
  });

  test('a discard can have as many ranges as fit', async () => {
    const item = await read(discard('ab', ...Array.from({ length: 4095 }, () => [0, 1] as const)));
    assert.equal(item.command.name, 'POSTCOPY_RAM_DISCARD');
    assert.equal('ranges' in item.command && item.command.ranges.length, 4095);
  });

  test('number 0 is corrupt', async () => {
    await assertFault(read(command(0)), 'corrupt', 1, /command number 0/);
  });

  test('a payload of another length than the command has is corrupt, whether it is there or not', async () => {
    for (const [number, lengths] of [
      [1, [1]],
      [2, [0, 3, 5, 8]],
      [3, [1, 8, 15, 17, 32]],
      [4, [1]],
      [5, [4]],
      [6, [0, 19]],
      [7, [0, 3, 5, 8]],
      [8, [1]],
      [9, [1]],
      [10, [0, 1, 257]],
      [11, [1]],
    ] as const) {
      for (const length of lengths) {
        const head = stream('08', be16(number), be16(length));
        await assertFault(read(head), 'corrupt', 3, new RegExp(`has ${length} bytes of payload`));
      }
    }
  });

  describe('refuses', () => {
    const bad: readonly [what: string, bytes: Buffer, position: number, reason: RegExp][] = [
      ['an advice without host page sizes', advise(0, 4096), 5, /no host page size/],
      ['an advice of a page size that is no power of 2', advise(4096, 4095), 13, /size of 4095/],
      ['an advice of pages that are too small', advise(4096, 128), 13, /size of 128/],
      ['an advice of pages that are too large', advise(4096, 131072), 13, /size of 131072/],
      ['an advice of an absurd page size', advise(4096, 2n ** 40n), 13, /size of 1099511627776/],
      ['a discard of a block without a name', discard('', [0, 1], [0, 1]), 6, /name of 0 bytes/],
      [
        'a discard whose name leaves no room for ranges',
        command(6, '00', 'ff', Buffer.alloc(30)),
        6,
        /name of 255 bytes/,
      ],
      [
        'a discard whose name leaves no whole range',
        command(6, '00', counted('ab'), '00', Buffer.alloc(17)),
        6,
        /whole ranges/,
      ],
      [
        'a discard without ranges',
        command(6, '00', counted('a'.repeat(20)), '00'),
        6,
        /whole ranges/,
      ],
      [
        'a discard whose name is not followed by 0',
        command(6, '00', counted('a'), '01', Buffer.alloc(16)),
        8,
        /byte 1 after/,
      ],
      ['a discard beyond any block', discard('a', [0, 1], [2 ** 50, 1]), 25, /exceed any/],
      ['a discard that wraps', discard('a', [2n ** 64n - 1n, 2]), 9, /exceed any/],
      ['a package that is too large', command(7, '40 00 00 01'), 5, /1073741825 bytes/],
      [
        'a bitmap of a name that ends early',
        command(10, counted('abc'), '00'),
        5,
        /5 bytes .* name of 3 bytes/,
      ],
      [
        'a bitmap of a name that goes beyond the command',
        command(10, '04 61 62 63'),
        5,
        /name of 4 bytes/,
      ],
      ['a bitmap of a block without a name', command(10, '00 00'), 5, /name of 0 bytes/],
    ];
    for (const [what, bytes, position, reason] of bad) {
      test(what, () => assertFault(read(bytes), 'corrupt', position, reason));
    }

    test('a discard of another version, which it does not know', async () => {
      const bytes = command(6, '01', Buffer.alloc(19));
      await assertFault(read(bytes), 'unsupported', 5, /POSTCOPY_RAM_DISCARD has version 1/);
    });
  });

  describe("with the guest's memory", () => {
    test('ranges within a block are accepted', async () => {
      await read(discard('pc.ram', [0, 0x1000], [0xff000, 0x1000]), MEMORY);
      await read(discard('huge', [0x200000, 0x200000]), MEMORY);
      await read(command(10, counted('huge')), MEMORY);
      await read(advise(4096, 4096), MEMORY);
    });

    const bad: readonly [what: string, bytes: Buffer, position: number, reason: RegExp][] = [
      ['a discard of an unknown block', discard('x', [0, 4096]), 6, /no RAM block "x"/],
      ['a discard beyond a block', discard('pc.ram', [0, 4096], [0xff000, 0x2000]), 30, /exceed/],
      ['a discard that begins inside a page', discard('pc.ram', [1, 4096]), 14, /whole pages/],
      ['a discard of a part of a page', discard('pc.ram', [0, 4095]), 14, /whole pages/],
      [
        "a discard of a part of a host's page",
        discard('huge', [0, 0x200000], [0x1000, 0x1000]),
        28,
        /of 2097152 bytes/,
      ],
      ['a bitmap of an unknown block', command(10, counted('__proto__')), 5, /"__proto__"/],
      ['an advice of another page size', advise(4096, 8192), 13, /has pages of 4096/],
    ];
    for (const [what, bytes, position, reason] of bad) {
      test(`refuses ${what}`, () => assertFault(read(bytes, MEMORY), 'corrupt', position, reason));
    }
  });
});

function advise(pageSizes: number | bigint, page: number | bigint): Buffer {
  return command(3, be64(pageSizes), be64(page));
}

describe('PostcopyOrder', () => {
  const ADVISE = command(3);
  const DISCARD = discard('a', [0, 4096]);
  const LISTEN = command(4);
  const RUN = command(5);

  async function follow(...commands: readonly Bytes[]): Promise<PostcopyOrder> {
    const order = new PostcopyOrder();
    const input = inputOver(stream(...commands));
    for (let left = commands.length; left > 0; left -= 1) {
      order.follow(await reader()(input), input);
    }
    return order;
  }

  test('commands in their order lead from state to state', async () => {
    assert.equal((await follow()).state, 'none');
    assert.equal((await follow(ADVISE)).state, 'advised');
    assert.equal((await follow(ADVISE, DISCARD, DISCARD)).state, 'discarding');
    assert.equal((await follow(ADVISE, DISCARD, DISCARD, LISTEN)).state, 'listening');
    assert.equal((await follow(ADVISE, LISTEN, RUN)).state, 'running');
  });

  test('other commands are accepted at any time', async () => {
    const ping = command(2, be32(1));
    const order = await follow(command(1), ping, ADVISE, ping, LISTEN, ping, RUN, ping, command(9));
    assert.equal(order.state, 'running');
  });

  test('a command out of order is corrupt, and both states are named', async () => {
    const bad: readonly [commands: Buffer[], was: string, wanted: string][] = [
      [[DISCARD], '"none"', '"advised" or "discarding"'],
      [[LISTEN], '"none"', '"advised" or "discarding"'],
      [[RUN], '"none"', '"listening"'],
      [[ADVISE, ADVISE], '"advised"', '"none"'],
      [[ADVISE, RUN], '"advised"', '"listening"'],
      [[ADVISE, DISCARD, ADVISE], '"discarding"', '"none"'],
      [[ADVISE, DISCARD, RUN], '"discarding"', '"listening"'],
      [[ADVISE, LISTEN, LISTEN], '"listening"', '"advised" or "discarding"'],
      [[ADVISE, LISTEN, DISCARD], '"listening"', '"advised" or "discarding"'],
      [[ADVISE, LISTEN, RUN, RUN], '"running"', '"listening"'],
      [[ADVISE, LISTEN, RUN, ADVISE], '"running"', '"none"'],
    ];
    for (const [commands, was, wanted] of bad) {
      const at = stream(...commands.slice(0, -1)).length;
      const reason = new RegExp(`state ${was}, not ${wanted}$`);
      await assertFault(follow(...commands), 'corrupt', at, reason);
    }
  });
});

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { GuestMemory } from '../../../lib/migration/reader/guest-ranges.ts';
import {
  encodeReturnPath,
  type ReturnPathContent,
  type ReturnPathMessage,
  ReturnPathReader,
} from '../../../lib/migration/reader/return-path.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { cutAt, pattern, piecesOf } from '../../helpers/bytes.ts';
import { assertFault, everyPlace, faultOf } from '../../helpers/reading/split-input.ts';
import { corpus, corpusBytes, corpusFacts } from '../../helpers/streams/corpus.ts';
import {
  type Bytes,
  be16,
  be32,
  be64,
  counted,
  stream,
} from '../../helpers/streams/stream-bytes.ts';
import { Source } from '../../helpers/transports/backends.ts';

const END_MARK = '01 23 45 67 89 ab cd ef';
const BITS = pattern(16, 1);

/** Each message as its bytes and its decoded content. */
const GOOD: readonly (readonly [bytes: Buffer, content: ReturnPathContent])[] = [
  [stream('0002 0004 00000001'), { name: 'PONG', value: 1 }],
  [
    stream('0003 0013 00000000004a8000 00001000 06 70632e72616d'),
    { name: 'REQ_PAGES_ID', block: 'pc.ram', start: 0x4a8000, length: 4096 },
  ],
  [
    stream('0004 000c 0000000001a20000 00002000'),
    { name: 'REQ_PAGES', block: 'pc.ram', start: 0x1a20000, length: 8192 },
  ],
  [
    stream('0005 0002 01 61', be64(16), BITS, END_MARK),
    { name: 'RECV_BITMAP', block: 'a', bitmap: BITS },
  ],
  [
    stream('0004 000c 0003fffffffff000 00001000'),
    { name: 'REQ_PAGES', block: 'pc.ram', start: 2 ** 50 - 4096, length: 4096 },
  ],
  [stream('0006 0004 00000001'), { name: 'RESUME_ACK' }],
  [stream('0007 0000'), { name: 'SWITCHOVER_ACK' }],
  [stream('0001 0004 ffffffff'), { name: 'SHUT', value: 0xffff_ffff }],
];

const ALL = stream(...GOOD.map(([bytes]) => bytes));

const WANTED: readonly ReturnPathMessage[] = GOOD.map(([bytes, content], at) => ({
  ...content,
  offset: stream(...GOOD.slice(0, at).map(([before]) => before)).length,
  bytes: bytes.length,
}));

function message(type: number, ...payload: readonly Bytes[]): Buffer {
  const bytes = stream(...payload);
  return stream(be16(type), be16(bytes.length), bytes);
}

/** A named request with the given range. */
function request(name: string, start: number | bigint, length: number): Buffer {
  return message(3, be64(start), be32(length), counted(name));
}

function bitmap(name: string, size: number | bigint, ...rest: readonly Bytes[]): Buffer {
  return stream(message(5, counted(name)), be64(size), ...rest);
}

async function* chunks(pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* pieces;
}

async function readAll(
  bytes: Uint8Array | readonly Uint8Array[],
  memory: GuestMemory | null = null,
): Promise<ReturnPathMessage[]> {
  const reader = new ReturnPathReader(chunks(bytes instanceof Uint8Array ? [bytes] : bytes));
  reader.memory = memory;
  const messages: ReturnPathMessage[] = [];
  for await (const one of reader) messages.push(one);
  return messages;
}

describe('ReturnPathReader', () => {
  test('messages are decoded, at every split', async () => {
    assert.deepEqual(await readAll(ALL), WANTED);
    assert.deepEqual(await readAll(piecesOf(ALL, 1)), WANTED);
    for (const place of everyPlace(ALL)) {
      assert.deepEqual(await readAll(cutAt(ALL, [place])), WANTED, `parted at ${place}`);
    }
  });

  test('a path can end between messages, and is truncated anywhere else', async () => {
    const ends = new Set(WANTED.map(({ offset }) => offset));
    for (const place of everyPlace(ALL)) {
      const read = readAll(ALL.subarray(0, place));
      if (ends.has(place)) {
        assert.equal((await read).length, WANTED.filter(({ offset }) => offset < place).length);
        continue;
      }
      const error = await faultOf(read);
      assert.equal(error.fault, 'truncated', `cut at ${place}`);
      assert.ok((error.position ?? Number.NaN) <= place, error.message);
    }
  });

  test('messages before a fault are given', async () => {
    const seen: string[] = [];
    const read = async (): Promise<void> => {
      const reader = new ReturnPathReader(chunks([stream(message(2, be32(1)), message(9))]));
      for await (const { name } of reader) seen.push(name);
    };
    await assertFault(read(), 'unsupported', 8, /unknown type 9/);
    assert.deepEqual(seen, ['PONG']);
  });

  test('nothing is read after SHUT', async () => {
    const messages = await readAll(stream(message(1, be32(0)), 'ff ff ff ff'));
    assert.deepEqual(messages, [{ name: 'SHUT', value: 0, offset: 0, bytes: 8 }]);
  });

  test('a file is read from where it is, and left open', async () => {
    const file = new QemuFile(new Source([stream('aa bb', message(1, be32(0)), 'cc')]));
    await file.readSkip(2);
    for await (const { offset } of new ReturnPathReader(file)) assert.equal(offset, 0);
    assert.equal(await file.readByte(), 0xcc);
    await file.close();
  });

  test('a source is given up with the iteration', async () => {
    let given = false;
    const endless = async function* (): AsyncGenerator<Uint8Array> {
      try {
        for (;;) yield message(2, be32(1));
      } finally {
        given = true;
      }
    };
    for await (const { name } of new ReturnPathReader(endless())) {
      assert.equal(name, 'PONG');
      break;
    }
    assert.equal(given, true);
  });

  test('a large bitmap is complete', async () => {
    const bits = pattern(3 * 1024 * 1024 + 8);
    const bytes = bitmap('pc.ram', bits.length, bits, END_MARK);
    const [first] = await readAll(piecesOf(bytes, 65_521));
    assert.ok(first?.name === 'RECV_BITMAP');
    assert.ok(bits.equals(first.bitmap));
    assert.equal(first.bytes, bytes.length);
  });

  const bad: readonly [what: string, bytes: Buffer, position: number, reason: RegExp][] = [
    ['type 0', message(0), 0, /unknown type 0/],
    ['a message longer than any', stream('0003 0201'), 2, /has 513 bytes/],
    ['SHUT of another length', stream('0001 0005'), 2, /SHUT has 5 bytes, not 4/],
    ['PONG of another length', stream('0002 0000'), 2, /PONG has 0 bytes, not 4/],
    ['REQ_PAGES_ID without a name', stream('0003 000d'), 2, /has 13 bytes, not 14 to 268/],
    ['REQ_PAGES_ID that is too long', stream('0003 010d'), 2, /has 269 bytes/],
    ['REQ_PAGES with a name', stream('0004 000e'), 2, /REQ_PAGES has 14 bytes, not 12/],
    ['RECV_BITMAP without a name', stream('0005 0001'), 2, /has 1 bytes, not 2 to 256/],
    ['RESUME_ACK of another length', stream('0006 0008'), 2, /RESUME_ACK has 8 bytes/],
    ['SWITCHOVER_ACK with a payload', stream('0007 0001'), 2, /SWITCHOVER_ACK has 1 bytes/],
    [
      'a name that ends before its message',
      message(3, be64(0), be32(1), counted('ab'), '00'),
      16,
      /3 bytes for a block name of 2/,
    ],
    [
      'a name that goes beyond its message',
      stream(message(3, be64(0), be32(1), '03 61 62'), '63'),
      16,
      /2 bytes for a block name of 3/,
    ],
    ['an empty name', message(3, be64(0), be32(1), '00 61'), 16, /block name of 0 bytes/],
    [
      'a request before any block was named',
      message(4, be64(0), be32(1)),
      0,
      /REQ_PAGES came before a REQ_PAGES_ID/,
    ],
    [
      'a request after a bitmap only',
      stream(bitmap('a', 8, be64(0), END_MARK), message(4, be64(0), be32(1))),
      30,
      /REQ_PAGES came before a REQ_PAGES_ID/,
    ],
    ['a request beyond any block', request('a', 2 ** 50, 1), 4, /exceed any/],
    ['a request that wraps', request('a', 2n ** 64n - 1n, 1), 4, /exceed any/],
    ['a bitmap of no bytes', bitmap('a', 0), 6, /0 bytes is not a multiple of 8/],
    ['a bitmap of no whole words', bitmap('a', 12), 6, /12 bytes is not a multiple of 8/],
    [
      'a bitmap without its end mark',
      bitmap('a', 8, be64(0), be64(1)),
      22,
      /ends with 0x0000000000000001, not with 0x0123456789abcdef/,
    ],
    ['an acknowledgement of another value', message(6, be32(2)), 4, /value 2, not 1/],
  ];
  for (const [what, bytes, position, reason] of bad) {
    test(`refuses ${what}`, () => assertFault(readAll(bytes), 'corrupt', position, reason));
  }

  test('refuses a bitmap beyond its limit before its bytes arrive', async () => {
    await assertFault(readAll(bitmap('a', 2 ** 28 + 8)), 'unsupported', 6, /268435464 bytes/);
    await assertFault(readAll(bitmap('a', 2n ** 63n)), 'unsupported', 6, /more than 268435456/);
  });

  describe("with the guest's memory", () => {
    const MEMORY: GuestMemory = {
      blocks: [
        { name: 'pc.ram', usedLength: 65 * 4096, hostPageSize: null },
        { name: 'huge', usedLength: 0x400000, hostPageSize: 0x200000 },
      ],
      pageSize: 4096,
    };

    test('messages that fit it are accepted', async () => {
      const messages = await readAll(
        stream(
          request('pc.ram', 64 * 4096, 4096),
          message(4, be64(0), be32(4096)),
          request('huge', 0x200000, 0x200000),
          bitmap('pc.ram', 16, Buffer.alloc(16), END_MARK),
          bitmap('huge', 128, Buffer.alloc(128), END_MARK),
        ),
        MEMORY,
      );
      assert.equal(messages.length, 5);
    });

    const unfit: readonly [what: string, bytes: Buffer, position: number, reason: RegExp][] = [
      ['pages of an unknown block', request('x', 0, 4096), 16, /no RAM block "x"/],
      ['pages beyond a block', request('pc.ram', 65 * 4096, 4096), 4, /exceed RAM block/],
      ['pages from within one', request('pc.ram', 1, 4096), 4, /whole pages of 4096/],
      ["a part of a host's page", request('huge', 0, 4096), 4, /whole pages of 2097152/],
      [
        'further pages beyond a block',
        stream(request('pc.ram', 0, 4096), message(4, be64(65 * 4096), be32(4096))),
        27,
        /REQ_PAGES: .* exceed RAM block/,
      ],
      ['a bitmap of an unknown block', bitmap('x', 8), 4, /no RAM block "x"/],
      ['a bitmap of another size', bitmap('pc.ram', 8), 11, /8 bytes, not 16/],
    ];
    for (const [what, bytes, position, reason] of unfit) {
      const read = () => assertFault(readAll(bytes, MEMORY), 'corrupt', position, reason);
      test(`refuses ${what}`, read);
    }
  });

  for (const [name, counts] of Object.entries({
    'return-path': { PONG: 1, SHUT: 1 },
    postcopy: { PONG: 4, REQ_PAGES_ID: 1, REQ_PAGES: 15, SHUT: 1 },
    'q10-postcopy-preempt': { PONG: 4, REQ_PAGES_ID: 1, REQ_PAGES: 129, SHUT: 1 },
  })) {
    const skip = corpus(`${name}.ret.gz`) === undefined ? 'no corpus' : false;
    test(`reads the replies of a destination: ${name}`, { skip }, async () => {
      const bytes = corpusBytes(`${name}.ret.gz`);
      const blocks = corpusFacts(name).ram_blocks.map((block) => ({
        name: block.name,
        usedLength: block.used,
        hostPageSize: null,
      }));
      const messages = await readAll(bytes, { blocks, pageSize: 4096 });
      const seen: Record<string, number> = {};
      for (const one of messages) seen[one.name] = (seen[one.name] ?? 0) + 1;
      assert.deepEqual(seen, counts);
      const { offset, ...last } = messages.at(-1) as ReturnPathMessage;
      assert.deepEqual(last, { name: 'SHUT', value: 0, bytes: 8 });
      assert.equal(offset + 8, bytes.length);
      assert.deepEqual(stream(...messages.map(encodeReturnPath)), bytes);
    });
  }
});

describe('encodeReturnPath', () => {
  test('each message has the bytes that QEMU sends', () => {
    for (const [bytes, content] of GOOD) assert.deepEqual(encodeReturnPath(content), bytes);
  });

  test('content that does not fit a message is refused', () => {
    for (const content of [
      { name: 'PONG', value: -1 },
      { name: 'SHUT', value: 2 ** 32 },
      { name: 'REQ_PAGES', block: 'a', start: -1, length: 1 },
      { name: 'REQ_PAGES', block: 'a', start: 0.5, length: 1 },
      { name: 'REQ_PAGES_ID', block: '', start: 0, length: 1 },
      { name: 'REQ_PAGES_ID', block: 'ä'.repeat(128), start: 0, length: 1 },
      { name: 'RECV_BITMAP', block: 'a', bitmap: new Uint8Array(0) },
      { name: 'RECV_BITMAP', block: 'a', bitmap: new Uint8Array(9) },
    ] as const) {
      assert.throws(() => encodeReturnPath(content), RangeError, JSON.stringify(content));
    }
  });
});

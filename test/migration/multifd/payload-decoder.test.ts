import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import zlib from 'node:zlib';
import {
  type PacketCompression,
  type PacketDecoder,
  packetDecoder,
  ScriptZstdDecoder,
} from '../../../lib/migration/multifd/payload-decoder.ts';
import { hex, pattern } from '../../helpers/bytes.ts';

const PAGE = 1024;

/** Lines of 8 characters, much alike. */
function page(seed: number): Buffer {
  const line = (at: number) => `${String((at * at * (seed + 3)) % 977).padStart(7, '.')}\n`;
  return Buffer.from(Array.from({ length: PAGE / 8 }, (_, at) => line(at)).join(''));
}

/** What three payloads stand for. */
const PAGES = [[0], [1, 0], [2, 1, 0, 2]].map((seeds) => Buffer.concat(seeds.map(page)));

/** The same, as zstd 1.5 wrote them into one frame, flushed after each: `ZSTD_e_flush`, level 3. */
const ZSTD = [
  'KLUv/QBY1AgAdhAiC6ClHaRIhrSpGtdjIAAcAB0AHSWYjypBNhfhILnH4hkJjXEOYWPEhRNUGUqEFgAhCAIxccl+XDa9SVCLZ4qHzammNYO/pKfI6k3U43IHjM7Et0YOs4KtEJeE7GXQYN6WvRt1xOIaOGLsKwcA1Yn7hyBl3D04CdZ3GEqJInITrRbuPbhIxupHAYCAqCDWfUAjEW0dEBDvet0xz7PlK12lacH9VkbVyjpVZ1bmGI7YF39T+Pz+ONRuR6jWtWEKK/h+Z4cwJdiF4UyhG5d7A/GnqIaEN3cK2JKQIT67TIy4sisifS66l6wrsDxtjvSbAg2ME9Zlh0FdNz9gkj/T+y45ygUKWzj2gFs5eZ/auDQnBFYD1pTtCogc',
  'HAkAs8kRlP/XfgmCINBCcIzOZCIIFMGgfKqMiDOjMH6IJxocfY1AItCDLEQhIQyJELN/GDgsho5XPI3RG0LdjEun92Iu+IhYOuQkBWaAgahQrh2AIhERsvQSaNKge2f//+/4B1A1x9dWT2E3pVUc29Vcd4tZN94Jiz6df4xPCqFlPVneDRaLwI/gsHIzjeENN2EOMWwmBqm7U9SIRnQzWaLGg+WG4xIyboBHk5DmYDPUe34tynmMhFnrPL1bJ2k6PmZPHM+qZPmy7gurYV/cGb94Kjeqy6xM+ap1N77mxVPVvh/MDojcJmUtaunZT02pBrbOnkSTxQJyaLuY8Ri8/RU4tse5fWjc/RmsPVtCaIP0l3XXbKyxqSHb+Ns5Ij52mAsbQEtK',
  'fAkAk8gPZulw8ZxrEC7ikhFBEkqKGCtr8wiLrlWCyhzDryYljzDCNWESo5nOHASOCYtGSOg4wzEOE0dCA2MRQmGCRhAEgIOogO4NsEIREZLyARLocYHpUmn//38D4BugoGNlAGIp/NXrmWjzjbk0UK/vznSh7UD745U28yJi6E1H36sAnxbCTTdej91mF9cZzcbWNxOOIaYD7cKGMzBubrxotFEPx4b1LtPOuS0nzkPiXtE0AdOa3jm7ODur5qdHhBcsCybtdgqZ4I9SVbJZsmEWaHHvcY1ZcBV0tzmLb0I2fHW2OfuN7O9C2do/nrOa/9nImoVpbklvPH7pmp4OaqP5wMVI7DTcOu2qRNVmHfvFTt77ymRjYj1mWniucfochRkpunxmdPuOYsft5q1PB5AD',
].map((packed) => Buffer.from(packed, 'base64'));

/** A window of 2 MiB. */
const ZSTD_HEADER = hex('28b52ffd 00 58');
/** Blocks of 1024 bytes: one repeated, and as they are. */
const RLE_BLOCK = hex('022000 aa');
const RAW_BLOCK = Buffer.concat([hex('002000'), pattern(PAGE)]);

async function deflated(): Promise<Buffer[]> {
  const stream = zlib.createDeflate();
  const payloads: Buffer[] = [];
  for (const bytes of PAGES) {
    stream.write(bytes);
    await new Promise<void>((resolve) => stream.flush(zlib.constants.Z_SYNC_FLUSH, resolve));
    payloads.push(stream.read() as Buffer);
  }
  stream.destroy();
  return payloads;
}

interface Kind {
  name: string;
  make: () => PacketDecoder;
  payloads: () => Promise<Buffer[]>;
}

const fromFactory = (compression: PacketCompression) => () => packetDecoder(compression);
const KINDS: readonly Kind[] = [
  { name: 'zlib', make: fromFactory('zlib'), payloads: deflated },
  { name: 'zstd', make: fromFactory('zstd'), payloads: async () => ZSTD },
  { name: 'zstd in JavaScript', make: () => new ScriptZstdDecoder(), payloads: async () => ZSTD },
];

let decoders: PacketDecoder[] = [];
afterEach(() => {
  for (const decoder of decoders) decoder.close();
  decoders = [];
});

/** A decoder that is closed after the test. */
function opened(kind: Pick<Kind, 'make'>): PacketDecoder {
  const decoder = kind.make();
  decoders.push(decoder);
  return decoder;
}

/** What is decoded, copied, or the error's message. */
async function outcome(
  decoder: PacketDecoder,
  payload: Uint8Array,
  size: number,
): Promise<Buffer | string> {
  try {
    return Buffer.from(await decoder.decode(payload, size));
  } catch (error) {
    assert.ok(error instanceof Error);
    return error.message;
  }
}

function startsWith(actual: Buffer | string, expected: RegExp): void {
  assert.equal(typeof actual, 'string');
  assert.match(actual as string, expected);
}

for (const kind of KINDS) {
  describe(`packet decoder for ${kind.name}`, () => {
    it('decodes the slices of one stream, one by one', async () => {
      const decoder = opened(kind);
      for (const [at, payload] of (await kind.payloads()).entries()) {
        const bytes = PAGES[at] as Buffer;
        assert.deepEqual(await outcome(decoder, payload, bytes.length), bytes);
      }
    });

    it('refuses a payload of more bytes than it should have, and all after it', async () => {
      const [first, second] = (await kind.payloads()) as [Buffer, Buffer];
      const decoder = opened(kind);
      startsWith(await outcome(decoder, first, PAGE - 1), /^more than the 1023 bytes/);
      startsWith(await outcome(decoder, second, 2 * PAGE), /^more than the 1023 bytes/);
    });

    it('refuses a payload of fewer bytes than it should have', async () => {
      const [first] = (await kind.payloads()) as [Buffer];
      startsWith(await outcome(opened(kind), first, 2 * PAGE), /^1024 of the 2048 bytes/);
    });

    it('refuses what is no compressed data', async () => {
      assert.equal(typeof (await outcome(opened(kind), pattern(100, 7), PAGE)), 'string');
    });

    it('refuses a payload without the one before it', async () => {
      const [, second] = (await kind.payloads()) as [Buffer, Buffer];
      assert.equal(typeof (await outcome(opened(kind), second, 2 * PAGE)), 'string');
    });

    it('refuses every payload that is cut off', async () => {
      const [first] = (await kind.payloads()) as [Buffer];
      // What a flush ends with stands for no bytes.
      const needed = kind.name === 'zlib' ? first.length - 5 : first.length;
      for (let length = 0; length < needed; length += 7) {
        const answer = await outcome(opened(kind), first.subarray(0, length), PAGE);
        assert.equal(typeof answer, 'string', `${length} bytes`);
      }
    });

    it('never gives other than the bytes asked for, nor hangs, on damaged payloads', async () => {
      const [first] = (await kind.payloads()) as [Buffer];
      for (let at = 0; at < first.length; at += 3) {
        const damaged = Buffer.from(first);
        damaged[at] = (damaged[at] as number) ^ (1 << (at % 8));
        const answer = await outcome(opened(kind), damaged, PAGE);
        if (typeof answer !== 'string') assert.equal(answer.length, PAGE);
      }
    });

    it('rejects a decode under way when it is closed, and all later ones', async () => {
      const [first, second] = (await kind.payloads()) as [Buffer, Buffer];
      const decoder = kind.make();
      const pending = outcome(decoder, first, PAGE);
      decoder.close();
      decoder.close();
      const isScript = (await pending) instanceof Buffer;
      if (!isScript) assert.equal(await pending, 'the decoder was closed');
      assert.equal(await outcome(decoder, second, 2 * PAGE), 'the decoder was closed');
    });
  });
}

describe('packet decoder for zlib', () => {
  it('says that compressed data has ended when more comes', async () => {
    const decoder = opened({ make: fromFactory('zlib') });
    assert.deepEqual(await outcome(decoder, zlib.deflateSync(pattern(PAGE)), PAGE), pattern(PAGE));
    startsWith(await outcome(decoder, RAW_BLOCK, PAGE), /^the compressed data ended before it/);
  });

  it('stops a bomb at the size it was told', async () => {
    const bomb = zlib.deflateSync(Buffer.alloc(256 * 1024 * 1024));
    startsWith(
      await outcome(opened({ make: fromFactory('zlib') }), bomb, PAGE),
      /^more than the 1024 bytes/,
    );
  });
});

for (const kind of KINDS.slice(1)) {
  describe(`packet decoder for ${kind.name}`, () => {
    const frame = (...blocks: Uint8Array[]) => Buffer.concat([ZSTD_HEADER, ...blocks]);

    it('decodes a first payload of a few bytes', async () => {
      const expected = Buffer.alloc(PAGE, 0xaa);
      assert.deepEqual(await outcome(opened(kind), frame(RLE_BLOCK), PAGE), expected);
    });

    it('decodes blocks of all kinds, in payloads of one and several', async () => {
      const decoder = opened(kind);
      const [compressed] = ZSTD as [Buffer];
      assert.deepEqual(await outcome(decoder, compressed, PAGE), page(0));
      const both = Buffer.concat([RLE_BLOCK, RAW_BLOCK]);
      const expected = Buffer.concat([Buffer.alloc(PAGE, 0xaa), pattern(PAGE)]);
      assert.deepEqual(await outcome(decoder, both, 2 * PAGE), expected);
      assert.deepEqual(await outcome(decoder, RAW_BLOCK, PAGE), pattern(PAGE));
    });

    it('stops a bomb at the size it was told', async () => {
      // Each block stands for 128 KiB.
      const bomb = frame(...Array.from({ length: 1000 }, () => hex('020010 aa')));
      startsWith(await outcome(opened(kind), bomb, PAGE), /^more than the 1024 bytes/);
    });

    it('takes the largest window that QEMU has, and no larger one', async () => {
      const withWindow = (descriptor: string) =>
        Buffer.concat([hex(`28b52ffd 00 ${descriptor}`), RLE_BLOCK]);
      assert.ok((await outcome(opened(kind), withWindow('78'), PAGE)) instanceof Buffer);
      for (const descriptor of ['79', '80', '88', 'a7', 'ff']) {
        assert.equal(typeof (await outcome(opened(kind), withWindow(descriptor), PAGE)), 'string');
      }
    });
  });
}

describe('packet decoder for zstd in JavaScript', () => {
  const REFUSED: readonly (readonly [what: string, payload: string, reason: RegExp])[] = [
    ['another magic', '29b52ffd 00 58 022000 aa', /^it does not begin with a zstd frame/],
    ['a header cut off', '28b52ffd 00', /^it does not begin with a zstd frame/],
    ['a skippable frame', '502a4d18 04000000 01020304 022000 aa', /^it does not begin/],
    ['a frame of one segment', '28b52ffd 60 0003 022000 aa', /descriptor 0x60 is not known/],
    ['a dictionary', '28b52ffd 01 58 07 022000 aa', /descriptor 0x1 is not known/],
    ['a reserved bit', '28b52ffd 08 58 022000 aa', /descriptor 0x8 is not known/],
    ['a block of the reserved kind', '28b52ffd 00 58 062000 aa', /^a zstd block cannot be/],
    ['a block that is too long', '28b52ffd 00 58 0a0010 aa', /^a zstd block cannot be/],
    ['a last block', '28b52ffd 00 58 032000 aa', /^the zstd frame ends in it/],
    ['half a block header', '28b52ffd 00 58 022000 aa 0000', /^it does not end with a zstd block/],
    ['a block beyond the window', '28b52ffd 00 00 020800 aa 020040 aa', /./],
  ];
  for (const [what, payload, reason] of REFUSED) {
    it(`refuses ${what}`, async () => {
      startsWith(await outcome(new ScriptZstdDecoder(), hex(payload), PAGE), reason);
    });
  }

  it('gives up a payload that takes too long', async () => {
    // 40704 sequences of 131075 bytes each, from tables of one code and next to no bits.
    const block = hex('8c0000 00 ff0020 54 230134 0000000000000000 01');
    const payload = Buffer.concat([ZSTD_HEADER, block]);
    startsWith(
      await outcome(new ScriptZstdDecoder(20), payload, PAGE),
      /^it takes more than 20 ms$/,
    );
  });

  it('takes a frame that says how long its content is, and one with a checksum', async () => {
    for (const header of ['28b52ffd 80 58 00040000', '28b52ffd 04 58']) {
      const payload = Buffer.concat([hex(header), RAW_BLOCK]);
      assert.deepEqual(await outcome(new ScriptZstdDecoder(), payload, PAGE), pattern(PAGE));
    }
  });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterEach, describe, it } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import zlib from 'node:zlib';
import ts from 'typescript';
import { createPayloadDecoder } from '../../../lib/migration/multifd/create-payload-decoder.ts';
import type {
  PayloadCompression,
  PayloadDecoder,
} from '../../../lib/migration/multifd/payload-decoder.ts';
import { WorkerZstdDecoder } from '../../../lib/migration/multifd/worker-zstd-decoder.ts';
import { hex, pattern } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { watchLeaks } from '../../helpers/leaks.ts';
import { deflateSlices } from '../../helpers/streams/payload-slices.ts';

const PAGE = 1024;

/** Return a page of lines of 8 characters that resemble each other. */
function page(seed: number): Buffer {
  const line = (at: number) => `${String((at * at * (seed + 3)) % 977).padStart(7, '.')}\n`;
  return Buffer.from(Array.from({ length: PAGE / 8 }, (_, at) => line(at)).join(''));
}

/** The pages of three payloads. */
const PAGES = [[0], [1, 0], [2, 1, 0, 2]].map((seeds) => Buffer.concat(seeds.map(page)));

/** The payloads that zstd 1.5 made of them: one frame, flushed after each (`ZSTD_e_flush`), level 3. */
const ZSTD = [
  'KLUv/QBY1AgAdhAiC6ClHaRIhrSpGtdjIAAcAB0AHSWYjypBNhfhILnH4hkJjXEOYWPEhRNUGUqEFgAhCAIxccl+XDa9SVCLZ4qHzammNYO/pKfI6k3U43IHjM7Et0YOs4KtEJeE7GXQYN6WvRt1xOIaOGLsKwcA1Yn7hyBl3D04CdZ3GEqJInITrRbuPbhIxupHAYCAqCDWfUAjEW0dEBDvet0xz7PlK12lacH9VkbVyjpVZ1bmGI7YF39T+Pz+ONRuR6jWtWEKK/h+Z4cwJdiF4UyhG5d7A/GnqIaEN3cK2JKQIT67TIy4sisifS66l6wrsDxtjvSbAg2ME9Zlh0FdNz9gkj/T+y45ygUKWzj2gFs5eZ/auDQnBFYD1pTtCogc',
  'HAkAs8kRlP/XfgmCINBCcIzOZCIIFMGgfKqMiDOjMH6IJxocfY1AItCDLEQhIQyJELN/GDgsho5XPI3RG0LdjEun92Iu+IhYOuQkBWaAgahQrh2AIhERsvQSaNKge2f//+/4B1A1x9dWT2E3pVUc29Vcd4tZN94Jiz6df4xPCqFlPVneDRaLwI/gsHIzjeENN2EOMWwmBqm7U9SIRnQzWaLGg+WG4xIyboBHk5DmYDPUe34tynmMhFnrPL1bJ2k6PmZPHM+qZPmy7gurYV/cGb94Kjeqy6xM+ap1N77mxVPVvh/MDojcJmUtaunZT02pBrbOnkSTxQJyaLuY8Ri8/RU4tse5fWjc/RmsPVtCaIP0l3XXbKyxqSHb+Ns5Ij52mAsbQEtK',
  'fAkAk8gPZulw8ZxrEC7ikhFBEkqKGCtr8wiLrlWCyhzDryYljzDCNWESo5nOHASOCYtGSOg4wzEOE0dCA2MRQmGCRhAEgIOogO4NsEIREZLyARLocYHpUmn//38D4BugoGNlAGIp/NXrmWjzjbk0UK/vznSh7UD745U28yJi6E1H36sAnxbCTTdej91mF9cZzcbWNxOOIaYD7cKGMzBubrxotFEPx4b1LtPOuS0nzkPiXtE0AdOa3jm7ODur5qdHhBcsCybtdgqZ4I9SVbJZsmEWaHHvcY1ZcBV0tzmLb0I2fHW2OfuN7O9C2do/nrOa/9nImoVpbklvPH7pmp4OaqP5wMVI7DTcOu2qRNVmHfvFTt77ymRjYj1mWniucfochRkpunxmdPuOYsft5q1PB5AD',
].map((packed) => Buffer.from(packed, 'base64'));

/** A window of 2 MiB. */
const ZSTD_HEADER = hex('28b52ffd 00 58');
/** Blocks of 1024 bytes: one byte repeated, and plain bytes. */
const RLE_BLOCK = hex('022000 aa');
const RAW_BLOCK = Buffer.concat([hex('002000'), pattern(PAGE)]);

/** A payload of 512 KiB of pages, and these. */
interface Large {
  payload: Buffer;
  bytes: Buffer;
}

/** 512 KiB that do not compress, and 512 KiB that do. */
const LARGE = [pattern(524_288, 5), Buffer.alloc(524_288, 7)];

async function largeZlib(): Promise<Large[]> {
  const payloads = await deflateSlices(LARGE);
  return LARGE.map((bytes, at) => ({ payload: payloads[at] as Buffer, bytes }));
}

/** Each of them as four blocks of 128 KiB: plain ones, and ones that repeat a byte. */
async function largeZstd(): Promise<Large[]> {
  const [first, second] = LARGE as [Buffer, Buffer];
  const plain = [0, 1, 2, 3].flatMap((at) => [
    hex('000010'),
    first.subarray(at * 131_072, (at + 1) * 131_072),
  ]);
  return [
    { payload: Buffer.concat([ZSTD_HEADER, ...plain]), bytes: first },
    { payload: hex('02001007'.repeat(4)), bytes: second },
  ];
}

interface Kind {
  name: string;
  make: () => PayloadDecoder;
  payloads: () => Promise<Buffer[]>;
  large: () => Promise<Large[]>;
}

const fromFactory = (compression: PayloadCompression) => () => createPayloadDecoder(compression);
const KINDS: readonly Kind[] = [
  {
    name: 'zlib',
    make: fromFactory('zlib'),
    payloads: () => deflateSlices(PAGES),
    large: largeZlib,
  },
  { name: 'zstd', make: fromFactory('zstd'), payloads: async () => ZSTD, large: largeZstd },
  {
    name: 'zstd in a worker',
    make: () => new WorkerZstdDecoder(),
    payloads: async () => ZSTD,
    large: largeZstd,
  },
];

let decoders: PayloadDecoder[] = [];
afterEach(() => {
  for (const decoder of decoders) decoder.close();
  decoders = [];
});

/** Return a decoder that is closed after the test. */
function opened(kind: Pick<Kind, 'make'>): PayloadDecoder {
  const decoder = kind.make();
  decoders.push(decoder);
  return decoder;
}

/** Return a copy of the decoded bytes, or the error's message. */
async function outcome(
  decoder: PayloadDecoder,
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
  describe(`payload decoder for ${kind.name}`, () => {
    it('decodes the slices of one stream one by one', async () => {
      const decoder = opened(kind);
      const payloads = await kind.payloads();
      assert.equal(payloads.length, PAGES.length);
      for (const [at, payload] of payloads.entries()) {
        const bytes = PAGES[at] as Buffer;
        assert.deepEqual(await outcome(decoder, payload, bytes.length), bytes);
      }
    });

    it('decodes payloads whose output takes many chunks', async () => {
      const decoder = opened(kind);
      const all = await kind.large();
      assert.equal(all.length, LARGE.length);
      for (const { payload, bytes } of all) {
        const decoded = await outcome(decoder, payload, bytes.length);
        assert.ok(typeof decoded !== 'string' && decoded.equals(bytes));
      }
    });

    it('refuses a payload that decodes to more bytes than its pages have, and all later payloads', async () => {
      const [first, second] = (await kind.payloads()) as [Buffer, Buffer];
      const decoder = opened(kind);
      startsWith(
        await outcome(decoder, first, PAGE - 1),
        /^it decodes to more than the 1023 bytes/,
      );
      startsWith(
        await outcome(decoder, second, 2 * PAGE),
        /^it decodes to more than the 1023 bytes/,
      );
    });

    it('refuses a payload that decodes to fewer bytes than its pages have', async () => {
      const [first] = (await kind.payloads()) as [Buffer];
      startsWith(
        await outcome(opened(kind), first, 2 * PAGE),
        /^it decodes to 1024 bytes, its pages are 2048$/,
      );
    });

    it('refuses data that is not compressed', async () => {
      assert.equal(typeof (await outcome(opened(kind), pattern(100, 7), PAGE)), 'string');
    });

    it('refuses a payload whose predecessor is missing', async () => {
      const [, second] = (await kind.payloads()) as [Buffer, Buffer];
      assert.equal(typeof (await outcome(opened(kind), second, 2 * PAGE)), 'string');
    });

    it('refuses every truncated payload', async () => {
      const [first] = (await kind.payloads()) as [Buffer];
      // The empty block that ends a flush decodes to nothing.
      const needed = kind.name === 'zlib' ? first.length - 5 : first.length;
      for (let length = 0; length < needed; length += 7) {
        const answer = await outcome(opened(kind), first.subarray(0, length), PAGE);
        assert.equal(typeof answer, 'string', `${length} bytes`);
      }
    });

    it('returns the requested number of bytes or fails, without hanging, on damaged payloads', async () => {
      const [first] = (await kind.payloads()) as [Buffer];
      for (let at = 0; at < first.length; at += 3) {
        const damaged = Buffer.from(first);
        damaged[at] = (damaged[at] as number) ^ (1 << (at % 8));
        const answer = await outcome(opened(kind), damaged, PAGE);
        if (typeof answer !== 'string') assert.equal(answer.length, PAGE);
      }
    });

    it('rejects a pending decode and all later ones when it is closed', async () => {
      const [first, second] = (await kind.payloads()) as [Buffer, Buffer];
      const decoder = kind.make();
      const pending = outcome(decoder, first, PAGE);
      decoder.close();
      decoder.close();
      assert.equal(await pending, 'the decoder was closed');
      assert.equal(await outcome(decoder, second, 2 * PAGE), 'the decoder was closed');
    });
  });
}

describe('payload decoder for zlib', () => {
  it('reports that the compressed data has ended when more payloads follow', async () => {
    const decoder = opened({ make: fromFactory('zlib') });
    assert.deepEqual(await outcome(decoder, zlib.deflateSync(pattern(PAGE)), PAGE), pattern(PAGE));
    startsWith(
      await outcome(decoder, RAW_BLOCK, PAGE),
      /^the compressed data has ended before its end$/,
    );
  });

  it('stops a decompression bomb at the size of its pages', async () => {
    const bomb = zlib.deflateSync(Buffer.alloc(256 * 1024 * 1024));
    startsWith(
      await outcome(opened({ make: fromFactory('zlib') }), bomb, PAGE),
      /^it decodes to more than the 1024 bytes/,
    );
  });
});

for (const kind of KINDS.slice(1)) {
  describe(`payload decoder for ${kind.name}`, () => {
    const frame = (...blocks: Uint8Array[]) => Buffer.concat([ZSTD_HEADER, ...blocks]);

    it('decodes a first payload of a few bytes', async () => {
      const expected = Buffer.alloc(PAGE, 0xaa);
      assert.deepEqual(await outcome(opened(kind), frame(RLE_BLOCK), PAGE), expected);
    });

    it('decodes blocks of all types, in payloads of one block and of several', async () => {
      const decoder = opened(kind);
      const [compressed] = ZSTD as [Buffer];
      assert.deepEqual(await outcome(decoder, compressed, PAGE), page(0));
      const both = Buffer.concat([RLE_BLOCK, RAW_BLOCK]);
      const expected = Buffer.concat([Buffer.alloc(PAGE, 0xaa), pattern(PAGE)]);
      assert.deepEqual(await outcome(decoder, both, 2 * PAGE), expected);
      assert.deepEqual(await outcome(decoder, RAW_BLOCK, PAGE), pattern(PAGE));
    });

    it('stops a decompression bomb at the size of its pages', async () => {
      // Each block stands for 128 KiB.
      const bomb = frame(...Array.from({ length: 1000 }, () => hex('020010 aa')));
      startsWith(
        await outcome(opened(kind), bomb, PAGE),
        /^it decodes to more than the 1024 bytes/,
      );
    });

    it('accepts the largest window that QEMU uses, and no larger one', async () => {
      const withWindow = (descriptor: string) =>
        Buffer.concat([hex(`28b52ffd 00 ${descriptor}`), RLE_BLOCK]);
      assert.ok((await outcome(opened(kind), withWindow('78'), PAGE)) instanceof Buffer);
      for (const descriptor of ['79', '80', '88', 'a7', 'ff']) {
        assert.equal(typeof (await outcome(opened(kind), withWindow(descriptor), PAGE)), 'string');
      }
    });
  });
}

describe('payload decoder for zstd in a worker', () => {
  const REFUSED: readonly (readonly [what: string, payload: string, reason: RegExp])[] = [
    ['another magic', '29b52ffd 00 58 022000 aa', /^it does not begin with a zstd frame/],
    ['a header cut off', '28b52ffd 00', /^it does not begin with a zstd frame/],
    ['a skippable frame', '502a4d18 04000000 01020304 022000 aa', /^it does not begin/],
    [
      'a frame of one segment',
      '28b52ffd 60 0003 022000 aa',
      /^unsupported zstd frame descriptor 0x60$/,
    ],
    ['a dictionary', '28b52ffd 01 58 07 022000 aa', /^unsupported zstd frame descriptor 0x1$/],
    ['a reserved bit', '28b52ffd 08 58 022000 aa', /^unsupported zstd frame descriptor 0x8$/],
    ['a block of the reserved kind', '28b52ffd 00 58 062000 aa', /^invalid zstd block$/],
    ['a block that is too long', '28b52ffd 00 58 0a0010 aa', /^invalid zstd block$/],
    ['a last block', '28b52ffd 00 58 032000 aa', /^the zstd frame ends in it/],
    [
      'half a block header',
      '28b52ffd 00 58 022000 aa 0000',
      /^it does not end at the end of a zstd block$/,
    ],
    ['a block beyond the window', '28b52ffd 00 00 020800 aa 020040 aa', /./],
  ];
  for (const [what, payload, reason] of REFUSED) {
    it(`refuses ${what}`, async () => {
      startsWith(await outcome(new WorkerZstdDecoder(), hex(payload), PAGE), reason);
    });
  }

  it('ends its thread when a payload takes too long', async () => {
    // 40704 sequences of 131075 bytes each, from tables of one code and next to no bits.
    const block = hex('8c0000 00 ff0020 54 230134 0000000000000000 01');
    const payload = Buffer.concat([ZSTD_HEADER, block]);
    startsWith(
      await outcome(new WorkerZstdDecoder(20), payload, PAGE),
      /^decoding it takes more than 20 ms$/,
    );
  });

  it('accepts a frame with a content size, and one with a checksum', async () => {
    for (const header of ['28b52ffd 80 58 00040000', '28b52ffd 04 58']) {
      const payload = Buffer.concat([hex(header), RAW_BLOCK]);
      assert.deepEqual(await outcome(new WorkerZstdDecoder(), payload, PAGE), pattern(PAGE));
    }
  });

  it('leaves no thread after a failure or a close', async () => {
    await using leaks = await watchLeaks();
    const [first] = ZSTD as [Buffer];
    const failed = new WorkerZstdDecoder();
    assert.equal(typeof (await outcome(failed, first, 2 * PAGE)), 'string');
    const closed = new WorkerZstdDecoder();
    assert.deepEqual(await outcome(closed, first, PAGE), page(0));
    closed.close();
    await leaks.check();
  });

  it('does not keep the payloads it has decoded', async () => {
    const decoder = opened({ make: () => new WorkerZstdDecoder() });
    const [plain] = (await largeZstd()) as [Large];
    await outcome(decoder, plain.payload, plain.bytes.length);
    const payload = plain.payload.subarray(ZSTD_HEADER.length);
    for (let i = 0; i < 20; i++) await outcome(decoder, payload, plain.bytes.length);
    const before = process.memoryUsage.rss();
    for (let i = 0; i < 500; i++) await decoder.decode(payload, plain.bytes.length);
    const grown = process.memoryUsage.rss() - before;
    assert.ok(grown < 125 * 1_048_576, `${grown} bytes after 250 MiB of payloads`);
  });

  /** Decodes a payload without closing the decoder. */
  const PROGRAM = (url: string) => `
    const { WorkerZstdDecoder } = await import(${JSON.stringify(url)});
    const decoder = new WorkerZstdDecoder();
    const bytes = await decoder.decode(Buffer.from('${ZSTD[0]?.toString('base64')}', 'base64'), ${PAGE});
    console.log(Buffer.from(bytes).toString('latin1', 0, 7));
  `;
  const folder = new URL('../../../lib/migration/multifd/', import.meta.url);
  const run = (args: readonly string[], url: string): string => {
    const program = ['--input-type=module', '-e', PROGRAM(url)];
    return execFileSync(process.execPath, [...args, ...program], { encoding: 'utf8' });
  };

  it('does not keep the process alive after a payload', () => {
    const url = new URL('worker-zstd-decoder.ts', folder).href;
    assert.equal(run(['--import', 'tsx'], url), `${page(0).toString('latin1', 0, 7)}\n`);
  });

  it('works from compiled modules, without a loader', () => {
    const compiled = makeTempDir();
    try {
      for (const name of ['worker-zstd-decoder', 'zstd-frame', 'payload-output']) {
        const source = readFileSync(new URL(`${name}.ts`, folder), 'utf8');
        const { outputText } = ts.transpileModule(source, {
          compilerOptions: {
            target: ts.ScriptTarget.ES2022,
            module: ts.ModuleKind.ESNext,
            rewriteRelativeImportExtensions: true,
          },
        });
        writeFileSync(compiled.join(`${name}.js`), outputText);
      }
      writeFileSync(compiled.join('package.json'), '{ "type": "module" }');
      const modules = fileURLToPath(new URL('../../../node_modules', import.meta.url));
      symlinkSync(modules, compiled.join('node_modules'));
      const url = pathToFileURL(compiled.join('worker-zstd-decoder.js')).href;
      assert.equal(run([], url), `${page(0).toString('latin1', 0, 7)}\n`);
    } finally {
      compiled.remove();
    }
  });
});

// A stream is copied byte for byte, but for what is to be changed.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import {
  type CopyOptions,
  type CopyResult,
  copyStream,
} from '../../../lib/migration/rewrite/copy-stream.ts';
import { FieldChanges } from '../../../lib/migration/rewrite/field-changes.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { fixturePath, recordings, unpack } from '../../fixtures/recording.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { corpus, corpusBytes, corpusFacts, corpusNames } from '../../helpers/streams/corpus.ts';
import { smallStreams } from '../../helpers/streams/small-streams.ts';
import {
  be64,
  blockList,
  command,
  configuration,
  counted,
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
import { Source } from '../../helpers/transports/backends.ts';

interface Copied extends CopyResult {
  written: Buffer;
}

/** Return what a copy writes. */
async function copied(bytes: Buffer, size: number, options: CopyOptions = {}): Promise<Copied> {
  const from = new QemuFile(new Source(piecesOf(bytes, size), { answering: 'async', hands: true }));
  const pieces: Buffer[] = [];
  const to = new QemuFile({
    writevBuffer: async (buffers) => {
      await Promise.resolve();
      const written = Buffer.concat(buffers);
      pieces.push(written);
      return written.length;
    },
  });
  const result = await copyStream(from, to, options);
  await to.close();
  await from.close();
  return { ...result, written: Buffer.concat(pieces) };
}

async function assertSame(bytes: Buffer, sizes: readonly number[], fileOffset = 0): Promise<void> {
  for (const size of sizes) {
    const { written, bytes: length, trailingBytes } = await copied(bytes, size, { fileOffset });
    assert.equal(length + trailingBytes, bytes.length);
    let at = 0;
    while (at < length && written[at] === bytes[at]) at += 1;
    assert.deepEqual([at, written.length], [length, length], `in chunks of ${size}`);
  }
}

describe('a copy of a recording is its bytes:', () => {
  for (const { name, files } of recordings()) {
    const [main] = files;
    if (main?.kind !== 'main') continue;
    const { streamAt = 0 } = main;
    test(name, () => assertSame(unpack(main).subarray(streamAt), [65_536, 4_093], streamAt));
  }

  for (const file of ['numas.mig.gz', 'pve-pbs-state.mig.gz', 'stale-tail.raw.gz']) {
    test(`field/${file}`, () =>
      assertSame(gunzipSync(readFileSync(fixturePath(`field/${file}`))), [65_536, 4_093]));
  }

  for (const name of corpusNames()) {
    const { files, stream_at = 0, container } = corpusFacts(name);
    const [main] = files;
    if (main === undefined || corpus(main.file) === undefined) continue;
    const at = container?.payload_at ?? stream_at;
    test(`corpus ${name}`, () =>
      assertSame(corpusBytes(main.file).subarray(at), [65_536, 4_093], stream_at));
  }

  for (const { name, main } of smallStreams()) {
    test(`${name}, byte by byte`, () => assertSame(main.bytes, [1, 2, 1000]));
  }
});

const PAGE = Buffer.alloc(4096, 0xaa);
const TEXT = '{"page_size": 4096, "devices": []}';

/** A stream whose blocks have these names. */
function named(a: string, b: string): Buffer {
  return stream(
    header,
    configuration('none'),
    section('start', 2, ['ram', 0, 4], blockList([a, 0x2000], [b, 0x1000]), eos),
    piece('part', 2, page(a, 0, PAGE), zeroPage(null, 0x1000), page(b, 0, PAGE), eos),
    command(3, be64(0x1000), be64(0x1000)),
    command(6, '00', counted(a), '00', be64(0), be64(0x1000)),
    piece('part', 2, zeroPage(b, 0), page(a, 0, PAGE), eos),
    piece('end', 2, eos),
    end,
    vmDescription(TEXT),
  );
}

describe('a copy', () => {
  for (const size of [1, 7, 100_000]) {
    test(`has other names of RAM blocks in all places, in chunks of ${size}`, async () => {
      const renameBlocks = new Map([
        ['pc.ram', 'machine.memory'],
        ['vga', 'pc.ram'],
      ]);
      const { written } = await copied(named('pc.ram', 'vga'), size, { renameBlocks });
      assert.ok(written.equals(named('machine.memory', 'pc.ram')));
    });
  }

  test('lacks the VM description where it is to be left out', async () => {
    const bytes = workedExample();
    const { written } = await copied(bytes, 100, { dropDescription: true });
    assert.ok(written.equals(bytes.subarray(0, 0x10e1)));
  });

  test('has the body of a device that was changed', async () => {
    const bytes = workedExample();
    for (const size of [1, 100, 10_000]) {
      const { written } = await copied(bytes, size, {
        devices: {
          edit: ({ section: { name }, body, state }) => {
            assert.deepEqual([name, state?.a], ['demo', 0x12345678]);
            const other = Buffer.from(body);
            other[0] = 0xff;
            return other;
          },
          finish: () => {},
        },
      });
      const expected = Buffer.from(bytes);
      expected[0x10c0] = 0xff;
      assert.ok(written.equals(expected));
    }
  });

  test('does not have the bytes after the stream, and reports them', async () => {
    for (const bytes of [workedExample(), stream(header, configuration('none'), end)]) {
      for (const size of [100, 100_000]) {
        const { written, trailingBytes } = await copied(
          stream(bytes, Buffer.alloc(70_000, 9)),
          size,
        );
        assert.equal(trailingBytes, 70_000);
        assert.ok(written.equals(bytes));
      }
    }
  });

  for (const [what, options, reason] of [
    [
      'of a block that the stream lacks',
      { renameBlocks: new Map([['x', 'y']]) },
      /no RAM block "x"; its blocks are "pc.ram", "vga"/,
    ],
    [
      'to a name that another block has',
      { renameBlocks: new Map([['vga', 'pc.ram']]) },
      /two RAM blocks would have the name "pc.ram"/,
    ],
    ['to no name', { renameBlocks: new Map([['vga', '']]) }, /a block name of 0 bytes/],
  ] as const) {
    test(`refuses a name ${what}`, async () => {
      await assert.rejects(copied(named('pc.ram', 'vga'), 1000, options), {
        code: 'EINVAL',
        message: reason,
      });
    });
  }

  test('refuses a body of another length', async () => {
    const devices = { edit: () => Buffer.alloc(3), finish: () => {} };
    await assert.rejects(copied(workedExample(), 1000, { devices }), {
      code: 'EINVAL',
      message: /a body of 3 bytes for 27 of section "demo"/,
    });
  });

  test('ends before the end mark where a change was not made', async () => {
    const chunks: Buffer[] = [];
    const to = new QemuFile({
      writevBuffer(buffers) {
        const chunk = Buffer.concat(buffers);
        chunks.push(chunk);
        return chunk.length;
      },
    });
    const from = new QemuFile(new Source([workedExample()]));
    const devices = new FieldChanges(['demo.b=1']);
    await assert.rejects(copyStream(from, to, { devices }), {
      code: 'EINVAL',
      message: /demo: there is no field "b": the device has "a", "arr", "demo\/extra"/,
    });
    await to.flush();
    assert.ok(Buffer.concat(chunks).length <= 0x10e0);
  });

  test('of a stream that is cut ends with its fault, wherever it is cut', async () => {
    const bytes = workedExample();
    for (let at = 0; at < 0x10e1; at += 37) {
      await assert.rejects(copied(bytes.subarray(0, at), 1000), { name: 'MigrationStreamError' });
    }
  });
});

// A sequential stream becomes a mapped-ram file while it passes.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { openTo } from '../../../adapters/index.ts';
import { mapStream } from '../../../lib/migration/rewrite/map-stream.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { recording, unpack } from '../../fixtures/recording.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { readStream } from '../../helpers/reading/read-stream.ts';
import {
  be64,
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
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';
import { Source } from '../../helpers/transports/backends.ts';

/** Return the file that a stream becomes. */
async function mapped(bytes: Buffer, size: number): Promise<Buffer> {
  await using dir = makeTempDir();
  const path = dir.join('file');
  const from = new QemuFile(new Source(piecesOf(bytes, size), { answering: 'async', hands: true }));
  const to = await openTo({ scheme: 'file', path, offset: 0 });
  try {
    await mapStream(from, to);
    await to.close();
    return fs.readFileSync(path);
  } finally {
    to.destroy();
    await from.close();
  }
}

describe('a stream that becomes a mapped-ram file', () => {
  for (const name of ['microvm', 'pc', 'q10-pc', 'compress', 'return-path']) {
    test(`has the same guest: ${name}`, async () => {
      const [main] = recording(name).files;
      assert.ok(main);
      const bytes = unpack(main);
      const file = await mapped(bytes, 65_536);
      const [was, is] = [await readStream([bytes]), await readStream([file])];
      for (const [block, contents] of was.ram)
        assert.ok(is.ram.get(block)?.equals(contents), block);
      const devices = ({ events }: typeof is) =>
        events.flatMap((event) =>
          event.type === 'device' ? [[event.section.name, event.body.toString('hex')]] : [],
        );
      assert.deepEqual(devices(is), devices(was));
      assert.deepEqual(is.reader.configuration?.capabilities, ['mapped-ram']);
    });
  }

  const PAGE = Buffer.alloc(4096, 1);
  const OTHER = Buffer.alloc(4096, 2);
  const start = section('start', 2, ['ram', 0, 4], blockList(['a', 0x3000]), eos);

  test('keeps the last contents of each page, in chunks of any size', async () => {
    const bytes = stream(
      header,
      configuration('none'),
      command(1),
      start,
      piece('part', 2, page('a', 0, PAGE), page(null, 0x1000, PAGE), zeroPage(null, 0x2000), eos),
      piece('part', 2, page(null, 0x1000, OTHER), page(null, 0x2000, OTHER), eos),
      piece('end', 2, zeroPage(null, 0), eos),
      end,
    );
    for (const size of [1, 100, 100_000]) {
      const { ram, events } = await readStream([await mapped(bytes, size)]);
      assert.ok(ram.get('a')?.equals(Buffer.concat([Buffer.alloc(4096), OTHER, OTHER])));
      assert.deepEqual(
        events.flatMap((event) => (event.type === 'section' ? [event.section.kind] : [])),
        ['start', 'end'],
      );
    }
  });

  for (const [what, parts, says] of [
    ['without a configuration section', [start], /no configuration section/],
    [
      'with XBZRLE pages',
      [
        configuration('none'),
        start,
        piece('part', 2, page('a', 0, PAGE), be64(0x60), '01 0003 000109', eos),
      ],
      /it has XBZRLE pages/,
    ],
    [
      'of a postcopy migration',
      [configuration('none'), command(3, be64(0x1000), be64(0x1000)), start],
      /it has the command POSTCOPY_ADVISE/,
    ],
    ['without RAM', [configuration('none'), end], /it has no section "ram"/],
  ] as const) {
    test(`is refused ${what}`, async () => {
      await assert.rejects(mapped(stream(header, ...parts, end), 1000), {
        code: 'ENOTSUP',
        message: says,
      });
    });
  }
});

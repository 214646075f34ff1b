import assert from 'node:assert/strict';
import { buffer } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { verifyStream } from '../../lib/migration/verify/verify.ts';
import { QemuFile } from '../../lib/qemu-file/qemu-file.ts';
import { isMappedRam, rebaseMappedRam } from '../../lib/relay/rebase-mapped-ram.ts';
import { corpus, corpusBytes } from '../helpers/streams/corpus.ts';
import {
  be32,
  be64,
  configuration,
  counted,
  end,
  eos,
  header,
  stream,
  subsection,
} from '../helpers/streams/stream-bytes.ts';

const MIB = 1_048_576;
const PAGE = 4096;
const MAPPED = subsection('configuration/capabilities', 1, be32(1), counted('mapped-ram'));

/** Build a stream with two blocks of two pages, as QEMU writes it at an offset of its file. */
function mappedAt(fileOffset: number): Buffer {
  const parts: Buffer[] = [
    stream(
      header,
      configuration('pc', MAPPED),
      '01',
      be32(2),
      counted('ram'),
      be32(0),
      be32(4),
      be64(4 * PAGE + 4),
    ),
  ];
  for (const name of ['a', 'second']) {
    const entry = stream(counted(name), be64(2 * PAGE), be32(1), be64(PAGE));
    const before = parts.reduce((sum, part) => sum + part.length, fileOffset);
    const bitmapAt = before + entry.length + 16;
    const pagesAt = Math.ceil((bitmapAt + 8) / MIB) * MIB;
    parts.push(
      stream(
        entry,
        be64(bitmapAt),
        be64(pagesAt),
        '0200000000000000',
        Buffer.alloc(pagesAt - bitmapAt - 8),
        Buffer.alloc(PAGE),
        Buffer.alloc(PAGE, name),
      ),
    );
  }
  parts.push(stream(eos, '7e', be32(2), '03', be32(2), eos, '7e', be32(2), end));
  return Buffer.concat(parts);
}

/** A file that delivers bytes in chunks of `size`. */
function fileOver(bytes: Buffer, size = 50_000): QemuFile {
  let at = 0;
  return new QemuFile({
    getBuffer() {
      const chunk = bytes.subarray(at, at + size);
      at += chunk.length;
      return chunk;
    },
  });
}

describe('rebaseMappedRam', () => {
  for (const [from, to] of [
    [0, 65_536],
    [65_536, 0],
    [65_536, 3 * MIB + 4096],
    [0, 0],
  ] as const) {
    test(`writes a stream from offset ${from} as QEMU writes it at ${to}`, async () => {
      const moved = await buffer(rebaseMappedRam(fileOver(mappedAt(from)), from, to));
      assert.ok(moved.equals(mappedAt(to)));
    });
  }

  test('passes any other stream on as it is', async () => {
    for (const bytes of [
      stream(header, configuration('pc'), end),
      Buffer.from('something else'),
      Buffer.alloc(0),
    ]) {
      assert.deepEqual(await buffer(rebaseMappedRam(fileOver(bytes, 3), 0, 512)), bytes);
    }
  });

  test('fails for a stream that was written at another offset', async () => {
    const file = rebaseMappedRam(fileOver(mappedAt(4096)), 0, 65_536);
    await assert.rejects(buffer(file), /said to be at \d+ of the file, not at \d+/);
  });

  test('finds out without consuming a byte whether a stream has mapped-ram', async () => {
    const file = fileOver(mappedAt(0));
    assert.equal(await isMappedRam(file), true);
    assert.equal(file.getPosition, 0);
    assert.equal(await isMappedRam(fileOver(stream(header, configuration('pc'), end))), false);
    file.destroy();
  });

  const name = 'q10-mapped-ram-offset.file.gz';
  test('moves the file of a QEMU so that it reads the same', { skip: !corpus(name) }, async () => {
    const bytes = corpusBytes(name).subarray(65_536);
    const moved = await buffer(rebaseMappedRam(fileOver(bytes, 262_144), 65_536, 512));
    const { faults, warnings } = await verifyStream(fileOver(moved, 262_144), { fileOffset: 512 });
    assert.deepEqual([faults, warnings], [[], []]);
    const back = await buffer(rebaseMappedRam(fileOver(moved, 262_144), 512, 65_536));
    assert.ok(back.equals(bytes));
  });
});

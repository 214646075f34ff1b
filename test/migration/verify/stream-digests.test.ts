import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import type { Manifest } from '../../../lib/migration/verify/manifest.ts';
import { StreamDigests } from '../../../lib/migration/verify/stream-digests.ts';
import { loadDigest } from '../../../lib/util/digest.ts';
import { recordings, unpack } from '../../fixtures/recording.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { chunksOf } from '../../helpers/reading/read-stream.ts';
import {
  configuration,
  end,
  header,
  section,
  stream,
  vmDescription,
  workedExample,
} from '../../helpers/streams/stream-bytes.ts';
import { xxh64 } from '../../helpers/xxh64.ts';

/** Read a stream through the digests; return its manifest. */
async function manifestOf(
  chunks: readonly Uint8Array[],
  channels: readonly Uint8Array[] = [],
  fileOffset = 0,
): Promise<Manifest> {
  await loadDigest();
  const digests = new StreamDigests();
  const reader = new MigrationReader(digests.through(chunksOf(chunks)), {
    channels: channels.map((channel) => chunksOf([channel])),
    fileOffset,
  });
  digests.watch(reader);
  for await (const event of reader) digests.add(event);
  const { blocks, pageSize } = reader.ram;
  return digests.manifest(blocks.length === 0 ? null : blocks, pageSize, async ({ name }) =>
    xxh64(Buffer.from(name)),
  );
}

/** Checks a manifest against the bytes that it is of. */
function assertDigests(manifest: Manifest, bytes: Buffer): void {
  assert.equal(manifest.bytes, bytes.length);
  assert.equal(manifest.xxh64, xxh64(bytes));
  assert.ok(manifest.sections.length > 0);
  let last = 0;
  for (const { name, offset, bytes: size, xxh64: digest } of manifest.sections) {
    assert.ok(offset >= last, `${name} at ${offset} after ${last}`);
    assert.ok([1, 2, 3, 4].includes(bytes[offset] as number), `a section begins at ${offset}`);
    assert.equal(digest, xxh64(bytes.subarray(offset, offset + size)), `${name} at ${offset}`);
    last = offset + size;
  }
}

describe('digests of sections', () => {
  test('match the bytes of each section at every split of the chunks', async () => {
    const bytes = workedExample();
    const whole = await manifestOf([bytes]);
    assertDigests(whole, bytes);
    assert.deepEqual(
      whole.sections.map(({ name, kind, offset, bytes: size }) => [name, kind, offset, size]),
      [
        ['ram', 'start', 26, 70],
        ['ram', 'part', 96, 4138],
        ['ram', 'end', 4234, 36],
        ['demo', 'full', 4270, 50],
      ],
    );
    for (let at = 1; at < bytes.length; at += at < 300 || at > 4200 ? 1 : 97) {
      const parted = await manifestOf([bytes.subarray(0, at), bytes.subarray(at)]);
      assert.deepEqual(parted, whole, `parted at ${at}`);
    }
    assert.deepEqual(await manifestOf(piecesOf(bytes, 1)), whole);
  });

  for (const { name, files, facts } of recordings()) {
    const [main, ...others] = files;
    if (main === undefined || main.kind === 'image') continue;
    test(`match the recording ${name}`, async () => {
      const { streamAt = 0 } = main;
      const bytes = unpack(main).subarray(streamAt);
      const channels = others.filter(({ kind }) => kind !== 'return').map(unpack);
      const manifest = await manifestOf(piecesOf(bytes, 10_007), channels, streamAt);
      assertDigests(manifest, bytes);
      assert.equal(manifest.machine ?? facts.machine, facts.machine);
      assert.deepEqual(
        manifest.ram?.blocks.map((block) => [block.name, block.usedLength]).sort(),
        facts.ram.map((block) => [block.name, block.used]).sort(),
      );
    });
  }

  test('include trailing bytes in the digest of the whole stream', async () => {
    const bytes = stream(workedExample(), Buffer.alloc(100_000, 7));
    const manifest = await manifestOf(piecesOf(bytes, 5000));
    assertDigests(manifest, bytes);
  });

  test('exist for streams without RAM or configuration', async () => {
    const device = { name: 'x', instance_id: 0, vmsd_name: 'x', version: 1 };
    const fields = [{ name: 'a', type: 'uint8', size: 1 }];
    const bytes = stream(
      header,
      configuration('none'),
      section('full', 1, ['x', 0, 1], '11'),
      end,
      vmDescription({ page_size: 4096, devices: [{ ...device, fields }] }),
    );
    const manifest = await manifestOf([bytes]);
    assertDigests(manifest, bytes);
    assert.equal(manifest.ram, null);
    assert.deepEqual(await manifestOf([stream(header, end)]), {
      format: 'qemu-file-manifest',
      version: 1,
      machine: null,
      bytes: 9,
      xxh64: xxh64(stream(header, end)),
      sections: [],
      ram: null,
    });
  });
});

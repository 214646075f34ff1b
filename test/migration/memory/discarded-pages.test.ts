// Pages that a postcopy migration discards at the destination must come after that.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';
import { collectSavedGuest } from '../../../lib/migration/saved-guest/collect-saved-guest.ts';
import { verifyStream } from '../../../lib/migration/verify/verify.ts';
import { recording, recordings, unpack } from '../../fixtures/recording.ts';
import { chunksOf } from '../../helpers/reading/read-stream.ts';
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
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';

const FULL = Buffer.alloc(4096, 0xaa);

/** A stream whose three pages come, of which two are then discarded, and other records follow. */
function discarding(...later: readonly Buffer[]): Buffer {
  return stream(
    header,
    configuration('pc-i440fx-7.2'),
    section('start', 2, ['ram', 0, 4], blockList(['vga', 0x1000], ['pc.ram', 0x3000]), eos),
    piece(
      'part',
      2,
      ...[zeroPage('vga', 0), page('pc.ram', 0, FULL), page(null, 0x1000, FULL)],
      ...[page(null, 0x2000, FULL), eos],
    ),
    command(3),
    command(6, '00', counted('pc.ram'), '00', be64(0x1000), be64(0x2000)),
    piece('end', 2, ...later, eos),
    end,
    vmDescription({ page_size: 4096, devices: [] }),
  );
}

async function faultOf(bytes: Buffer): Promise<string | undefined> {
  const { faults } = await verifyStream(chunksOf([bytes]));
  const [fault] = faults;
  return fault === undefined ? undefined : `${fault.fault}: ${fault.reason}`;
}

describe('verifyStream and discarded pages:', () => {
  test('pages that came again are not a fault', async () => {
    const [data, zero] = [page('pc.ram', 0x1000, FULL), zeroPage(null, 0x2000)];
    assert.equal(await faultOf(discarding(data, zero)), undefined);
  });

  test('pages that did not come again are a fault', async () => {
    assert.match(
      (await faultOf(discarding())) ?? '',
      /^truncated: 2 pages of RAM block "pc.ram" that postcopy discarded did not come after that: /,
    );
    const one = await faultOf(discarding(page('pc.ram', 0x2000, FULL)));
    assert.match(one ?? '', /^truncated: 1 page of RAM block "pc.ram" .*--channel FILE/);
  });

  test('a recording of postcopy-preempt without its channel is a fault', async () => {
    const [main] = recording('q10-postcopy-preempt').files;
    assert.ok(main);
    assert.match((await faultOf(unpack(main))) ?? '', /^truncated: \d+ pages? of RAM block/);
  });

  for (const { name, files } of recordings()) {
    if (!name.includes('postcopy')) continue;
    test(`recording ${name} with its channels has none`, async () => {
      const [main, ...others] = files.filter(({ kind }) => kind !== 'return');
      assert.ok(main);
      const { faults } = await verifyStream(chunksOf([unpack(main)]), {
        channels: others.map((file) => chunksOf([unpack(file)])),
      });
      assert.deepEqual(faults, []);
    });
  }
});

test('collectSavedGuest refuses a guest whose discarded pages did not come again', async () => {
  const collect = (bytes: Buffer) =>
    collectSavedGuest(chunksOf([bytes]), { store: () => new MemoryPageStore() });
  await assert.rejects(collect(discarding()), { code: 'ENODATA', reason: /^2 pages of RAM block/ });
  await collect(discarding(page('pc.ram', 0x1000, FULL), page(null, 0x2000, FULL)));
});

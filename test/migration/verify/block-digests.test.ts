import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { before, describe, test } from 'node:test';
import fc from 'fast-check';
import { openFrom } from '../../../adapters/index.ts';
import type { PageVisitor, RamBlock } from '../../../lib/migration/format/events.ts';
import { MemoryPageStore, type PageStore } from '../../../lib/migration/memory/page-store.ts';
import { BlockDigests } from '../../../lib/migration/verify/block-digests.ts';
import { verifyStream } from '../../../lib/migration/verify/verify.ts';
import { loadDigest } from '../../../lib/util/digest.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import {
  blockList,
  configuration,
  end,
  eos,
  header,
  page,
  piece,
  section,
  stream,
  vmDescription,
} from '../../helpers/streams/stream-bytes.ts';
import { xxh64 } from '../../helpers/xxh64.ts';

const PAGE = 4096;
const PAGES = 40;

function block(index: number, pages: number): RamBlock {
  const counts = { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 };
  const usedLength = pages * PAGE;
  return { index, name: `b${index}`, usedLength, hostPageSize: null, address: null, pages: counts };
}

/** Pages of a fill byte, zero pages for 0, as a reader gives them to a visitor. */
interface Step {
  block: number;
  page: number;
  count: number;
  fill: number;
}

const BLOCKS = [block(0, PAGES), block(1, 3)];

function play(steps: readonly Step[], visitor: PageVisitor): void {
  void visitor.blocks?.(BLOCKS, PAGE);
  for (const { block: index, page, count, fill } of steps) {
    const ram = BLOCKS[index] as RamBlock;
    if (fill === 0) visitor.zero?.(ram, page * PAGE, count);
    else visitor.page?.(ram, page * PAGE, Buffer.alloc(count * PAGE, fill));
  }
}

function expected(steps: readonly Step[]): string[] {
  const contents = BLOCKS.map(({ usedLength }) => Buffer.alloc(usedLength));
  for (const { block: index, page, count, fill } of steps) {
    contents[index]?.fill(fill, page * PAGE, (page + count) * PAGE);
  }
  return contents.map(xxh64);
}

/** A store that counts its bytes. */
class CountingStore extends MemoryPageStore {
  static bytes = 0;

  override write(at: number, bytes: Uint8Array): void {
    CountingStore.bytes += bytes.length;
    super.write(at, bytes);
  }
}

const newStore = (): PageStore => new CountingStore();

async function digestsOf(steps: readonly Step[], canReadAgain: boolean): Promise<string[]> {
  const readAgain = async (pages: PageVisitor): Promise<void> => play(steps, pages);
  const digests = new BlockDigests({
    store: newStore,
    readAgain: canReadAgain ? readAgain : undefined,
  });
  play(steps, digests);
  const found: string[] = [];
  for (const ram of BLOCKS) found.push(await digests.digest(ram));
  digests.close();
  return found;
}

const step = (index: number): fc.Arbitrary<Step> =>
  fc
    .tuple(fc.nat((BLOCKS[index] as RamBlock).usedLength / PAGE - 1), fc.nat(20), fc.nat(2))
    .map(([page, count, fill]) => {
      const left = (BLOCKS[index] as RamBlock).usedLength / PAGE - page;
      return { block: index, page, count: Math.min(left, count + 1), fill };
    });

const inOrder: Step[] = [
  { block: 0, page: 0, count: 1, fill: 1 },
  { block: 0, page: 1, count: 30, fill: 2 },
  { block: 1, page: 1, count: 1, fill: 3 },
  { block: 0, page: 32, count: 2, fill: 0 },
  { block: 0, page: 35, count: 1, fill: 4 },
];

describe('the digests of blocks', () => {
  before(loadDigest);

  test('are those of the final contents, in whatever order the pages come', async () => {
    const steps = fc.array(fc.oneof(step(0), step(1)), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(steps, fc.boolean(), async (list, canReadAgain) => {
        assert.deepEqual(await digestsOf(list, canReadAgain), expected(list));
      }),
    );
  });

  test('need no store for pages in order, with gaps, if the source can be read again', async () => {
    CountingStore.bytes = 0;
    assert.deepEqual(await digestsOf(inOrder, true), expected(inOrder));
    assert.equal(CountingStore.bytes, 0);
  });

  test('need no store for pages that were zeros before, at their place or after a gap', async () => {
    CountingStore.bytes = 0;
    const zeros: Step[] = [
      { block: 0, page: PAGES - 1, count: 1, fill: 0 },
      { block: 0, page: 0, count: 10, fill: 0 },
    ];
    const steps = [...zeros, ...inOrder, { block: 0, page: PAGES - 1, count: 1, fill: 6 }];
    assert.deepEqual(await digestsOf(steps, true), expected(steps));
    assert.equal(CountingStore.bytes, 0);
  });

  test('of many pages of zeros are right where they wait no longer', async () => {
    const ram = { ...block(0, 1), usedLength: 2 ** 25 };
    const digests = new BlockDigests({ store: newStore });
    digests.blocks([ram], PAGE);
    for (let offset = 0; offset < 5_000 * PAGE; offset += PAGE) digests.zero(ram, offset, 1);
    digests.page(ram, 5_001 * PAGE, Buffer.alloc(PAGE, 1));
    const contents = Buffer.alloc(2 ** 25).fill(1, 5_001 * PAGE, 5_002 * PAGE);
    assert.equal(await digests.digest(ram), xxh64(contents));
    digests.close();
  });

  test('store only the blocks that did not come in order', async () => {
    CountingStore.bytes = 0;
    const steps = [...inOrder, { block: 1, page: 0, count: 1, fill: 5 }];
    assert.deepEqual(await digestsOf(steps, true), expected(steps));
    assert.equal(CountingStore.bytes, 2 * PAGE);
  });

  test('of a block with a gap of terabytes do not hash it while the stream is read', async () => {
    const ram = { ...block(0, 1), usedLength: 2 ** 44 };
    const digests = new BlockDigests({ store: newStore });
    digests.blocks([ram], PAGE);
    digests.page(ram, 2 ** 43, Buffer.alloc(PAGE, 1));
    const signal = AbortSignal.abort();
    await assert.rejects(digests.digest(ram, { signal }), { code: 'ECANCELED' });
    digests.close();
  });

  test('of a file come from a second reading, if a page was sent again', async () => {
    const bytes = stream(
      header,
      configuration('pc-i440fx-7.2'),
      section('start', 1, ['ram', 0, 4], blockList(['pc.ram', 4 * PAGE]), eos),
      piece(
        'part',
        1,
        page('pc.ram', 0, Buffer.alloc(PAGE, 1)),
        page(null, PAGE, Buffer.alloc(PAGE, 2)),
        page(null, 0, Buffer.alloc(PAGE, 3)),
        eos,
      ),
      piece('end', 1, eos),
      end,
      vmDescription({ page_size: PAGE, devices: [] }),
    );
    await using dir = makeTempDir();
    writeFileSync(dir.join('vm.mig'), Buffer.concat([Buffer.alloc(100), bytes]));
    const options = { digests: { store: newStore } };
    for (const seekable of [true, false]) {
      CountingStore.bytes = 0;
      await using file = await openFrom(`file:${dir.join('vm.mig')},offset=100`);
      const { manifest, faults } = await verifyStream(file, {
        ...options,
        seekable,
        fileOffset: 100,
      });
      assert.deepEqual(faults, []);
      const contents = Buffer.concat([
        Buffer.alloc(PAGE, 3),
        Buffer.alloc(PAGE, 2),
        Buffer.alloc(2 * PAGE),
      ]);
      assert.equal(manifest?.ram?.blocks[0]?.xxh64, xxh64(contents));
      assert.equal(manifest?.xxh64, xxh64(bytes));
      assert.equal(manifest?.bytes, bytes.length);
    }
  });
});

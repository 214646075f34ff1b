import assert from 'node:assert/strict';
import type { PageVisitor, RamBlock } from '../../../lib/migration/format/events.ts';
import { MigrationStreamError } from '../../../lib/migration/format/stream-error.ts';
import { combineVisitors } from '../../../lib/migration/memory/combine-visitors.ts';
import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';
import { RamImage } from '../../../lib/migration/memory/ram-image.ts';
import { RamMap } from '../../../lib/migration/memory/ram-map.ts';
import type { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import { StreamSummarizer } from '../../../lib/migration/verify/summary.ts';
import { type VerifyOptions, verifyStream } from '../../../lib/migration/verify/verify.ts';
import { turn } from '../bytes.ts';
import { chunksOf } from '../reading/read-stream.ts';
import { type Chance, partAtRandom } from './mutate.ts';

/** A stream with arbitrary contents. */
export interface Hostile {
  readonly main: Uint8Array;
  readonly channels?: readonly Uint8Array[];
}

/** Time limit per stream, for the slowest machine. */
const PATIENCE = 30_000;

/** Yield the bytes in pieces. */
export function pieces(bytes: Uint8Array, chance?: Chance): AsyncGenerator<Uint8Array, void> {
  const parts = chance === undefined ? [bytes] : partAtRandom(bytes, 8, chance);
  return chunksOf(parts.filter(({ length }) => length > 0));
}

/** Check that pages are whole and lie within their block. */
class PageCheck implements PageVisitor {
  #blocks: readonly RamBlock[] = [];
  #pageSize = 0;

  blocks(blocks: readonly RamBlock[], pageSize: number): void {
    this.#blocks = blocks;
    this.#pageSize = pageSize;
  }

  page(block: RamBlock, offset: number, bytes: Uint8Array): void {
    this.#check(block, offset, bytes.length);
  }

  zero(block: RamBlock, offset: number, count: number): void {
    this.#check(block, offset, count * this.#pageSize);
  }

  xbzrle(block: RamBlock, offset: number, encoded: Uint8Array): void {
    assert.ok(encoded.length <= this.#pageSize);
    this.#check(block, offset, this.#pageSize);
  }

  #check(block: RamBlock, offset: number, length: number): void {
    const isInside = offset >= 0 && length > 0 && offset + length <= block.usedLength;
    const isWhole = offset % this.#pageSize === 0 && length % this.#pageSize === 0;
    const isKnown = this.#blocks[block.index] === block;
    assert.ok(isInside && isWhole && isKnown, `${length} bytes at ${offset} of ${block.name}`);
  }
}

/**
 * Verify a stream and run everything else that reads streams. Check that it ends soon, with faults that name
 * a position and with no other error.
 *
 * @param chance - Source of randomness for the sizes of the chunks.
 */
export async function readHostile(
  { main, channels = [] }: Hostile,
  chance?: Chance,
  options: VerifyOptions = {},
): Promise<MigrationStreamError[]> {
  // Reading available bytes never waits; without a turn, zlib frees nothing and no timer fires.
  await turn();
  const image = new RamImage({ store: () => new MemoryPageStore() });
  const map = new RamMap();
  const summarizer = new StreamSummarizer();
  let reader: MigrationReader | undefined;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('it takes too long')), PATIENCE);
  });
  try {
    const { faults } = await Promise.race([
      verifyStream(pieces(main, chance), {
        channels: channels.map((bytes) => pieces(bytes, chance)),
        ...options,
        pages: combineVisitors([new PageCheck(), image, map]),
        onEvent(event, itself) {
          reader = itself;
          summarizer.add(event);
        },
      }),
      late,
    ]);
    const longest = Math.max(main.length, ...channels.map(({ length }) => length));
    for (const fault of faults) assertClear(fault, longest);
    if (reader !== undefined) JSON.stringify(summarizer.summary(reader.ram, null));
    for (const block of reader?.ram.blocks ?? []) map.cells(block, 8);
    return faults;
  } finally {
    clearTimeout(timer);
    image.close();
  }
}

/** Check that a fault has a reason and a position, in printable characters. */
export function assertClear(fault: unknown, longest: number): void {
  assert.ok(fault instanceof MigrationStreamError, String(fault));
  const { position = -1, message } = fault;
  assert.ok(Number.isSafeInteger(position) && position >= 0 && position <= longest, message);
  assert.doesNotMatch(message, /\p{Cc}/u);
}

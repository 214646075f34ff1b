// Damaged streams: they are refused, or opened as the same guest that is collected from the stream as it passes.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { after, test } from 'node:test';
import { openFrom } from '../../../adapters/index.ts';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { unwrap } from '../../../lib/migration/containers/unwrap.ts';
import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';
import { PageIndexBuilder } from '../../../lib/migration/page-index/page-index-builder.ts';
import { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import { collectSavedGuest } from '../../../lib/migration/saved-guest/collect-saved-guest.ts';
import { openSavedGuest } from '../../../lib/migration/saved-guest/open-saved-guest.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { below, chanceOf, mutate, oneOf } from '../../helpers/streams/mutate.ts';
import { smallStreams } from '../../helpers/streams/small-streams.ts';

const RUNS = Number(process.env.FUZZ_RUNS ?? 300);
const SEED = Number(process.env.FUZZ_SEED ?? below(2 ** 31, Math.random));
/** More memory than this is not compared. */
const MAX_COMPARED_BYTES = 1_048_576;

const folder = makeTempDir();
after(() => folder.remove());

/** Return the result of opening; null if the stream is refused. */
async function orRefused<T>(opening: Promise<T>): Promise<T | null> {
  try {
    return await opening;
  } catch (error) {
    assert.ok(error instanceof QemuFileError, String(error));
    return null;
  }
}

async function open(bytes: Buffer, index?: Uint8Array): Promise<SavedGuest> {
  const path = folder.join('stream');
  writeFileSync(path, bytes);
  const file = await openFrom({ scheme: 'file', path, offset: 0 });
  return openSavedGuest(await unwrap(file), { index });
}

async function indexOf(bytes: Buffer): Promise<Uint8Array | string> {
  const builder = await PageIndexBuilder.create();
  builder.addBytes(bytes);
  const reader = new MigrationReader(Readable.from([bytes]), { pages: builder.pages });
  for await (const event of reader) builder.addEvent(event);
  return builder.finish(reader.ram);
}

async function memoryOf({ pages }: SavedGuest): Promise<Buffer | null> {
  const size = pages.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
  if (size > MAX_COMPARED_BYTES) return null;
  const all = Buffer.alloc(size, 0xee);
  let at = 0;
  for (const [block, { usedLength }] of pages.blocks.entries()) {
    await pages.read(block, 0, all.subarray(at, at + usedLength));
    at += usedLength;
  }
  return all;
}

test(`damaged streams, seed ${SEED}`, async () => {
  const chance = chanceOf(SEED);
  const streams = smallStreams().filter(({ channels }) => channels.length === 0);
  let opened = 0;
  let indexed = 0;
  for (let run = 0; run < RUNS; run++) {
    const { main } = oneOf(streams, chance);
    const bytes = run % 4 === 0 ? main.bytes : mutate(main.bytes, chance);
    const store = (): MemoryPageStore => new MemoryPageStore();
    const collected = await orRefused(collectSavedGuest(Readable.from([bytes]), { store }));
    const guest = await orRefused(open(bytes));
    if (guest === null) continue;
    opened += 1;
    assert.ok(collected !== null, 'the file is opened, but the stream is refused');
    const memory = await memoryOf(guest);
    assert.deepEqual(memory, await memoryOf(collected));
    assert.deepEqual(guest.sections, collected.sections);
    await guest.close();
    const index = await indexOf(bytes);
    if (typeof index === 'string') continue;
    indexed += 1;
    const again = await open(bytes, index);
    assert.deepEqual(await memoryOf(again), memory);
    assert.deepEqual(again.sections, guest.sections);
    await again.close();
  }
  assert.ok(opened > RUNS / 20 && indexed > RUNS / 40, `${opened} opened, ${indexed} indexed`);
});

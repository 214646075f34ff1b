// Reading a stream and writing its events gives the same bytes: recordings of real QEMUs, and streams made by hand.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { encodeReturnPath, ReturnPathReader } from '../../../lib/migration/reader/return-path.ts';
import { fixturePath, recordings, unpack } from '../../fixtures/recording.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { corpus, corpusBytes, corpusFacts, corpusNames } from '../../helpers/corpus.ts';
import { chunksOf } from '../../helpers/read-stream.ts';
import { rewrite } from '../../helpers/rewrite.ts';
import { smallStreams } from '../../helpers/small-streams.ts';
import { workedExample } from '../../helpers/stream-bytes.ts';

/** Sizes of the chunks that bytes come in: as from a file, and such that nothing is aligned. */
const CHUNKINGS = [65_536, 4_093] as const;

/** Streams without section footers. */
const WITHOUT_FOOTERS: ReadonlySet<string> = new Set(['no-footers', 'old']);

/** In a mapped-ram file the pages are not records. */
const isMapped = (capabilities: Readonly<Record<string, boolean>>): boolean =>
  capabilities['mapped-ram'] === true;

async function assertSame(
  bytes: Buffer,
  sizes: readonly number[],
  hasFooters = true,
): Promise<void> {
  for (const size of sizes) {
    const written = await rewrite(bytes, piecesOf(bytes, size), { hasFooters });
    let at = 0;
    while (at < bytes.length && written[at] === bytes[at]) at += 1;
    assert.equal(at, bytes.length, `first difference, in chunks of ${size}`);
    assert.equal(written.length, bytes.length);
  }
}

async function assertSameMessages(bytes: Buffer): Promise<void> {
  for (const size of [1, 65_536]) {
    const messages: Buffer[] = [];
    for await (const message of new ReturnPathReader(chunksOf(piecesOf(bytes, size)))) {
      messages.push(encodeReturnPath(message));
    }
    assert.ok(messages.length > 0);
    assert.ok(Buffer.concat(messages).equals(bytes), `in chunks of ${size}`);
  }
}

describe('the events of a recording, written again, are its bytes:', () => {
  for (const { name, files, facts } of recordings()) {
    const [main] = files;
    if (main?.kind !== 'main' || isMapped(facts.capabilities)) continue;
    test(name, () => assertSame(unpack(main), CHUNKINGS, !WITHOUT_FOOTERS.has(name)));
  }

  for (const file of [
    'numas.mig.gz',
    'pve-pbs-state.mig.gz',
    'stale-tail.raw.gz',
    'xen-save-devices-state.bin.gz',
  ]) {
    test(`field/${file}`, async () => {
      await assertSame(gunzipSync(readFileSync(fixturePath(`field/${file}`))), CHUNKINGS);
    });
  }

  for (const name of corpusNames()) {
    const { files, capabilities, stream_at = 0, container } = corpusFacts(name);
    const [main] = files;
    if (main === undefined || corpus(main.file) === undefined || isMapped(capabilities)) continue;
    const at = container?.payload_at ?? stream_at;
    test(`corpus ${name}`, () => assertSame(corpusBytes(main.file).subarray(at), CHUNKINGS));
  }
});

describe('the messages of a return path, written again, are its bytes:', () => {
  for (const { name, files } of recordings()) {
    const back = files.find(({ kind }) => kind === 'return');
    if (back !== undefined) test(name, () => assertSameMessages(unpack(back)));
  }

  for (const name of corpusNames()) {
    const file = `${name}.ret.gz`;
    if (corpus(file) === undefined) continue;
    test(`corpus ${name}`, () => assertSameMessages(corpusBytes(file)));
  }
});

describe('the events of a small stream, written again, are its bytes, byte by byte:', () => {
  test('two blocks and a device', () => assertSame(workedExample(), [1, 2, 3, 1000]));

  for (const { name, main } of smallStreams()) {
    if (name === 'mapped-ram') continue;
    test(name, () => assertSame(main.bytes, [1, 2, 100], !WITHOUT_FOOTERS.has(name)));
  }
});

// Reading a stream and writing its events gives the same bytes: recordings of real QEMUs, and streams made by hand.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { encodeReturnPath, ReturnPathReader } from '../../../lib/migration/reader/return-path.ts';
import { RamWriter } from '../../../lib/migration/writer/ram-writer.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { fixturePath, recordings, unpack } from '../../fixtures/recording.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { chunksOf, readStream } from '../../helpers/reading/read-stream.ts';
import { rewrite } from '../../helpers/reading/rewrite.ts';
import { corpus, corpusBytes, corpusFacts, corpusNames } from '../../helpers/streams/corpus.ts';
import { smallStreams } from '../../helpers/streams/small-streams.ts';
import { FLAG, workedExample } from '../../helpers/streams/stream-bytes.ts';

/** Sizes of the chunks that bytes come in: as from a file, and such that nothing is aligned. */
const CHUNKINGS = [65_536, 4_093] as const;

/** Streams without section footers. */
const WITHOUT_FOOTERS: ReadonlySet<string> = new Set(['no-footers', 'old']);

/** In a mapped-ram file the pages are not records. */
const isMapped = (capabilities: Readonly<Record<string, boolean>> = {}): boolean =>
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

/** Assert that the records of a postcopy-preempt channel, written again, are its bytes. */
async function assertSameRecords(main: Buffer, channel: Buffer): Promise<void> {
  const { reader } = await readStream([main], { channels: [chunksOf([channel])] });
  const { blocks } = reader.ram;
  const pieces: Buffer[] = [];
  const file = new QemuFile({
    writevBuffer(buffers) {
      const piece = Buffer.concat(buffers);
      pieces.push(piece);
      return piece.length;
    },
  });
  const writer = new RamWriter({ file, pageSize: 4096, blocks });
  let block = -1;
  for (let at = 0; at < channel.length; ) {
    const word = Number(channel.readBigUInt64BE(at));
    const offset = word - (word % 4096);
    at += 8;
    if ((word & FLAG.eos) !== 0) {
      writer.endOfSection();
      continue;
    }
    if ((word & FLAG.continue) === 0) {
      const name = channel.toString('utf8', at + 1, at + 1 + (channel[at] as number));
      at += 1 + Buffer.byteLength(name);
      block = blocks.findIndex((one) => one.name === name);
      writer.nameNextBlock();
    }
    if ((word & FLAG.zero) !== 0) {
      writer.zero(block, offset, 1, channel[at]);
      at += 1;
    } else {
      writer.page(block, offset, channel.subarray(at, at + 4096));
      at += 4096;
    }
  }
  await file.close();
  const written = Buffer.concat(pieces);
  assert.ok(written.length > 4096 && written.equals(channel));
}

describe('the records of a postcopy-preempt channel, written again, are its bytes:', () => {
  for (const { name, files } of recordings()) {
    const [main] = files;
    const channel = files.find(({ kind }) => kind === 'preempt');
    if (main === undefined || channel === undefined) continue;
    test(name, () => assertSameRecords(unpack(main), unpack(channel)));
  }

  for (const name of corpusNames()) {
    const file = `${name}.preempt.mig.gz`;
    if (corpus(file) === undefined) continue;
    test(`corpus ${name}`, () =>
      assertSameRecords(corpusBytes(`${name}.mig.gz`), corpusBytes(file)));
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

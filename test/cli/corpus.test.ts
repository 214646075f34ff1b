// Recordings of real QEMUs through the whole reader, compared with facts from independent sources.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openStream } from '../../lib/cli/endpoints/open-stream.ts';
import type { StreamSummary } from '../../lib/migration/verify/summary.ts';
import { verifyStream } from '../../lib/migration/verify/verify.ts';
import { recordings, unpack } from '../fixtures/recording.ts';
import { piecesOf } from '../helpers/bytes.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { chunksOf } from '../helpers/reading/read-stream.ts';
import { readOpened, readSummary, type SummaryAndRam } from '../helpers/reading/read-summary.ts';
import { compareState } from '../helpers/reading/state-oracle.ts';
import { corpus, corpusBytes, corpusFacts, corpusNames } from '../helpers/streams/corpus.ts';
import { type RecordedParts, writeSparse } from '../helpers/streams/recorded-parts.ts';

/** Sizes of the chunks that bytes come in: as from a file, and such that nothing is aligned. */
const CHUNKINGS = [65_536, 4_093] as const;

/** Bytes of a command without its payload, of a multifd channel's first packet, and of a packet's header. */
const COMMAND_HEAD = 5;
const INITIAL_PACKET = 64;
const PACKET_HEADER = 1344;

/**
 * Whether QEMU's own counts are of pages sent: of pages that its threads compress they are not, and
 * before 9.0 they miss some that are still in a thread's hands.
 */
function countsWhatIsSent(capabilities: Readonly<Record<string, boolean>>, is10: boolean): boolean {
  return capabilities.compress !== true && (capabilities.multifd !== true || is10);
}

function pieces(bytes: Buffer, size: number): AsyncGenerator<Uint8Array, void> {
  return chunksOf(piecesOf(bytes, size));
}

function readInPieces({ main, channels, streamAt }: RecordedParts, size: number) {
  return readSummary(pieces(main.subarray(streamAt), size), {
    channels: channels.map((channel) => pieces(channel, size)),
    fileOffset: streamAt,
  });
}

/** Opens a recording from files, as the command does. */
async function readFromFiles(
  dir: TempDir,
  { main, channels, streamAt }: RecordedParts,
): Promise<SummaryAndRam> {
  const write = (name: string, bytes: Buffer): string => {
    writeSparse(dir.join(name), bytes);
    return dir.join(name);
  };
  return readOpened(
    await openStream({
      from: { scheme: 'file', path: write('main', main), offset: streamAt },
      channels: channels.map((bytes, index) => ({
        scheme: 'file',
        path: write(`channel-${index}`, bytes),
        offset: 0,
      })),
      signal: new AbortController().signal,
      quiet: true,
    }),
  );
}

/** A summary without what depends on where the stream was. */
function bare(summary: StreamSummary): StreamSummary {
  return { ...summary, format: { ...summary.format, container: null, trailingBytes: 0 } };
}

async function assertSound({ main, channels, streamAt }: RecordedParts): Promise<void> {
  const { faults, warnings } = await verifyStream(pieces(main.subarray(streamAt), 65_536), {
    channels: channels.map((channel) => pieces(channel, 65_536)),
    fileOffset: streamAt,
  });
  assert.deepEqual(faults, []);
  // Nothing else than that a postcopy stream does not say what its devices are.
  assert.deepEqual(
    warnings.filter((warning) => !warning.startsWith('there is no VM description')),
    [],
  );
}

/** Each section once, at its first appearance, under the analyser's name. */
function firstSections({ sections }: StreamSummary): object[] {
  const seen = new Set<number>();
  return sections.flatMap(({ sectionId, name, instanceId, versionId }) => {
    if (seen.has(sectionId)) return [];
    seen.add(sectionId);
    const ids = { instance_id: instanceId, version_id: versionId };
    return [{ section_id: sectionId, name, ...ids }];
  });
}

interface Total {
  zero: number;
  data: number;
}

function pagesIn({ ram }: StreamSummary): Total {
  const total: Total = { zero: 0, data: 0 };
  for (const { pages } of ram?.blocks ?? []) {
    total.zero += pages.zero;
    total.data += pages.normal + pages.compressed + pages.multifd;
  }
  return total;
}

function sumOf(summary: StreamSummary, kind: 'normal' | 'xbzrle' | 'compressed' | 'multifd') {
  return (summary.ram?.blocks ?? []).reduce((sum, { pages }) => sum + pages[kind], 0);
}

/** Checks how many pages came, and as what. */
function checkCounts(name: string, summary: StreamSummary): void {
  const facts = corpusFacts(name);
  const { records } = facts.analyze_migration;
  const packets = Object.values(facts.multifd_packets ?? {});
  const total = pagesIn(summary);
  const mapped = records['mapped page'];
  assert.equal(sumOf(summary, 'xbzrle'), records.xbzrle ?? 0);
  assert.equal(sumOf(summary, 'compressed'), records.compressed ?? 0);
  if (mapped !== undefined) {
    const blocks = summary.ram?.blocks ?? [];
    const pages = blocks.reduce((sum, { usedLength }) => sum + usedLength / 4096, 0);
    assert.deepEqual(total, { zero: pages - mapped, data: mapped });
    return;
  }
  if (packets.length > 0) {
    const sent = packets.reduce((sum, { normal_pages }) => sum + normal_pages, 0);
    assert.equal(sumOf(summary, 'multifd'), sent);
  }
  const qemu = facts.pages_by_qemu;
  if (qemu !== undefined && countsWhatIsSent(facts.capabilities, packets.length > 0)) {
    assert.deepEqual(total, { zero: qemu.duplicate, data: qemu.normal });
  }
  // Of the further channels the analyser saw nothing.
  if (corpus(`${name}.preempt.mig.gz`) !== undefined) return;
  const zeros = packets.reduce((sum, { zero_pages }) => sum + zero_pages, 0);
  assert.equal(total.zero, (records.zero ?? 0) + zeros);
  assert.equal(sumOf(summary, 'normal'), records.page ?? 0);
}

/**
 * A result without what depends on how channels come in: which pass over the list a page was sent in, if
 * the channel does not say that.
 */
function comparable({ summary, ...more }: SummaryAndRam): object {
  const { ram } = summary;
  if (ram === null || ram.blocks.every(({ pages }) => pages.multifd === 0))
    return { summary, ...more };
  return { summary: { ...summary, ram: { ...ram, rounds: 0, perRound: [] } }, ...more };
}

/** Checks that the lengths of channels without compression are what their pages and packets come to. */
function checkChannelLengths(summary: StreamSummary, channels: readonly Buffer[]): void {
  const bytes = channels.reduce((sum, { length }) => sum + length - INITIAL_PACKET, 0);
  const headers = bytes - sumOf(summary, 'multifd') * 4096;
  assert.equal(headers % PACKET_HEADER, 0);
  assert.ok(headers > 0 && headers < bytes / 20);
}

/** Check the result of reading a recording of the corpus. */
function checkCorpus(name: string, { summary, ram, states, endedAt }: SummaryAndRam): void {
  const facts = corpusFacts(name);
  const { analyze_migration: known, restored } = facts;
  const lost = known.analyser_lost_its_way !== undefined;
  const sections = firstSections(summary);
  assert.deepEqual(sections.slice(0, lost ? known.sections.length : undefined), known.sections);
  assert.equal(summary.configuration?.machine, known.configuration?.machine);
  assert.equal(summary.vmDescription, known.has_vmdesc);
  assert.equal(summary.ram?.pageSize, known.page_size);
  const sizes = summary.ram?.blocks.map((block) => [block.name, block.usedLength]);
  assert.deepEqual(Object.fromEntries(sizes ?? []), known.ram_block_sizes);
  const commands = summary.commands.map(({ number, bytes, name: command, size }) => ({
    command: number,
    bytes: bytes - COMMAND_HEAD,
    ...(command === 'PACKAGED' ? { package_bytes: size } : {}),
  }));
  assert.deepEqual(commands, known.commands ?? []);
  if (!lost) {
    assert.equal(endedAt, known.sections_end_at);
    const { bytes, trailingBytes } = summary.format;
    assert.equal(bytes - endedAt + trailingBytes, known.bytes_after_sections);
  }

  checkCounts(name, summary);

  for (const block of facts.ram_blocks) {
    const sha256 = restored?.ram_sha256[block.name] ?? block.sha256;
    if (sha256 !== null && block.in_stream !== false)
      assert.equal(ram[block.name], sha256, block.name);
  }
  if (corpus(`${name}.state.json.gz`) === undefined) return;
  const text = corpusBytes(`${name}.state.json.gz`).toString();
  const oracle = JSON.parse(text) as Record<string, unknown>;
  const described = Object.keys(oracle).filter((key) => !key.startsWith('ram ('));
  if (states.size === 0 && !known.has_vmdesc) return;
  assert.deepEqual([...states.keys()].sort(), described.sort());
  for (const key of described)
    assert.deepEqual(compareState(states.get(key), oracle[key]), [], key);
}

/** The bytes of a recording of the corpus. */
function corpusParts(name: string): RecordedParts {
  const { files, stream_at = 0, container } = corpusFacts(name);
  const at = container?.payload_at ?? stream_at;
  const [main, ...others] = files;
  assert.ok(main !== undefined);
  return {
    main: corpusBytes(main.file),
    channels: others
      .filter(({ file }) => /\.(ch\d+|preempt)\./.test(file))
      .map(({ file }) => corpusBytes(file)),
    streamAt: at,
  };
}

describe('a recording of the corpus', () => {
  for (const name of corpusNames()) {
    test(`reads as QEMU itself and its analyser see it: ${name}`, async () => {
      await using dir = makeTempDir();
      const parts = corpusParts(name);
      const [first, second] = [
        await readInPieces(parts, CHUNKINGS[0]),
        await readInPieces(parts, CHUNKINGS[1]),
      ];
      checkCorpus(name, first);
      if (/multifd-none$/.test(name)) checkChannelLengths(first.summary, parts.channels);
      assert.deepEqual(comparable(second), comparable(first), 'in other chunks');
      await assertSound(parts);
      const fromFiles = await readFromFiles(dir, parts);
      assert.deepEqual(comparable(fromFiles), comparable(first), 'from files');
    });
  }

  test('in an image of libvirt reads as the bare stream', async (t) => {
    if (corpus('libvirt-save.img.gz') === undefined) return t.skip('there is no corpus');
    await using dir = makeTempDir();
    const { main, streamAt } = corpusParts('libvirt-save');
    const wrapped = await readFromFiles(dir, { main, channels: [], streamAt: 0 });
    const { container } = wrapped.summary.format;
    assert.equal(container, 'libvirt');
    const inside = await readInPieces({ main, channels: [], streamAt }, 65_536);
    assert.deepEqual(
      { ...wrapped, summary: bare(wrapped.summary) },
      { ...inside, summary: bare(inside.summary) },
    );
  });

  test('in a snapshot of a disk image reads as the bare stream', async (t) => {
    if (corpus('savevm.qcow2.gz') === undefined) return t.skip('there is no corpus');
    await using dir = makeTempDir();
    const image = corpusBytes('savevm.qcow2.gz');
    const wrapped = await readFromFiles(dir, { main: image, channels: [], streamAt: 0 });
    assert.match(wrapped.summary.format.container ?? '', /qcow2/);
    const inside = await readInPieces(corpusParts('savevm'), 65_536);
    assert.deepEqual(
      { ...wrapped, summary: bare(wrapped.summary) },
      { ...inside, summary: bare(inside.summary) },
    );
  });
});

describe('a bundled recording', () => {
  for (const { name, files, facts } of recordings()) {
    test(`reads as QEMU itself sees it: ${name}`, async () => {
      await using dir = makeTempDir();
      const [main, ...others] = files;
      assert.ok(main !== undefined);
      const parts: RecordedParts = {
        main: unpack(main),
        channels: others.filter(({ kind }) => kind !== 'return').map(unpack),
        streamAt: main.streamAt ?? 0,
      };
      const fromFiles = await readFromFiles(dir, parts);
      const { summary, ram } = fromFiles;
      assert.equal(summary.configuration?.machine ?? facts.machine, facts.machine);
      assert.deepEqual(
        Object.entries(ram).sort(),
        facts.ram.map((block) => [block.name, block.sha256]).sort(),
      );
      const { pages, capabilities, parameters } = facts;
      const is10 = name.startsWith('q10-');
      if (pages !== undefined && capabilities['mapped-ram'] !== true) {
        assert.ok((summary.ram?.rounds ?? 0) <= pages['dirty-sync-count'] + 1, 'rounds');
        if (countsWhatIsSent(capabilities, is10)) {
          assert.deepEqual(pagesIn(summary), { zero: pages.duplicate, data: pages.normal });
        }
      }
      if (parameters['multifd-compression'] === 'none')
        checkChannelLengths(summary, parts.channels);
      // QEMU also counts pages that were zero, unchanged, or changed too much.
      const compressed = sumOf(summary, 'compressed');
      assert.ok(compressed <= (facts.compression?.pages ?? 0), `${compressed} compressed`);
      assert.equal(compressed > 0, capabilities.compress === true);
      const { pages: most = 0, overflow = 0 } = facts.xbzrle ?? {};
      const xbzrle = sumOf(summary, 'xbzrle');
      assert.ok(xbzrle <= most - overflow && xbzrle > 0 === most > 0, `${xbzrle} of ${most}`);
      if (facts.snapshot !== undefined) {
        assert.match(summary.format.container ?? '', /qcow2/);
        const { bytes, trailingBytes } = summary.format;
        assert.equal(bytes + trailingBytes, facts.snapshot.bytes);
        return;
      }
      for (const size of CHUNKINGS) {
        const inPieces = await readInPieces(parts, size);
        assert.deepEqual(comparable(inPieces), comparable(fromFiles), `in chunks of ${size}`);
      }
      await assertSound(parts);
    });
  }
});

// Multifd packets that we write: each QEMU loads them over two channels, and the guest runs on.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openTo } from '../../../adapters/index.ts';
import { writerOptionsOf } from '../../../lib/migration/guest-writer/write-saved-guest.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../../lib/migration/writer/migration-writer.ts';
import {
  encodeMultifdHeader,
  encodeMultifdInitial,
} from '../../../lib/migration/writer/multifd-packets.ts';
import type { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { recordedOptions, recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { copyMemory, savedGuestOf } from '../../helpers/guests/saved-guest.ts';
import { type Slice, sliceWith } from '../../helpers/streams/payload-slices.ts';
import { memoryProblems } from '../harness/guest.ts';
import { defaultBinary, requireQemu, startQemu } from '../harness/harness.ts';
import { findQemu10, requireQemu10 } from '../harness/qemu10.ts';
import { readRamBlocks } from '../harness/ram-blocks.ts';

const PAGE = 4096;
const PACKET_PAGES = 128;
const CHANNELS = 2;
/** Free pages at the end of main memory, and pages of video memory, that the test fills: several packets. */
const FILLED_PAGES = 300;
/** Every so many of the pages with contents changes, or becomes zero, after it was sent. */
const CHANGED_EACH = 5;
const ZEROED_EACH = 7;

const METHODS = ['none', 'zlib', 'zstd'] as const;
type Method = (typeof METHODS)[number];
type Blocks = Awaited<ReturnType<typeof copyMemory>>;

interface Channel {
  readonly file: QemuFile;
  readonly slice: Slice;
}

/** The source of a migration: its main channel, and those that carry the pages. */
class MultifdSource {
  readonly #writer: MigrationWriter;
  readonly #channels: readonly Channel[];
  readonly #method: Method;
  /** Whether QEMU 10.0 loads it: pages of zeros go in packets, and syncs are marked in the main channel. */
  readonly #isNew: boolean;
  #packets = 0;

  constructor(
    writer: MigrationWriter,
    channels: readonly Channel[],
    method: Method,
    isNew: boolean,
  ) {
    this.#writer = writer;
    this.#channels = channels;
    this.#method = method;
    this.#isNew = isNew;
  }

  /** Send pages of a block, the packets in turn over all channels; all-zero ones as such. */
  async send(blocks: Blocks, block: number, offsets: readonly number[]): Promise<void> {
    const { name, memory } = blocks[block] as Blocks[number];
    for (let at = 0; at < offsets.length; at += PACKET_PAGES) {
      const pages = offsets.slice(at, at + PACKET_PAGES);
      const zero = pages.filter((offset) => isZero(memory, offset));
      const normal = pages.filter((offset) => !isZero(memory, offset));
      if (this.#isNew) {
        await this.#packet(name, memory, normal, zero);
      } else {
        for (const offset of zero) this.#writer.ram.zero(block, offset);
        if (normal.length > 0) await this.#packet(name, memory, normal, []);
      }
    }
  }

  /** End the open section of the main channel, at which all channels are in step. */
  async endSection(): Promise<void> {
    for (const { file } of this.#channels) {
      file.putBuffer(
        encodeMultifdHeader({ ...this.#fields(), block: '', normal: [], isSync: true }),
      );
      await file.flush();
    }
    if (this.#isNew) this.#writer.ram.multifdFlush();
    this.#writer.endSection();
    await this.#writer.file.flush();
  }

  async #packet(
    block: string,
    memory: Buffer,
    normal: readonly number[],
    zero: readonly number[],
  ): Promise<void> {
    const { file, slice } = this.#channels[this.#packets % CHANNELS] as Channel;
    const chunk = Buffer.concat(normal.map((offset) => memory.subarray(offset, offset + PAGE)));
    const payload = normal.length === 0 ? Buffer.alloc(0) : await slice(chunk);
    const fields = { ...this.#fields(), block, normal, zero, payloadBytes: payload.length };
    file.putBuffer(encodeMultifdHeader({ ...fields, method: this.#method }));
    file.putBuffer(payload);
    await file.flush();
  }

  #fields(): { number: number; pageSize: number; payloadBytes: number } {
    this.#packets += 1;
    return { number: this.#packets - 1, pageSize: PAGE, payloadBytes: 0 };
  }
}

function isZero(memory: Buffer, offset: number): boolean {
  return memory.subarray(offset, offset + PAGE).every((byte) => byte === 0);
}

/** Fill pages with bytes that compress a little, and that differ from page to page. */
function fill(memory: Buffer, from: number, pages: number): number[] {
  return Array.from({ length: pages }, (_, page) => {
    const offset = from + page * PAGE;
    for (let at = 0; at < PAGE; at += 4) {
      memory.writeUInt32LE(Math.imul(offset + (at & ~12), 0x9e3779b1) >>> 0, offset + at);
    }
    return offset;
  });
}

/**
 * Send a guest whose memory changes after the first round: some pages have other contents then, some become zero.
 *
 * @returns The memory as it is at the end.
 */
async function send(
  guest: SavedGuest,
  path: string,
  method: Method,
  isNew: boolean,
): Promise<Blocks> {
  const main = await openTo({ scheme: 'unix', path });
  const writer = new MigrationWriter(main, writerOptionsOf(guest));
  writer.header();
  if (guest.configurationBytes !== null) writer.configuration(guest.configurationBytes);
  // QEMU 7.2 takes the first connection for the main channel, QEMU 10.0 looks at its first bytes.
  await main.flush();
  const channels: Channel[] = [];
  for (let id = 0; id < CHANNELS; id += 1) {
    const file = await openTo({ scheme: 'unix', path });
    file.putBuffer(encodeMultifdInitial(id));
    await file.flush();
    channels.push({ file, slice: sliceWith(method) });
  }
  const source = new MultifdSource(writer, channels, method, isNew);

  const blocks = await copyMemory(guest);
  const indexOf = (end: string): number => blocks.findIndex(({ name }) => name.endsWith(end));
  const [ram, video] = [indexOf('pc.ram'), indexOf('vga.vram')];
  const memoryOf = (index: number): Buffer => (blocks[index] as Blocks[number]).memory;
  const free = fill(memoryOf(ram), memoryOf(ram).length - FILLED_PAGES * PAGE, FILLED_PAGES);
  const shown = fill(memoryOf(video), 0, FILLED_PAGES);

  const section = { ...guest.ram, name: 'ram' };
  writer.beginSection({ ...section, kind: 'start' });
  writer.ram.listBlocks(guest.pages.blocks);
  await source.endSection();

  writer.beginSection({ ...section, kind: 'part' });
  for (const [index, { memory }] of blocks.entries()) {
    const all = Array.from({ length: memory.length / PAGE }, (_, page) => page * PAGE);
    await source.send(blocks, index, all);
  }
  await source.endSection();

  writer.beginSection({ ...section, kind: 'end' });
  for (const [index, offsets] of [
    [ram, free],
    [video, shown],
  ] as const) {
    const memory = memoryOf(index);
    const zeroed = offsets.filter((_, place) => place % ZEROED_EACH === 0);
    const changed = offsets.filter((_, place) => place % CHANGED_EACH === 1);
    for (const offset of zeroed) memory.fill(0, offset, offset + PAGE);
    for (const offset of changed) memory.writeUInt32LE(offset + 1, offset + 64);
    await source.send(blocks, index, [...new Set([...zeroed, ...changed])]);
  }
  await source.endSection();

  for (const { body, ...header } of guest.sections) writer.section(header, body);
  writer.end();
  if (guest.descriptionText !== null) writer.vmDescription(guest.descriptionText);
  await main.close();
  for (const { file } of channels) await file.close();
  return blocks;
}

for (const [version, name, skip, binary] of [
  ['7.2', 'pc', requireQemu(), defaultBinary()],
  ['10.0', 'q10-pc', requireQemu10(), findQemu10()],
] as const) {
  describe(`multifd packets that we write, in QEMU ${version}`, { skip }, () => {
    for (const method of METHODS) {
      test(`are loaded with compression ${method}, and the guest runs on`, async () => {
        await using dir = makeTempDir();
        const { facts, files } = recording(name);
        const [recorded] = files;
        assert.ok(recorded);
        const guest = await savedGuestOf(unpack(recorded));
        const options = { ...recordedOptions(facts.guest), binary: binary as string };
        await using qemu = await startQemu({ ...options, startStopped: true, incoming: 'defer' });
        await qemu.migrateIncoming(`unix:${dir.join('in')}`, {
          capabilities: { multifd: true },
          parameters: { 'multifd-channels': CHANNELS, 'multifd-compression': method },
        });
        const blocks = await send(guest, dir.join('in'), method, version === '10.0');

        await qemu.waitIncomingEnd();
        const restored = new Map(
          (await readRamBlocks(qemu)).map(({ name, bytes }) => [name, bytes]),
        );
        for (const { name, memory } of blocks) {
          assert.ok(restored.get(name)?.equals(memory), `${name} is what was sent`);
        }
        const { program } = facts.guest;
        assert.deepEqual(memoryProblems(restored.get('pc.ram') as Buffer, program), []);
        await qemu.resume();
        await qemu.waitCounterRises();
      });
    }
  });
}

// A program's own memory, with no QEMU at the source: each QEMU loads it, and the guest runs on.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openTo } from '../../../adapters/index.ts';
import { writerOptionsOf } from '../../../lib/migration/guest-writer/write-saved-guest.ts';
import {
  type MemoryBlock,
  MemoryPageSource,
} from '../../../lib/migration/page-source/memory-page-source.ts';
import { RamSaver, type RamSaverProgress } from '../../../lib/migration/ram-saver/ram-saver.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../../lib/migration/writer/migration-writer.ts';
import type { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { recordedOptions, recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { copyMemory, savedGuestOf } from '../../helpers/guests/saved-guest.ts';
import { GUEST, memoryProblems } from '../harness/guest.ts';
import { defaultBinary, requireQemu, startQemu } from '../harness/harness.ts';
import { findQemu10, requireQemu10 } from '../harness/qemu10.ts';
import { readRamBlocks } from '../harness/ram-blocks.ts';

const PAGE = 4096;
/** Pages that the program changes before each part. */
const CHANGED_PAGES = [200, 120, 60, 20];

/** How often memory changes while it is read, and how many pages of it do. */
const BUSY_CHANGES = 150;
const BUSY_PAGES = 100;

/** Memory that changes whenever a part of it has been read, up to a number of times. */
class BusySource extends MemoryPageSource {
  #left = BUSY_CHANGES;
  readonly #busy: number;
  readonly #memory: Buffer;

  constructor(blocks: readonly MemoryBlock[], busy: number) {
    super(blocks);
    this.#busy = busy;
    this.#memory = (blocks[busy] as MemoryBlock).memory as Buffer;
  }

  /** Change nothing any more. */
  stop(): void {
    this.#left = 0;
  }

  override read(block: number, offset: number, target: Uint8Array): void {
    super.read(block, offset, target);
    this.#change(block);
  }

  override view(block: number, offset: number, length: number): Uint8Array {
    const view = super.view(block, offset, length);
    this.#change(block);
    return view;
  }

  #change(block: number): void {
    if (block !== this.#busy || this.#left === 0) return;
    this.#left -= 1;
    // Free pages: the page after the guest's own ones, and others up to the end.
    const page = this.#memory.length - PAGE * (1 + ((this.#left * 37) % BUSY_PAGES));
    this.#memory.writeUInt32LE(this.#left + 1, page + 4 * (this.#left % 64));
    this.markDirty(block, page, 1);
  }
}

interface Sent {
  progress: RamSaverProgress;
  blocks: MemoryBlock[];
}

/**
 * Send a recorded guest with memory that the test changes meanwhile: pages of the guest's pattern are wrong
 * at first and become right one word at a time, and free pages get new contents.
 */
async function send(
  guest: SavedGuest,
  patternBytes: number,
  file: QemuFile,
  xbzrleCacheBytes: number,
): Promise<Sent> {
  const blocks = await copyMemory(guest);
  const main = blocks.findIndex(({ name }) => name === 'pc.ram');
  const memory = (blocks[main] as MemoryBlock).memory as Buffer;
  const right = Buffer.from(memory);
  const patternPages = patternBytes / PAGE;
  const lastPage = memory.length / PAGE - 1;
  for (let page = 0; page < patternPages; page++) {
    memory.writeUInt32LE(0xdeadbeef, GUEST.pattern + page * PAGE + 16);
  }
  const source = new BusySource(blocks, main);
  const change = (pages: number, round: number): void => {
    for (let at = 0; at < pages; at++) {
      const free = (lastPage - at) * PAGE;
      memory.writeUInt32LE(round * 1000 + at, free + 8 * (at % 500));
      source.markDirty(main, free, PAGE);
    }
    for (let page = round; page < patternPages; page += CHANGED_PAGES.length) {
      const address = GUEST.pattern + page * PAGE;
      right.copy(memory, address, address, address + PAGE);
      source.markDirty(main, address + 16, 4);
    }
  };

  const writer = new MigrationWriter(file, writerOptionsOf(guest));
  const section = guest.ram;
  const saver = new RamSaver(writer, source, { section, xbzrleCacheBytes });
  writer.header();
  if (guest.configurationBytes !== null) writer.configuration(guest.configurationBytes);
  await saver.setup();
  for (const [round, pages] of CHANGED_PAGES.entries()) {
    let isReady = await saver.iterate();
    if (round < CHANGED_PAGES.length - 1) while (!isReady) isReady = await saver.iterate();
    change(pages, round);
  }
  source.stop();
  await saver.complete();
  for (const { body, ...header } of guest.sections) writer.section(header, body);
  writer.end();
  if (guest.descriptionText !== null) writer.vmDescription(guest.descriptionText);
  await file.close();
  return { progress: saver.progress, blocks };
}

for (const [version, name, skip, binary] of [
  ['7.2', 'pc', requireQemu(), defaultBinary()],
  ['10.0', 'q10-pc', requireQemu10(), findQemu10()],
] as const) {
  describe(`memory of a program that changes meanwhile, in QEMU ${version}`, { skip }, () => {
    for (const [how, xbzrleCacheBytes, maxBandwidth] of [
      ['as pages', 0, 0],
      ['with XBZRLE', 1 << 20, 0],
      ['with a rate limit', 0, 8 << 20],
    ] as const) {
      test(`arrives ${how}, and the guest runs on`, async () => {
        await using dir = makeTempDir();
        const { facts, files } = recording(name);
        const [main] = files;
        assert.ok(main);
        const guest = await savedGuestOf(unpack(main));
        const { program } = facts.guest;
        const options = { ...recordedOptions(facts.guest), binary: binary as string };
        await using qemu = await startQemu({ ...options, startStopped: true, incoming: 'defer' });
        await qemu.migrateIncoming(`unix:${dir.join('in')}`);
        const file = await openTo({ scheme: 'unix', path: dir.join('in') });
        file.maxBandwidth = maxBandwidth;
        const { progress, blocks } = await send(
          guest,
          program.patternBytes,
          file,
          xbzrleCacheBytes,
        );
        assert.ok(progress.round >= 3, `${progress.round} rounds`);
        assert.equal(progress.remainingBytes, 0);
        assert.equal(progress.pages.xbzrle > 0, xbzrleCacheBytes > 0);

        await qemu.waitIncomingEnd();
        const restored = new Map(
          (await readRamBlocks(qemu)).map(({ name, bytes }) => [name, bytes]),
        );
        for (const { name, memory } of blocks) {
          assert.ok(restored.get(name)?.equals(memory), `${name} is what the program had`);
        }
        assert.deepEqual(memoryProblems(restored.get('pc.ram') as Buffer, program), []);
        await qemu.resume();
        await qemu.waitCounterRises();
      });
    }
  });
}

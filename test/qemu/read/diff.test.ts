// Two saves of one real guest, compared: exactly the pages and fields that changed between them.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { jsonIn } from '../../helpers/command/reading-command.ts';
import { firmware, memoryProblems } from '../harness/guest.ts';
import { differingPages, type Qemu, requireQemu, startQemu } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import { readRamBlocks } from '../harness/ram-blocks.ts';
import { BUSY_GUEST, qemu10, UNLIMITED } from '../harness/scenario.ts';

const parameters = { 'max-bandwidth': UNLIMITED };

interface Difference {
  same: boolean;
  devices: { name: string; fields: { path: string; a: unknown; b: unknown }[] }[];
  blocks: {
    name: string;
    pages: Record<string, number>;
    ranges: { offset: number; length: number; kind: string }[];
  }[];
}

async function memoryOf(qemu: Qemu): Promise<Buffer> {
  const block = (await readRamBlocks(qemu)).find(({ name }) => name === 'microvm.ram');
  assert.ok(block);
  return block.bytes;
}

async function diff(a: string, b: string, ...args: string[]): Promise<Difference> {
  const ended = await run(['diff', a, b, '--json', ...args]);
  const difference = jsonIn(ended) as unknown as Difference;
  assert.equal(ended.code, difference.same ? 0 : 1, ended.stderr);
  return difference;
}

/** Offsets of the pages of a block that differ. */
function pagesIn({ blocks }: Difference): number[] {
  const ranges = blocks.find(({ name }) => name === 'microvm.ram')?.ranges ?? [];
  return ranges.flatMap(({ offset, length }) =>
    Array.from({ length: length / 4096 }, (_, page) => offset + 4096 * page),
  );
}

for (const [version, skip, options, capabilities] of [
  ['7.2', requireQemu(), {}, {}],
  ['10.0, the second one mapped-ram', requireQemu10(), qemu10(), { 'mapped-ram': true }],
] as const) {
  describe(`two saves of a guest of QEMU ${version}`, { skip }, () => {
    test('differ in the pages that the guest has written to, and in its clocks', async () => {
      await using dir = makeTempDir();
      const [a, b] = [dir.join('a.mig'), dir.join('b.mig')];
      await using qemu = await startQemu({ firmware: firmware(BUSY_GUEST), ...options });
      await qemu.waitGuestReady();
      await qemu.pause();
      await qemu.migrate(`exec:cat >${a}`, { parameters });
      const before = await memoryOf(qemu);
      await qemu.resume();
      await qemu.waitCounterRises();
      await qemu.pause();
      const to = 'mapped-ram' in capabilities ? `file:${b}` : `exec:cat >${b}`;
      await qemu.migrate(to, { parameters, capabilities });
      const after = await memoryOf(qemu);
      assert.deepEqual(memoryProblems(after, BUSY_GUEST), []);

      const difference = await diff(a, b);
      assert.deepEqual(pagesIn(difference), differingPages(before, after));
      assert.ok(pagesIn(difference).length > 0);
      const timer = difference.devices.find(({ name }) => name === 'timer');
      assert.ok(timer?.fields.some(({ path }) => path === 'cpu_clock_offset'));
      const ignored = await diff(a, b, '--ignore', 'timer.*');
      assert.ok(!ignored.devices.some(({ name }) => name === 'timer'));
      assert.deepEqual(await diff(b, b), { same: true, devices: [], blocks: [] });
    });
  });
}

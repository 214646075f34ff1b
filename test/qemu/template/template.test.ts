// Clones of one template: each runs, with memory of its own only where it writes.
import assert from 'node:assert/strict';
import {
  closeSync,
  cpSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { assertSays, jsonIn } from '../../helpers/command/reading-command.ts';
import { memoryProblems } from '../harness/guest.ts';
import { differingPages, requireQemu } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import { readRamBlocks } from '../harness/ram-blocks.ts';
import { BUSY_GUEST, qemu10, UNLIMITED } from '../harness/scenario.ts';
import { privateBytes } from '../harness/smaps.ts';
import { CLONE_MEMORY_MIB, type Made, makeTemplate, startClone, startGolden } from './clones.ts';

const MIB = 2 ** 20;
for (const [version, skip, options] of [
  ['7.2', requireQemu(), {}],
  ['10.0', requireQemu10(), qemu10()],
] as const) {
  describe(`a template of a guest of QEMU ${version}`, { skip }, () => {
    const dir = makeTempDir();
    /** Guest-physical memory, where the firmware covers some pages, and the RAM block. */
    let memory: Buffer;
    let contents: Buffer;
    let made: Made;

    before(async () => {
      await using source = await startGolden(options);
      await source.pause();
      const parameters = { 'max-bandwidth': UNLIMITED };
      await source.migrate(`exec:cat >${dir.join('vm.mig')}`, { parameters });
      memory = await source.readRam();
      const found = (await readRamBlocks(source)).find(({ name }) => name === 'microvm.ram');
      assert.ok(found);
      contents = found.bytes;
      made = await makeTemplate(dir.join('vm.mig'), dir.join('golden'));
    });
    after(() => dir.remove());

    test('has the memory in a sparse file, and the rest in a stream', async () => {
      const [block] = made.blocks;
      assert.deepEqual(
        [made.machine, made.blocks.length, block?.id],
        ['microvm', 1, 'microvm.ram'],
      );
      const path = dir.join('golden/ram/microvm.ram');
      assert.deepEqual(differingPages(readFileSync(path), contents), []);
      const { mode, blocks, size } = statSync(path);
      assert.equal(mode & 0o777, 0o600);
      assert.ok(blocks * 512 < size / 4, 'there are holes');
      assert.equal(statSync(dir.join('golden')).mode & 0o777, 0o700);
      assert.ok(statSync(dir.join('golden/state.mig')).size < 200_000);
      assert.deepEqual(made.arguments, [
        ...[
          '-machine',
          'microvm,memory-backend=microvm.ram',
          '-m',
          `${CLONE_MEMORY_MIB}M`,
          '-object',
        ],
        `memory-backend-file,id=microvm.ram,size=${CLONE_MEMORY_MIB}M,mem-path=${path},share=off,x-use-canonical-path-for-ramblock-id=off`,
      ]);
      const stored = JSON.parse(readFileSync(dir.join('golden/template.json'), 'utf8')) as Made;
      assert.deepEqual(stored.arguments, made.arguments);
      assert.deepEqual(stored.blocks, made.blocks);
    });

    test('starts four clones, each with the memory of the source and little of its own', async () => {
      const clones = await Promise.all(
        ['a', 'b', 'c', 'd'].map((name) => startClone(dir, name, options, made.arguments)),
      );
      try {
        const verified = await Promise.all(
          clones.map(({ qmp }, at) =>
            run([
              ...['restore', '--qmp', qmp, dir.join('golden'), '--json'],
              ...(at === 0 ? ['--verify'] : []),
            ]),
          ),
        );
        for (const [at, { qemu }] of clones.entries()) {
          assert.equal(verified[at]?.code, 0, verified[at]?.stderr);
          assert.deepEqual(jsonIn(verified[at]).warnings, []);
          assert.deepEqual(differingPages(await qemu.readRam(), memory), []);
        }
        for (const { qemu } of clones) {
          await qemu.resume();
          await qemu.waitCounterRises();
          await qemu.pause();
          assert.deepEqual(memoryProblems(await qemu.readRam(), BUSY_GUEST), []);
          const own = privateBytes(qemu.pid, 'golden/ram/microvm.ram');
          assert.ok(own < (BUSY_GUEST.dirtyBytes ?? 0) + 16 * MIB, `${own} bytes`);
          assert.ok(own > 0);
        }
      } finally {
        for (const { qemu } of clones) await qemu.stop();
      }
      assert.deepEqual(
        differingPages(readFileSync(dir.join('golden/ram/microvm.ram')), contents),
        [],
      );
    });

    test('refuses a QEMU that does not map the template copy-on-write, and a template that was changed', async () => {
      const golden = dir.join('golden');
      const copy = dir.join('copy');
      cpSync(golden, copy, { recursive: true });
      const restore = (qmp: string, from: string, ...args: string[]) =>
        run(['restore', '--qmp', qmp, from, ...args]);
      const argumentsWith = (change: (argument: string) => string): string[] =>
        made.arguments.map(change);
      const wrong: [string[], RegExp][] = [
        [[], /is not a memory-backend-file; start the clone with -machine microvm,/],
        [argumentsWith((text) => text.replaceAll('golden/ram', 'copy/ram')), /maps .* instead of/],
        [
          argumentsWith((text) =>
            text.replaceAll('golden/ram', 'copy/ram').replace('share=off', 'share=on'),
          ),
          /maps .* instead of/,
        ],
      ];
      for (const [at, [args, says]] of wrong.entries()) {
        const { qemu, qmp } = await startClone(dir, `wrong-${at}`, options, args);
        await using _clone = qemu;
        assertSays(await restore(qmp, golden), 4, says);
        // Nothing was touched: this QEMU still waits.
        assert.equal(await qemu.status(), 'inmigrate');
        if (at === 2) assertSays(await restore(qmp, copy), 4, /share=on: the clone would write/);
        if (at !== 1) continue;
        const page = Buffer.alloc(4096, 0xee);
        const fd = openSync(`${copy}/ram/microvm.ram`, 'r+');
        writeSync(fd, page, 0, page.length, MIB);
        closeSync(fd);
        assertSays(await restore(qmp, copy, '--verify'), 4, /EBADMSG: .*another SHA-256/);
        truncateSync(`${copy}/ram/microvm.ram`, MIB);
        assertSays(await restore(qmp, copy), 4, /EBADMSG: .*bytes instead of/);
        rmSync(`${copy}/ram/microvm.ram`);
        assertSays(await restore(qmp, copy), 4, /microvm\.ram is missing: make the template again/);
        cpSync(`${golden}/ram`, `${copy}/ram`, { recursive: true });
      }
      const flags: [string[], RegExp][] = [
        [[golden, '--lazy'], /is a template: remove --lazy/],
        [[dir.join('vm.mig'), '--verify'], /--verify is for templates/],
      ];
      for (const [args, says] of flags) {
        assertSays(await run(['restore', '--qmp', dir.join('none'), ...args]), 2, says);
      }
    });
  });
}

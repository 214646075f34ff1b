// A Linux guest that checks its memory, its disk and its devices, restored in every way. CI runs this file on the
// oldest supported Node only: see requireLinux().
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { openFrom } from '../../adapters/index.ts';
import type { SavedGuest } from '../../lib/migration/index.ts';
import { recoverLazily, restoreLazily, restoreTemplate, restoreVm } from '../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { run } from '../helpers/command.ts';
import { jsonIn } from '../helpers/reading-command.ts';
import { differingPages } from './harness.ts';
import { dataBytes, openGuest, QEMUS, watchReads } from './lazy-machine.ts';
import {
  checksOf,
  type LinuxFiles,
  type LinuxMachine,
  makeLinuxFiles,
  PATTERN_MIB,
  requireLinux,
  startLinux,
} from './linux-guest.ts';
import { findQemu10, requireQemu10 } from './qemu10.ts';
import { readRamBlocks } from './ram-blocks.ts';
import { privateBytes } from './smaps.ts';

const MIB = 2 ** 20;

describe('a Linux guest', { skip: requireLinux() || requireQemu10() }, () => {
  let dir: TempDir;
  let files: LinuxFiles;
  /** What the guest printed before it was saved. */
  let printed: string;
  const join = (name: string): string => dir.join(name);

  before(async () => {
    dir = makeTempDir();
    files = makeLinuxFiles(dir);
    // QEMU before 9.0 can lose pages that the guest changes during a save under TCG.
    await using source = await startLinux({ files, qemu: { binary: findQemu10() ?? '' } });
    await source.waitOutput(2);
    // Slow enough for several rounds, in which pages come again.
    const flags = ['--index', '--max-bandwidth', '100MiB'];
    const saved = await run(['save', '--qmp', source.monitor, join('vm.mig'), ...flags]);
    assert.equal(saved.code, 0, saved.stderr);
    printed = source.output();
    const layout = ['--layout', 'mapped-ram'];
    const converted = await run(['convert', join('vm.mig'), join('mapped.mig'), ...layout]);
    assert.equal(converted.code, 0, converted.stderr);
    const extracted = await run(['extract', join('vm.mig'), '--all-blocks', join('blocks')]);
    assert.equal(extracted.code, 0, extracted.stderr);
  });
  after(() => dir.remove());

  /** Assert that the guest goes on where it was saved, without a message of its kernel. */
  async function assertGoesOn(machine: LinuxMachine): Promise<void> {
    const before = checksOf(printed).length;
    const checks = checksOf(await machine.waitOutput(3, printed));
    assert.ok(checks.length > before);
    for (const [at, { count, result }] of checks.entries()) {
      assert.deepEqual([count, result], [at + 1, 'right']);
    }
    // Each value of the hardware's entropy is another one.
    assert.equal(new Set(checks.map(({ random }) => random)).size, checks.length);
  }

  /** Assert that each RAM block is the one in the stream. */
  async function assertWholeMemory(
    { qemu }: LinuxMachine,
    names: readonly string[] | undefined,
  ): Promise<void> {
    const blocks = await readRamBlocks(qemu, names);
    assert.ok(blocks.some(({ name }) => name === 'pc.ram'));
    for (const { name, bytes } of blocks) {
      const escaped = name.replace(/[/:@]/g, (char) => `%${char.charCodeAt(0).toString(16)}`);
      const file = join(`blocks/${escaped}.raw`);
      assert.deepEqual(differingPages(bytes, readFileSync(file)), [], name);
    }
  }

  for (const { version, skip, options: qemu } of QEMUS) {
    describe(`restored to QEMU ${version}`, { skip }, () => {
      const start = (extraArgs: readonly string[] = []): Promise<LinuxMachine> =>
        startLinux({ files, qemu, isIncoming: true, extraArgs });
      /** The blocks that are found in this QEMU's process. */
      const found = version === '7.2' ? ['pc.ram', 'pc.bios'] : undefined;
      let guest: SavedGuest;
      before(async () => {
        guest = await openGuest(join('vm.mig'));
      });
      after(() => guest.close());

      test('eagerly, goes on', async () => {
        await using machine = await start();
        await restoreVm(machine.qmp, await openFrom(join('vm.mig')));
        await assertGoesOn(machine);
      });

      test('lazily from a sequential stream with its index, goes on', async () => {
        await using machine = await start();
        const ended = await run([
          ...['restore', '--lazy', '--qmp', machine.monitor, join('vm.mig'), '--json'],
        ]);
        assert.equal(ended.code, 0, ended.stderr);
        const { resumeMs, completeMs, requests, status } = jsonIn(ended) as Record<string, number>;
        assert.equal(status, 'running');
        assert.ok(Number(resumeMs) < Number(completeMs));
        assert.ok(Number(requests) > 10);
        await assertGoesOn(machine);
      });

      test('lazily from a mapped-ram stream, has its whole memory, and goes on', async () => {
        await using machine = await start();
        const mapped = await openGuest(join('mapped.mig'));
        await restoreLazily(machine.qmp, mapped, { keepPaused: true });
        await mapped.close();
        await assertWholeMemory(machine, found);
        assert.equal(machine.output(), '');
        await machine.qemu.resume();
        await assertGoesOn(machine);
      });

      test('lazily by two sources, one after the death of the other, goes on', async () => {
        await using machine = await start();
        const death = new AbortController();
        const dying = watchReads(guest, (bytes) => {
          if (bytes > dataBytes(guest) / 2) death.abort();
        });
        const maxBandwidth = 64 * MIB;
        const restoring = restoreLazily(machine.qmp, dying, { maxBandwidth, signal: death.signal });
        await assert.rejects(restoring, /--recover/);
        await recoverLazily(machine.qmp, guest);
        await assertGoesOn(machine);
      });

      test('lazily into three QEMUs at once, with each other as load, goes on', async () => {
        await Promise.all(
          [1, 2, 3].map(async () => {
            await using machine = await start();
            await restoreLazily(machine.qmp, guest, { preempt: true });
            await assertGoesOn(machine);
          }),
        );
      });

      test('as three clones of a template, goes on, with memory of its own only where it writes', async () => {
        const directory = join(`golden-${version}`);
        const made = await run(['template', join('vm.mig'), directory, '--json']);
        assert.equal(made.code, 0, made.stderr);
        const { arguments: args } = jsonIn(made) as { arguments: string[] };
        await Promise.all(
          [1, 2, 3].map(async () => {
            await using machine = await start(args);
            await restoreTemplate(machine.qmp, directory, { verify: true, keepPaused: true });
            await assertWholeMemory(machine, found);
            await machine.qemu.resume();
            await assertGoesOn(machine);
            await machine.qemu.pause();
            const [ram] = await readRamBlocks(machine.qemu, ['pc.ram']);
            assert.ok(ram);
            const file = `${directory}/ram/pc.ram`;
            const written = 4096 * differingPages(ram.bytes, readFileSync(file)).length;
            const own = privateBytes(machine.qemu.pid, file);
            assert.ok(own > 0 && own <= written + 16 * MIB, `${own} bytes, ${written} written`);
            assert.ok(own < PATTERN_MIB * MIB, 'the pattern is shared');
          }),
        );
      });
    });
  }
});

// A Linux guest that checks its memory, its disk and its devices, restored in every way. CI runs this file on the
// oldest supported Node only: see requireLinux().
import assert from 'node:assert/strict';
import fs, { readFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { after, before, describe, test } from 'node:test';
import { openFrom } from '../../../adapters/index.ts';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { recoverLazily, restoreLazily, restoreTemplate, restoreVm } from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { jsonIn } from '../../helpers/command/reading-command.ts';
import { differingPages } from '../harness/harness.ts';
import {
  checksOf,
  type LinuxFiles,
  type LinuxMachine,
  makeLinuxFiles,
  PATTERN_MIB,
  requireLinux,
  startLinux,
} from '../harness/linux-guest.ts';
import { findQemu10, requireQemu10 } from '../harness/qemu10.ts';
import { readRamBlocks } from '../harness/ram-blocks.ts';
import { allPrivateBytes, privateBytes } from '../harness/smaps.ts';
import { dataBytes, openGuest, QEMUS, watchReads } from '../lazy/machine.ts';

const MIB = 2 ** 20;

describe('a Linux guest', { skip: requireLinux() || requireQemu10() }, () => {
  let dir: TempDir;
  let files: LinuxFiles;
  /** What the guest printed before it was saved. */
  let printed: string;
  let printedByLarge: string;
  const join = (name: string): string => dir.join(name);

  before(async () => {
    dir = makeTempDir();
    files = makeLinuxFiles(dir);
    printed = await save('vm.mig', 256);
    printedByLarge = await save('large.mig', 4096);
    const layout = ['--layout', 'mapped-ram'];
    const converted = await run(['convert', join('vm.mig'), join('mapped.mig'), ...layout]);
    assert.equal(converted.code, 0, converted.stderr);
    const extracted = await run(['extract', join('vm.mig'), '--all-blocks', join('blocks')]);
    assert.equal(extracted.code, 0, extracted.stderr);
  });
  after(() => dir.remove());

  /** Save a guest while it runs; return what it has printed. */
  async function save(name: string, memoryMiB: number): Promise<string> {
    // QEMU before 9.0 can lose pages that the guest changes during a save under TCG.
    const qemu = { binary: findQemu10() ?? '', memoryMiB };
    await using source = await startLinux({ files, qemu });
    await source.waitOutput(2);
    // Slow enough for several rounds, in which pages come again.
    const flags = ['--index', '--max-bandwidth', '100MiB'];
    const saved = await run(['save', '--qmp', source.monitor, join(name), ...flags]);
    assert.equal(saved.code, 0, saved.stderr);
    return source.output();
  }

  /** Assert that the guest goes on where it was saved, without a message of its kernel. */
  async function assertGoesOn(machine: LinuxMachine, printedBefore = printed): Promise<void> {
    const before = checksOf(printedBefore).length;
    const checks = checksOf(await machine.waitOutput(3, printedBefore));
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
    describe(`restored to QEMU ${version}`, { skip, timeout: 300_000 }, () => {
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

      test('lazily from a disk that fails, waits until it is read again, and goes on', async (t) => {
        await using machine = await start();
        const broken = await openGuest(join('vm.mig'));
        let isBroken = false;
        const realRead = fs.read as (...args: unknown[]) => void;
        t.mock.method(fs, 'read', ((...args: unknown[]) => {
          if (!isBroken) return realRead(...args);
          const error = Object.assign(new Error('EIO: i/o error, read'), {
            code: 'EIO',
            errno: -5,
          });
          setImmediate(args.at(-1) as (error: Error) => void, error);
        }) as typeof fs.read);
        // Modules that import it by its name see it as well.
        syncBuiltinESMExports();
        const failing = watchReads(broken, (bytes) => {
          isBroken ||= bytes > dataBytes(broken) / 2;
        });
        await assert.rejects(restoreLazily(machine.qmp, failing, { maxBandwidth: 64 * MIB }), {
          code: 'EIO',
          message: /the pages from 0x\w+ of ".* cannot be read: .*--recover/,
        });
        t.mock.restoreAll();
        syncBuiltinESMExports();
        await broken.close();
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

      test('lazily with 4 GiB, goes on', async () => {
        await using machine = await startLinux({
          files,
          qemu: { ...qemu, memoryMiB: 4096 },
          isIncoming: true,
        });
        const large = await openGuest(join('large.mig'));
        await restoreLazily(machine.qmp, large);
        await large.close();
        await assertGoesOn(machine, printedByLarge);
      });

      test('as three clones of a template, goes on, with memory of its own only where it writes', async () => {
        const directory = join(`golden-${version}`);
        const made = await run(['template', join('vm.mig'), directory, '--json']);
        assert.equal(made.code, 0, made.stderr);
        const { arguments: args } = jsonIn(made) as { arguments: string[] };
        await using eager = await start();
        await restoreVm(eager.qmp, await openFrom(join('vm.mig')));
        await assertGoesOn(eager);
        await eager.qemu.pause();
        const all = allPrivateBytes(eager.qemu.pid);
        await Promise.all(
          [1, 2, 3].map(async (number) => {
            await using machine = await start(args);
            await restoreTemplate(machine.qmp, directory, {
              verify: number === 1,
              keepPaused: true,
            });
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
            // All of QEMU has less by what is shared, in which the pattern is.
            const saved = all - allPrivateBytes(machine.qemu.pid);
            assert.ok(saved >= dataBytes(guest) - written - 16 * MIB, `${saved} bytes`);
            assert.ok(saved >= PATTERN_MIB * MIB, `${saved} bytes`);
          }),
        );
      });
    });
  }
});

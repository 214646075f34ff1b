// Clones of one template when something dies or changes under them, and templates of other sources.
import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, truncateSync, writeSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import { assertSays } from '../../helpers/command/reading-command.ts';
import { until } from '../../helpers/until.ts';
import {
  bootSector,
  firmware,
  GUEST,
  type GuestProgram,
  memoryProblems,
} from '../harness/guest.ts';
import { differingPages, requireQemu, startQemu } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import { endCommand, qemu10, UNLIMITED } from '../harness/scenario.ts';
import { privateBytes } from '../harness/smaps.ts';
import {
  assertCloneSound,
  type Clone,
  type Made,
  makeTemplate,
  startClone,
  startGolden,
} from './clones.ts';

const parameters = { 'max-bandwidth': UNLIMITED };

for (const [version, skip, options] of [
  ['7.2', requireQemu(), {}],
  ['10.0', requireQemu10(), qemu10()],
] as const) {
  describe(`clones with QEMU ${version}`, { skip, timeout: 300_000 }, () => {
    const dir = makeTempDir();
    let made: Made;
    const golden = (): string => dir.join('golden');
    const memoryFile = (): string => dir.join('golden/ram/microvm.ram');
    const restore = async ({ qmp }: Clone, ...flags: string[]): Promise<void> => {
      const { code, stderr } = await run(['restore', '--qmp', qmp, golden(), ...flags]);
      assert.equal(code, 0, stderr);
    };
    /** Starts clones that have their state, but do not run. */
    const clones = (...names: string[]): Promise<Clone[]> =>
      Promise.all(
        names.map(async (name) => {
          const clone = await startClone(dir, name, options, made.arguments);
          await restore(clone);
          return clone;
        }),
      );

    before(async () => {
      await using source = await startGolden(options);
      await source.migrate(`exec:cat >${dir.join('vm.mig')}`, { parameters });
      made = await makeTemplate(dir.join('vm.mig'), golden());
    });
    after(() => dir.remove());

    test('go on when one of four is killed, and it starts again', async () => {
      const contents = readFileSync(memoryFile());
      const [killed, ...others] = await clones('a', 'b', 'c', 'd');
      assert.ok(killed);
      try {
        await Promise.all(others.map(({ qemu }) => qemu.resume()));
        await killed.qemu.resume();
        await killed.qemu.waitCounterRises();
        process.kill(killed.qemu.pid, 'SIGKILL');
        for (const clone of others) await assertCloneSound(clone);
        const [again] = await clones('again');
        assert.ok(again);
        others.push(again);
        await assertCloneSound(again);
        // Each counts for itself.
        const counters = () => Promise.all(others.map(({ qemu }) => qemu.counter()));
        const [, ...before] = await counters();
        await others[0]?.qemu.resume();
        await others[0]?.qemu.waitCounterRises();
        const [, ...after] = await counters();
        assert.deepEqual(after, before);
        assert.deepEqual(differingPages(readFileSync(memoryFile()), contents), []);
      } finally {
        for (const { qemu } of [killed, ...others]) await qemu.stop();
      }
    });

    test('go on when the command that gives one its state is killed', async () => {
      const others = await clones('e', 'f', 'g');
      const clone = await startClone(dir, 'h', options, made.arguments);
      try {
        const command = new Command(['restore', '--qmp', clone.qmp, golden()]);
        await until(() => clone.qemu.qmp.events.length > 0 || command.child.exitCode !== null, {
          what: 'QEMU to load',
        });
        await endCommand(command);
        // Either QEMU had all of it, or it ends or waits without a guest.
        const hasGuest = await clone.qemu.waitStatus(['paused'], 3000).then(
          () => true,
          () => false,
        );
        if (hasGuest) await assertCloneSound(clone);
        else assert.notEqual(await clone.qemu.status().catch(() => 'gone'), 'running');
        for (const other of others) await assertCloneSound(other);
        const [next] = await clones('i');
        assert.ok(next);
        others.push(next);
        await assertCloneSound(next);
      } finally {
        for (const { qemu } of [clone, ...others]) await qemu.stop();
      }
    });

    test('end rather than go on with memory that is gone, when the file is cut off', async () => {
      const copy = dir.join('cut');
      const cut = await makeTemplate(dir.join('vm.mig'), copy);
      const four = await Promise.all(
        ['j', 'k', 'l', 'm'].map(async (name) => {
          const clone = await startClone(dir, name, options, cut.arguments);
          const { code, stderr } = await run(['restore', '--qmp', clone.qmp, copy]);
          assert.equal(code, 0, stderr);
          return clone;
        }),
      );
      try {
        truncateSync(`${copy}/ram/microvm.ram`, 4096);
        // A clone that is not there yet is refused.
        const late = await startClone(dir, 'late', options, made.arguments);
        await using _late = late.qemu;
        assertSays(await run(['restore', '--qmp', late.qmp, copy]), 4, /bytes instead of/);
        for (const { qemu } of four) {
          await assert.rejects(
            qemu.resume().then(() => qemu.waitCounterRises()),
            /was ended by SIGBUS/,
          );
          assert.throws(() => process.kill(qemu.pid, 0), { code: 'ESRCH' });
        }
      } finally {
        for (const { qemu } of four) await qemu.stop();
      }
    });

    test('of a file that was changed under them are found out by --verify', async () => {
      const changed = dir.join('changed');
      const { arguments: args } = await makeTemplate(dir.join('vm.mig'), changed);
      const fd = openSync(`${changed}/ram/microvm.ram`, 'r+');
      writeSync(fd, Buffer.of(0xee), 0, 1, GUEST.pattern + 2 * 2 ** 20);
      closeSync(fd);
      const clone = await startClone(dir, 'n', options, args);
      await using _qemu = clone.qemu;
      const refused = await run(['restore', '--qmp', clone.qmp, changed, '--verify']);
      assertSays(refused, 4, /microvm\.ram was changed .*another SHA-256.*make the template again/);
      assert.equal(await clone.qemu.status(), 'inmigrate');
    });

    test('of a template of a live guest run', async () => {
      const live = dir.join('live');
      await using source = await startGolden(options);
      const socket = `unix:${dir.join('live.sock')}`;
      const command = new Command(['template', socket, live, '--json']);
      await command.listening();
      await source.migrate(socket, { parameters });
      const { code, stdout, stderr } = await command.ended();
      assert.equal(code, 0, stderr);
      const { arguments: args } = JSON.parse(stdout.toString()) as Made;
      const clone = await startClone(dir, 'o', options, args);
      await using _qemu = clone.qemu;
      const restored = await run(['restore', '--qmp', clone.qmp, live, '--verify']);
      assert.equal(restored.code, 0, restored.stderr);
      assert.deepEqual(differingPages(await clone.qemu.readRam(), await source.readRam()), []);
      await assertCloneSound(clone);
    });

    test('of a template of a live guest whose QEMU is killed do not exist', async () => {
      await using source = await startGolden(options);
      const socket = `unix:${dir.join('dying.sock')}`;
      const command = new Command(['template', socket, dir.join('dying')]);
      await command.listening();
      await source.startMigration(socket, { parameters: { 'max-bandwidth': 2 ** 20 } });
      await until(async () => ((await source.migrationInfo()).ram?.transferred ?? 0) > 2 ** 17, {
        what: 'some of the memory to be sent',
      });
      process.kill(source.pid, 'SIGKILL');
      const ended = await command.ended();
      assert.ok(ended.code === 1 || ended.code === 4, ended.stderr);
      assertSays(ended, ended.code, /ECONNRESET|EPIPE|EBADMSG|ends/);
      assert.throws(() => readFileSync(dir.join('dying/template.json')), { code: 'ENOENT' });
    });

    test('of a template of a snapshot in a store run', async () => {
      const store = `store:${dir.join('store')}`;
      const monitor = dir.join('stored.qmp');
      await using source = await startGolden({
        ...options,
        extraArgs: ['-qmp', `unix:${monitor},server=on,wait=off`],
      });
      const saved = await run(['save', '--qmp', monitor, `${store}#golden`]);
      assert.equal(saved.code, 0, saved.stderr);
      const stored = dir.join('stored');
      const { arguments: args } = await makeTemplate(`${store}#golden`, stored);
      const clone = await startClone(dir, 'p', options, args);
      await using _qemu = clone.qemu;
      const restored = await run(['restore', '--qmp', clone.qmp, stored, '--verify']);
      assert.equal(restored.code, 0, restored.stderr);
      assert.deepEqual(differingPages(await clone.qemu.readRam(), await source.readRam()), []);
      await assertCloneSound(clone);
    });

    test('of a guest that writes everywhere have pages of their own, and leave the template as it was', async () => {
      const program = { patternBytes: 2 << 20, dirtyBytes: 2 << 20, dirtyPagesPerTick: 512 };
      const image = { ...options, firmware: firmware(program) };
      const stream = dir.join('busy.mig');
      {
        await using source = await startGolden(image);
        await source.migrate(`exec:cat >${stream}`, { parameters });
      }
      const busy = dir.join('busy');
      const file = `${busy}/ram/microvm.ram`;
      const { arguments: args } = await makeTemplate(stream, busy);
      const contents = readFileSync(file);
      await Promise.all(
        ['e', 'f', 'g', 'h'].map(async (name) => {
          const { qemu, qmp } = await startClone(dir, name, image, args);
          await using _qemu = qemu;
          const { code, stderr } = await run(['restore', '--qmp', qmp, busy]);
          assert.equal(code, 0, stderr);
          await qemu.resume();
          await qemu.waitCounterRises();
          await qemu.pause();
          assert.deepEqual(memoryProblems(await qemu.readRam(), program), []);
          assert.ok(privateBytes(qemu.pid, file) >= program.dirtyBytes);
        }),
      );
      assert.deepEqual(differingPages(readFileSync(file), contents), []);
    });

    test('of a guest with two NUMA nodes run', async () => {
      // The pattern ends in the second node.
      const program: GuestProgram = { patternBytes: 20 << 20, dirtyBytes: 1 << 20 };
      const nodes = [0, 1].flatMap((node) => [
        ...['-object', `memory-backend-ram,id=node${node},size=16M`],
        ...['-numa', `node,nodeid=${node},memdev=node${node}`],
      ]);
      const machine = { ...options, machine: 'pc', memoryMiB: 32, bootSector: bootSector(program) };
      await using source = await startQemu({ ...machine, extraArgs: nodes });
      await source.waitGuestReady();
      const stream = dir.join('numa.mig');
      await source.migrate(`exec:cat >${stream}`, { parameters });
      const numa = dir.join('numa');
      const { blocks, arguments: args } = await makeTemplate(stream, numa);
      assert.deepEqual(
        blocks.map(({ id, bytes }) => [id, bytes]),
        [
          ['node0', 16 << 20],
          ['node1', 16 << 20],
        ],
      );
      const qmp = dir.join('numa.qmp');
      await using qemu = await startQemu({
        ...machine,
        incoming: 'defer',
        startStopped: true,
        extraArgs: ['-qmp', `unix:${qmp},server=on,wait=off`, ...args],
      });
      const restored = await run(['restore', '--qmp', qmp, numa, '--verify']);
      assert.equal(restored.code, 0, restored.stderr);
      assert.deepEqual(differingPages(await qemu.readRam(), await source.readRam()), []);
      await qemu.resume();
      await qemu.waitCounterRises();
      await qemu.pause();
      assert.deepEqual(memoryProblems(await qemu.readRam(), program), []);
    });
  });
}

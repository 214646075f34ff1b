// Streams that a real QEMU writes, read while they come and afterwards.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { openFrom, openTo } from '../../../adapters/index.ts';
import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';
import { RamImage } from '../../../lib/migration/memory/ram-image.ts';
import { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import type { StreamSummary } from '../../../lib/migration/verify/summary.ts';
import { relay } from '../../../lib/relay/relay.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import { has } from '../../helpers/command/reading-command.ts';
import { until } from '../../helpers/until.ts';
import { xxh64 } from '../../helpers/xxh64.ts';
import { firmware, type GuestProgram, memoryProblems } from '../harness/guest.ts';
import {
  differingPages,
  type Qemu,
  type QemuOptions,
  requireQemu,
  startQemu,
} from '../harness/harness.ts';
import { readRamBlocks } from '../harness/ram-blocks.ts';

const skip = requireQemu();
const program: GuestProgram = { patternBytes: 1 << 20, dirtyBytes: 64 << 12 };
const guest: QemuOptions = { memoryMiB: 8, firmware: firmware(program) };
/** Slow enough for several rounds, as long as the guest writes. */
const rounds = { parameters: { 'max-bandwidth': 8 << 20, 'downtime-limit': 10 } };

function summaryIn(stdout: Buffer): StreamSummary {
  return JSON.parse(stdout.toString()) as StreamSummary;
}

async function inspect(...args: string[]): Promise<StreamSummary> {
  const { code, stdout, stderr } = await run(['inspect', '--json', '--quiet', ...args]);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '');
  return summaryIn(stdout);
}

/** Saves a guest into a file, and leaves it stopped. */
async function save(source: Qemu, path: string): Promise<void> {
  await source.waitGuestReady();
  await source.migrate(`exec:cat > ${path}`, rounds);
}

async function assertVerified(...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await run(['verify', ...args]);
  assert.equal(code, 0, stderr);
  assert.match(stdout.toString(), /: ok: /);
}

describe('a live save', { skip }, () => {
  test('is inspected as it arrives, with the same result as afterwards from a file', async () => {
    await using dir = makeTempDir();
    await using source = await startQemu(guest);
    await source.waitGuestReady();
    const [first, second] = [`unix:${dir.join('first')}`, `unix:${dir.join('second')}`];
    const command = new Command(['inspect', second, '--json', '--digest']);
    await command.listening();
    const from = await openFrom(first, {
      onListening: () => void source.startMigration(first, rounds),
    });
    const tee = await openTo(dir.join('copy.mig'));
    const { complete, forward } = await relay(from, await openTo(second), { tee });
    assert.ok(complete);
    const { code, stdout, stderr } = await command.ended();
    assert.equal(code, 0, stderr);
    const live = summaryIn(stdout);
    assert.deepEqual(await inspect(dir.join('copy.mig'), '--digest'), live);

    assert.equal((await source.waitMigrationEnd()).status, 'completed');
    assert.equal(live.format.bytes + live.format.trailingBytes, forward.bytes);
    assert.equal(live.configuration?.machine, 'microvm');
    const { ram } = await source.migrationInfo();
    assert.ok(ram !== undefined && ram['dirty-sync-count'] > 2, 'more than one round');
    const total = { zero: 0, normal: 0 };
    for (const { pages } of live.ram?.blocks ?? []) {
      total.zero += pages.zero;
      total.normal += pages.normal;
    }
    assert.deepEqual(total, { zero: ram.duplicate, normal: ram.normal });
    assert.deepEqual(
      Object.fromEntries(live.ram?.blocks.map((block) => [block.name, block.xxh64]) ?? []),
      Object.fromEntries(
        (await readRamBlocks(source)).map((block) => [block.name, xxh64(block.bytes)]),
      ),
    );
    await assertVerified(dir.join('copy.mig'));
  });

  test('that waits for an answer ends for us, and its guest is not lost', async () => {
    await using dir = makeTempDir();
    await using source = await startQemu(guest);
    await source.waitGuestReady();
    const command = new Command(['inspect', `unix:${dir.join('s')}`, '--json']);
    await command.listening();
    const returnPath = { ...rounds, capabilities: { 'return-path': true } };
    await source.startMigration(`unix:${dir.join('s')}`, returnPath);
    const { code, stdout, stderr } = await command.ended();
    assert.equal(code, 0, stderr);
    const { commands, vmDescription } = summaryIn(stdout);
    assert.equal(commands[0]?.name, 'OPEN_RETURN_PATH');
    assert.ok(vmDescription);
    const { status } = await source.waitMigrationEnd();
    if (status === 'completed') await source.resume();
    await source.waitRunning();
    await source.waitCounterRises();
  });

  test('that is cancelled at its source leaves no file under its name', async () => {
    await using dir = makeTempDir();
    await using source = await startQemu(guest);
    await source.waitGuestReady();
    fs.mkdirSync(dir.join('to'));
    const file = dir.join('to/vm.mig');
    const command = new Command(['relay', `unix:${dir.join('s')}`, file]);
    await command.listening();
    const slow = { parameters: { 'max-bandwidth': 1 << 20 } };
    await source.startMigration(`unix:${dir.join('s')}`, slow);
    await until(async () => ((await source.migrationInfo()).ram?.transferred ?? 0) > 300_000, {
      what: 'a part of the RAM to be sent',
    });
    await source.qmp.execute('migrate_cancel');
    const { code, stderr } = await command.ended();
    assert.equal(code, 3, stderr);
    const [partial, ...others] = fs.readdirSync(dir.join('to'));
    assert.match(partial ?? '', /^\.vm\.mig\..*\.qemu-file-partial$/);
    assert.deepEqual(others, []);
    assert.ok(
      stderr.includes(`the part that arrived is in ${fs.realpathSync(dir.path)}/to/${partial}`),
      stderr,
    );
    assert.ok(fs.statSync(`${dir.path}/to/${partial}`).size > 0);
    assert.equal((await source.waitMigrationEnd()).status, 'cancelled');
    await source.waitRunning();
    await source.waitCounterRises();
  });
});

/** Takes connections until there are as many as wanted. */
async function accept(path: string, count: number, begin: () => Promise<void>) {
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true });
  const sockets: net.Socket[] = [];
  server.on('connection', (socket) => sockets.push(socket));
  await once(server.listen(path), 'listening');
  await begin();
  await until(() => sockets.length === count, { what: `${count} connections` });
  server.close();
  return sockets;
}

describe('a multifd migration', { skip }, () => {
  for (const compression of ['none', 'zlib']) {
    test(`is read from its live sockets, with compression ${compression}`, async () => {
      await using dir = makeTempDir();
      await using source = await startQemu(guest);
      await source.waitGuestReady();
      const settings = {
        capabilities: { multifd: true },
        parameters: {
          ...rounds.parameters,
          'multifd-channels': 2,
          'multifd-compression': compression,
        },
      };
      const path = dir.join('s');
      const sockets = await accept(path, 3, () => source.startMigration(`unix:${path}`, settings));
      const [main, ...channels] = sockets;
      assert.ok(main !== undefined);
      const image = new RamImage({ store: () => new MemoryPageStore() });
      const reader = new MigrationReader(main, { pages: image, channels });
      let devices = 0;
      for await (const event of reader) if (event.type === 'device') devices += 1;
      for (const socket of sockets) socket.destroy();
      assert.equal((await source.waitMigrationEnd()).status, 'completed');
      assert.ok(devices > 5, `${devices} devices`);
      for (const { name, bytes } of await readRamBlocks(source)) {
        const block = reader.ram.blocks.find((listed) => listed.name === name);
        assert.ok(block !== undefined, name);
        const ram = Buffer.alloc(block.usedLength);
        image.read(block, 0, ram);
        assert.deepEqual(differingPages(bytes, ram), [], name);
        if (name === 'microvm.ram') assert.deepEqual(memoryProblems(ram, program), []);
      }
      const sent = reader.ram.total();
      assert.ok(sent.multifd > 256 && sent.normal === 0, JSON.stringify(sent));
    });
  }
});

async function savedPc(dir: TempDir, machine: string): Promise<string> {
  await using source = await startQemu({ ...guest, machine });
  await save(source, dir.join('vm.mig'));
  return dir.join('vm.mig');
}

describe('a saved PC', { skip }, () => {
  test('as an ELF core shows a debugger the memory of the guest', async (t) => {
    if (!has('gdb')) return t.skip('gdb is not installed');
    await using dir = makeTempDir();
    const saved = await savedPc(dir, 'pc,acpi=off');
    await assertVerified(saved);
    const core = dir.join('vm.core');
    const { code, stderr } = await run(['extract', saved, '--elf', core]);
    assert.equal(code, 0, stderr);
    const size = 0xa0000;
    const low = dir.join('low');
    const high = dir.join('high');
    const dump = (path: string, from: number, to: number) => [
      '-ex',
      `dump binary memory ${path} ${from} ${to}`,
    ];
    const end = 0x100000 + (1 << 20);
    const commands = [...dump(low, 0, size), ...dump(high, 0x100000, end)];
    execFileSync('gdb', ['-nx', '-batch', '-core', core, ...commands], { stdio: 'pipe' });
    const memory = Buffer.alloc(end);
    memory.set(fs.readFileSync(low));
    memory.set(fs.readFileSync(high), 0x100000);
    assert.deepEqual(memoryProblems(memory, program), []);
  });

  test('without a description is read by the footers, and verified with the option for it', async () => {
    await using dir = makeTempDir();
    await using other = makeTempDir();
    const saved = await savedPc(dir, 'pc,acpi=off,suppress-vmdesc=on');
    const described = await inspect(await savedPc(other, 'pc,acpi=off'));
    const summary = await inspect(saved);
    assert.equal(summary.vmDescription, false);
    assert.match(summary.warnings.join('\n'), /looking for footers/);
    const ids = ({ sections }: StreamSummary) =>
      sections
        .filter(({ kind }) => kind === 'full')
        .map(({ name, instanceId, versionId }) => ({ name, instanceId, versionId }));
    assert.deepEqual(ids(summary), ids(described));
    assert.deepEqual(Object.keys(summary.devices), Object.keys(described.devices));

    const { code, stdout, stderr } = await run(['verify', saved]);
    assert.equal(code, 1);
    assert.equal(stdout.length, 0);
    assert.match(stderr, /VM description is missing.*suppress-vmdesc=on/);
    await assertVerified(saved, '--no-description');
  });
});

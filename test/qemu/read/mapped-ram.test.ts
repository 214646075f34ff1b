// Mapped-ram: each page has its place in the file, whatever the order in which it was saved.
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { runWell } from '../../helpers/command/command.ts';
import { firmware, memoryProblems } from '../harness/guest.ts';
import { differingPages, startQemu } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import { readRamBlocks } from '../harness/ram-blocks.ts';
import { BUSY_GUEST, qemu10, UNLIMITED } from '../harness/scenario.ts';

const mapped = { capabilities: { 'mapped-ram': true } };
const guest = { firmware: firmware(BUSY_GUEST), ...qemu10() };

describe('a mapped-ram file of a busy guest (QEMU 10.0)', { skip: requireQemu10() }, () => {
  test('is understood by every command, and a copy of it is restored', async () => {
    await using dir = makeTempDir();
    const [saved, copy, raw] = [dir.join('saved'), dir.join('copy'), dir.join('ram.raw')];
    await using source = await startQemu(guest);
    await source.waitGuestReady();
    // So many rounds that pages are written over.
    await source.migrate(`file:${saved}`, {
      ...mapped,
      parameters: { 'max-bandwidth': 24 << 20, 'downtime-limit': 20 },
    });
    const ram = await source.readRam();

    assert.match((await runWell('verify', saved)).toString(), /: ok: microvm, /);
    const summary = JSON.parse((await runWell('inspect', saved, '--json')).toString()) as {
      configuration: { capabilities: string[] };
    };
    assert.deepEqual(summary.configuration.capabilities, ['mapped-ram']);
    await runWell('extract', saved, '--block', 'microvm.ram', '--raw', raw);
    // Not by guest-physical addresses, some of which lead to the firmware.
    const block = (await readRamBlocks(source)).find(({ name }) => name === 'microvm.ram');
    assert.ok(block);
    assert.deepEqual(differingPages(await readFile(raw), block.bytes), []);

    await runWell('relay', saved, copy);
    assert.equal(statSync(copy).mode & 0o777, 0o600);
    assert.ok((await readFile(copy)).equals(await readFile(saved)), 'the copy is the same');
    await using destination = await startQemu({ ...guest, startStopped: true, incoming: 'defer' });
    await destination.migrateIncoming(`file:${copy}`, mapped);
    await destination.waitIncomingEnd();
    const restored = await destination.readRam();
    assert.deepEqual(differingPages(restored, ram), []);
    assert.deepEqual(memoryProblems(restored, BUSY_GUEST), []);
    await destination.resume();
    await destination.waitCounterRises();
  });

  test('can be moved to another offset of its file, and is restored from there', async () => {
    await using dir = makeTempDir();
    await using source = await startQemu(guest);
    await source.waitGuestReady();
    const saved = `file:${dir.join('saved')},offset=65536`;
    await source.migrate(saved, { ...mapped, parameters: { 'max-bandwidth': UNLIMITED } });
    const ram = await source.readRam();
    for (const copy of [`file:${dir.join('copy')},offset=1536000`, `file:${dir.join('whole')}`]) {
      await runWell('relay', saved, copy);
      assert.match((await runWell('verify', copy)).toString(), /: ok: microvm, /);
      await using destination = await startQemu({
        ...guest,
        startStopped: true,
        incoming: 'defer',
      });
      await destination.migrateIncoming(copy, mapped);
      await destination.waitIncomingEnd();
      assert.deepEqual(differingPages(await destination.readRam(), ram), []);
    }
  });

  test('cannot go over a socket, and the guest runs on', async () => {
    await using dir = makeTempDir();
    await using source = await startQemu(guest);
    await source.waitGuestReady();
    await assert.rejects(
      source.migrate(`unix:${dir.join('socket')}`, {
        ...mapped,
        parameters: { 'max-bandwidth': UNLIMITED },
      }),
      /Migration requires seekable transport/,
    );
    await source.waitCounterRises();
  });
});

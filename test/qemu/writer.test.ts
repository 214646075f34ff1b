// Streams that we write: each QEMU loads them, and the guest's memory is unchanged.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { openTo } from '../../adapters/index.ts';
import { MigrationWriter } from '../../lib/migration/writer/migration-writer.ts';
import { writerOptionsOf, writeSavedGuest } from '../../lib/migration/writer/write-saved-guest.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { savedGuestOf } from '../helpers/saved-guest.ts';
import { firmware, memoryProblems } from './guest.ts';
import { differingPages, type QemuOptions, requireQemu, startQemu } from './harness.ts';
import { requireQemu10 } from './qemu10.ts';
import { BUSY_GUEST, qemu10, UNLIMITED } from './scenario.ts';

for (const [version, skip, options] of [
  ['7.2', requireQemu(), (): QemuOptions => ({})],
  ['10.0', requireQemu10(), qemu10],
] as const) {
  describe(`a stream of one round that QEMU ${version} loads`, { skip }, () => {
    test('is written from a saved guest, by writeSavedGuest', async () => {
      await using dir = makeTempDir();
      const [saved, compact] = [dir.join('saved'), dir.join('compact')];
      const guest = { firmware: firmware(BUSY_GUEST), ...options() };
      await using source = await startQemu(guest);
      await source.waitGuestReady();
      await source.migrate(`exec:cat > ${saved}`, { parameters: { 'max-bandwidth': UNLIMITED } });
      const ram = await source.readRam();
      const savedGuest = await savedGuestOf(await readFile(saved));
      const file = await openTo({ scheme: 'file', path: compact, offset: 0 });
      await writeSavedGuest(savedGuest, new MigrationWriter(file, writerOptionsOf(savedGuest)));
      await file.close();

      const incoming = `exec:cat ${compact}`;
      await using destination = await startQemu({ ...guest, startStopped: true, incoming });
      await destination.waitIncomingEnd();
      const restored = await destination.readRam();
      assert.deepEqual(differingPages(restored, ram), []);
      assert.deepEqual(memoryProblems(restored, BUSY_GUEST), []);
      await destination.resume();
      await destination.waitCounterRises();
    });
  });
}

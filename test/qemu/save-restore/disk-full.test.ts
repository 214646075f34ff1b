// A disk that becomes full while a live guest is saved to it.
import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import { assertSays } from '../../helpers/command/reading-command.ts';
import { mountSmallDisk, requireSmallDisk } from '../../helpers/storage/small-disk.ts';
import { firmware } from '../harness/guest.ts';
import { requireQemu, startQemu } from '../harness/harness.ts';

const guest = { firmware: firmware({ patternBytes: 8 << 20, dirtyBytes: 1 << 20 }) };
const unlimited = { parameters: { 'max-bandwidth': 2 ** 40 } };

describe('a full disk', { skip: requireQemu() || requireSmallDisk() }, () => {
  test('fails the migration of a guest, which runs on and can be saved elsewhere', async () => {
    await using dir = makeTempDir();
    await using disk = mountSmallDisk({ bytes: 2 << 20 });
    await using source = await startQemu(guest);
    await source.waitGuestReady();

    const uri = `unix:${dir.join('s')}`;
    const failing = new Command(['relay', uri, disk.join('vm.mig')]);
    await failing.listening();
    await source.startMigration(uri, unlimited);
    assertSays(
      await failing.ended(),
      4,
      /"to" \(\S+vm\.mig\) failed after .*: ENOSPC: .*at byte \d+; free some space or choose another place/,
    );
    assert.equal((await source.waitMigrationEnd()).status, 'failed');
    await source.waitRunning();
    await source.waitCounterRises();
    assert.deepEqual(readdirSync(disk.path), []);

    const saving = new Command(['relay', uri, dir.join('vm.mig')]);
    await saving.listening();
    await source.startMigration(uri, unlimited);
    assertSays(await saving.ended(), 0, /relayed/);
    assert.equal((await source.waitMigrationEnd()).status, 'completed');
    assert.ok(statSync(dir.join('vm.mig')).size > 8 << 20);
    const verified = await run(['verify', dir.join('vm.mig')]);
    assertSays(verified, 0);
    assert.match(verified.stdout.toString(), /ok: microvm/);
  });
});

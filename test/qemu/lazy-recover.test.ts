// Lazy restores whose source dies, and is replaced.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { QemuFileError } from '../../lib/index.ts';
import type { SavedGuest } from '../../lib/migration/index.ts';
import { recoverLazily, restoreLazily } from '../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import {
  assertSound,
  dataBytes,
  machine,
  openGuest,
  QEMUS,
  saveGuest,
  watchReads,
} from './lazy-machine.ts';

for (const { version, skip, options } of QEMUS) {
  describe(`a lazy restore to QEMU ${version} whose source dies`, { skip }, () => {
    let dir: TempDir;
    let guest: SavedGuest;
    before(async () => {
      dir = makeTempDir();
      await saveGuest(dir.join('running.mig'), options);
      guest = await openGuest(dir.join('running.mig'));
    });
    after(async () => {
      await guest.close();
      dir.remove();
    });

    for (let tenth = 1; tenth < 10; tenth++) {
      test(`after ${tenth} tenths of the memory goes on with another source`, async () => {
        await using restored = await machine({ ...options, incoming: 'defer' });
        const death = new AbortController();
        const limit = (dataBytes(guest) * tenth) / 10;
        const dying = watchReads(guest, (bytes) => {
          if (bytes > limit) death.abort();
        });
        await assert.rejects(
          restoreLazily(restored.qmp, dying, { signal: death.signal }),
          (error) => {
            assert.ok(error instanceof QemuFileError);
            assert.equal(error.code, 'ECANCELED');
            assert.match(error.message, /--recover/);
            return true;
          },
        );
        let read = 0;
        const result = await recoverLazily(
          restored.qmp,
          watchReads(guest, (bytes) => {
            read = bytes;
          }),
        );
        assert.equal(result.status, 'running');
        assert.ok(read < dataBytes(guest), 'what has arrived is not sent again');
        await assertSound(restored);
      });
    }
  });
}

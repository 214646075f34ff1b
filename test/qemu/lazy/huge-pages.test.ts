// Guests that run before their memory has arrived, in RAM of huge pages: QEMU takes each of them only as a whole.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { openFrom, openTo } from '../../../adapters/index.ts';
import { QemuFileError } from '../../../lib/index.ts';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { recoverLazily, restoreLazily, restoreVm, saveVm } from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { firmware, type GuestProgram } from '../harness/guest.ts';
import { differingPages } from '../harness/harness.ts';
import { HUGE_PAGE_BYTES, memoryOfHugePages, reserveHugePages } from '../harness/huge-pages.ts';
import {
  assertSound,
  type Machine,
  machine,
  openGuest,
  QEMUS,
  saveGuest,
  watchReads,
} from './machine.ts';

/** The guest writes to three huge pages for ever, and reads nothing of the others. */
const PROGRAM: GuestProgram = { patternBytes: 7 << 20, dirtyBytes: 4 << 20 };
const MEMORY_MIB = 16;
const IMAGE = { firmware: firmware(PROGRAM), memoryMiB: MEMORY_MIB };
const PAGES_PER_HUGE_PAGE = HUGE_PAGE_BYTES / 4096;
// One QEMU runs at a time, with two pages to spare.
const huge = reserveHugePages((MEMORY_MIB << 20) / HUGE_PAGE_BYTES + 2);
after(() => huge.release());

for (const { version, skip, options } of QEMUS) {
  const skipped = skip === false ? huge.skip : skip;
  describe(`a lazy restore to QEMU ${version} with huge pages`, {
    skip: skipped,
    timeout: 300_000,
  }, () => {
    let dir: TempDir;
    let guest: SavedGuest;
    let saved: Buffer;
    const incoming = { ...options, ...IMAGE, incoming: 'defer' };
    const extra = memoryOfHugePages(MEMORY_MIB);
    const start = async (): Promise<Machine> => {
      const started = await machine(incoming, extra);
      const command = { 'command-line': 'info ramblock' };
      const blocks = await started.qmp.execute<string>('human-monitor-command', command);
      assert.match(blocks, /microvm\.ram +2 MiB/);
      return started;
    };

    before(async () => {
      dir = makeTempDir();
      const path = dir.join('guest.mig');
      await saveGuest(path, { ...options, ...IMAGE });
      guest = await openGuest(path);
      await using eager = await machine(incoming);
      await restoreVm(eager.qmp, await openFrom(path), { keepPaused: true });
      saved = await eager.qemu.readRam();
    });
    after(async () => {
      await guest.close();
      dir.remove();
    });

    for (const preempt of [false, true]) {
      const how = preempt ? 'over two connections' : 'over one connection';
      test(`sends the whole memory of a guest of ordinary pages, ${how}`, async () => {
        await using restored = await start();
        const result = await restoreLazily(restored.qmp, guest, { preempt, keepPaused: true });
        assert.equal(result.status, 'paused');
        assert.deepEqual(differingPages(await restored.qemu.readRam(), saved), []);
        await restored.qemu.resume();
        await assertSound(restored, PROGRAM);
      });
    }

    test('answers what the guest asks for while it runs', async () => {
      await using restored = await start();
      const result = await restoreLazily(restored.qmp, guest, { recordMs: 1500 });
      assert.equal(result.status, 'running');
      assert.ok(result.faults > 0);
      assert.ok(result.pages.requested >= PAGES_PER_HUGE_PAGE);
      await assertSound(restored, PROGRAM);
    });

    test('sends a recorded working set, with the rest of the huge pages that it is in', async () => {
      await using restored = await start();
      const prefetch = [
        {
          block: guest.pages.blocks.findIndex(({ name }) => name === 'microvm.ram'),
          page: 1700,
          count: 1,
        },
      ];
      const result = await restoreLazily(restored.qmp, guest, { prefetch });
      assert.equal(result.pages.prefetched, PAGES_PER_HUGE_PAGE);
      await assertSound(restored, PROGRAM);
    });

    test('goes on after a failure between two huge pages', async () => {
      await using restored = await start();
      const failing = watchReads(guest, (bytes) => {
        if (bytes > HUGE_PAGE_BYTES) throw new QemuFileError('EIO', 'the disk cannot be read');
      });
      await assert.rejects(restoreLazily(restored.qmp, failing), /the disk cannot be read/);
      const { pages } = await recoverLazily(restored.qmp, guest);
      assert.ok(pages.requested + pages.around + pages.background > 0);
      await assertSound(restored, PROGRAM);
    });
  });

  describe(`a lazy restore of huge pages saved by QEMU ${version}`, {
    skip: skipped,
    timeout: 300_000,
  }, () => {
    test('runs the guest in ordinary pages and in huge pages', async () => {
      await using dir = makeTempDir();
      const path = dir.join('guest.mig');
      const extra = memoryOfHugePages(MEMORY_MIB);
      {
        await using source = await machine({ ...options, ...IMAGE }, extra);
        await source.qemu.waitGuestReady();
        await saveVm(source.qmp, await openTo(path));
      }
      const guest = await openGuest(path);
      try {
        for (const target of [[], extra]) {
          await using restored = await machine({ ...options, ...IMAGE, incoming: 'defer' }, target);
          await restoreLazily(restored.qmp, guest);
          await assertSound(restored, PROGRAM);
        }
      } finally {
        await guest.close();
      }
    });
  });
}

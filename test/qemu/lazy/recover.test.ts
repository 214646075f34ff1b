// Lazy restores whose source dies, and is replaced.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { QemuFileError } from '../../../lib/index.ts';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { encodeWorkingSet } from '../../../lib/migration/page-source/working-set.ts';
import { type QmpEvent, recoverLazily, restoreLazily } from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { buildPackage } from '../../helpers/command/built-package.ts';
import { Command } from '../../helpers/command/command.ts';
import { until } from '../../helpers/until.ts';
import { endCommand } from '../harness/scenario.ts';
import {
  assertSound,
  dataBytes,
  machine,
  openGuest,
  QEMUS,
  saveGuest,
  watchReads,
} from './machine.ts';

const built = makeTempDir();
let main: string;
before(async () => {
  main = `${await buildPackage(built)}/main.js`;
  // The command must not write to the home of who runs the tests.
  process.env.XDG_CACHE_HOME = built.join('cache');
});
after(() => built.remove());

/** Starts the command as the package has it: it starts sooner than from its sources. */
function start(args: readonly string[]): Command {
  return new Command(args, undefined, [], [main]);
}

for (const { version, skip, options } of QEMUS) {
  describe(`a lazy restore to QEMU ${version} whose source dies`, {
    skip,
    timeout: 300_000,
  }, () => {
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
        let hasStarted = false;
        restored.qmp.on('event', ({ event }) => {
          hasStarted ||= event === 'RESUME';
        });
        const dying = watchReads(guest, (bytes) => {
          if (hasStarted && bytes > limit) death.abort();
        });
        // Slow enough that the guest runs before its memory is there.
        const maxBandwidth = 8 << 20;
        await assert.rejects(
          restoreLazily(restored.qmp, dying, { maxBandwidth, signal: death.signal }),
          (error) => {
            assert.ok(error instanceof QemuFileError);
            assert.equal(error.code, 'ECANCELED');
            assert.match(error.message, /--recover/);
            return true;
          },
        );
        const result = await recoverLazily(restored.qmp, guest);
        assert.equal(result.status, 'running');
        const { requested, around, prefetched, background } = result.pages;
        const sent = requested + around + prefetched + background;
        const all = dataBytes(guest) / guest.pages.pageSize;
        assert.ok(sent < all, 'what has arrived is not sent again');
        await assertSound(restored);
      });
    }

    test('before the guest runs ends QEMU, or leaves a guest that goes on', async () => {
      await using restored = await machine({ ...options, incoming: 'defer' });
      const death = new AbortController();
      const dying = watchReads(guest, () => death.abort());
      const restoring = restoreLazily(restored.qmp, dying, { signal: death.signal });
      const error: unknown = await restoring.catch((reason: unknown) => reason);
      assert.ok(error instanceof QemuFileError);
      if (/no guest runs, and QEMU was ended|QEMU ended before/.test(error.message)) return;
      assert.match(error.message, /--recover/);
      await recoverLazily(restored.qmp, guest);
      await assertSound(restored);
    });

    /** Starts a command that does not end before it is killed: it sends only what the guest asks for. */
    const startCommand = (monitor: string, ...more: readonly string[]): Command => {
      const record = ['--record', dir.join('set'), '--record-seconds', '1000'];
      const path = dir.join('running.mig');
      return start(['restore', '--lazy', '--qmp', monitor, path, ...record, ...more]);
    };

    test('by kill -9 goes on with a client that was connected before', async () => {
      await using restored = await machine({ ...options, incoming: 'defer' });
      const running = restored.qmp.waitForEvent('RESUME');
      const first = startCommand(restored.monitor);
      await running;
      await endCommand(first);
      await recoverLazily(restored.qmp, guest);
      await assertSound(restored);
    });

    test('by kill -9 at each tenth of the memory goes on nine times in a row', async () => {
      await using restored = await machine({ ...options, incoming: 'defer' });
      const { qmp, monitor } = restored;
      let sent = 0;
      for (let tenth = 1; tenth < 10; tenth++) {
        const since = qmp.eventCount;
        const reaches = async (wanted: string): Promise<void> => {
          const matches = ({ data: { status } }: QmpEvent): boolean => status === wanted;
          await qmp.waitForEvent('MIGRATION', { since, matches });
        };
        // It does not get any further, however late this test sees where it is.
        const set = dir.join(`tenth-${tenth}`);
        writeFileSync(set, firstTenths(guest, tenth));
        const recover = tenth === 1 ? [] : ['--recover'];
        const source = startCommand(monitor, '--prefetch', set, ...recover);
        if (tenth === 1) {
          await qmp.waitForEvent('RESUME', { since });
          // From then on the pages are there for which QEMU's main thread may have to wait: it takes new connections.
          await restored.qemu.waitCounterRises();
        } else await reaches('postcopy-active');
        const limit = (dataBytes(guest) * tenth) / 10 - sent;
        await until(() => bytesWritten(source) >= limit, { what: `${tenth} tenths` });
        await stopCommand(source);
        sent += bytesWritten(source);
        await endCommand(source);
        await reaches('postcopy-paused');
      }
      const path = dir.join('running.mig');
      const last = start(['restore', '--lazy', '--recover', '--qmp', monitor, path]);
      const { code, stderr } = await last.ended();
      assert.equal(code, 0, stderr);
      assert.match(stderr, /the guest went on after .*, all its memory was there after/);
      await assertSound(restored);
    });

    test('by kill -9 is taken over by another command, if QEMU can take its connection', async () => {
      await using restored = await machine({ ...options, incoming: 'defer' });
      // A guest that is stopped asks for nothing, so QEMU's main thread does not wait for it.
      const isLoaded = restored.qmp.waitForEvent('MIGRATION', {
        matches: ({ data }) => data.status === 'active' || data.status === 'postcopy-active',
      });
      const first = startCommand(restored.monitor, '--keep-paused');
      await isLoaded;
      await restored.qemu.waitStatus(['paused']);
      await endCommand(first);
      const { code, stderr } = await start([
        ...['restore', '--lazy', '--recover', '--qmp', restored.monitor, dir.join('running.mig')],
      ]).ended();
      assert.equal(code, 0, stderr);
      assert.match(stderr, /the guest is stopped \(paused\), all its memory was there after/);
      await restored.qemu.resume();
      await assertSound(restored);
    });
  });
}

/** Returns a working set of the first tenths of a guest's pages with data. */
function firstTenths({ pages }: SavedGuest, tenths: number): string {
  const ranges = [...pages.blocks.keys()].flatMap((block) =>
    [...pages.extents(block)].map(({ at, length }) => {
      return { block, page: at / pages.pageSize, count: length / pages.pageSize };
    }),
  );
  const all = ranges.reduce((sum, { count }) => sum + count, 0);
  let left = Math.ceil((all * tenths) / 10);
  const first = ranges.flatMap((range) => {
    const count = Math.min(range.count, left);
    left -= count;
    return count === 0 ? [] : [{ ...range, count }];
  });
  return encodeWorkingSet(first, pages);
}

/** Stops a command: otherwise it may send more between a look at what it has sent and its end. */
async function stopCommand({ child }: Command): Promise<void> {
  child.kill('SIGSTOP');
  const isStopped = () => / T \d/.test(readFileSync(`/proc/${child.pid}/stat`, 'utf8'));
  await until(isStopped, { what: 'the command to stop' });
}

/** Returns the bytes that a command has written to its connections and files. */
function bytesWritten({ child }: Command): number {
  const counters = readFileSync(`/proc/${child.pid}/io`, 'utf8');
  return Number(/^wchar: (\d+)$/m.exec(counters)?.[1]);
}

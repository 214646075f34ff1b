// Guests that run before their memory has arrived.
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { openFrom } from '../../../adapters/index.ts';
import { QemuFileError } from '../../../lib/index.ts';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { recoverLazily, restoreLazily, restoreVm } from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { fails } from '../../helpers/errors.ts';
import { freePort } from '../../helpers/transports/sockets.ts';
import { differingPages } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import {
  assertSound,
  dataBytes,
  machine,
  openGuest,
  QEMUS,
  saveGuest,
  watchReads,
} from './machine.ts';

for (const { version, skip, options } of QEMUS) {
  describe(`a lazy restore to QEMU ${version}`, { skip, timeout: 300_000 }, () => {
    let dir: TempDir;
    let guest: SavedGuest;
    const incoming = { ...options, incoming: 'defer' };
    before(async () => {
      dir = makeTempDir();
      await saveGuest(dir.join('running.mig'), options);
      guest = await openGuest(dir.join('running.mig'));
    });
    after(async () => {
      await guest.close();
      dir.remove();
    });

    test('runs the guest, sends all of its memory and sets the settings back', async () => {
      await using restored = await machine(incoming);
      const before = await restored.qmp.execute('query-migrate-capabilities');
      const result = await restoreLazily(restored.qmp, guest);
      assert.equal(result.status, 'running');
      assert.ok(result.resumeMs !== null && result.resumeMs <= result.completeMs);
      assert.ok(result.faults > 0 && result.requests >= result.faults);
      assert.ok(result.pages.requested > 0 && result.pages.background > 0);
      assert.deepEqual(await restored.qmp.execute('query-migrate-capabilities'), before);
      await assertSound(restored);
    });

    test('over a second connection for what is asked for', async () => {
      await using restored = await machine(incoming);
      const result = await restoreLazily(restored.qmp, guest, { preempt: true });
      assert.equal(result.status, 'running');
      await assertSound(restored);
    });

    test('over TCP', async () => {
      await using restored = await machine(incoming);
      const address = `tcp:127.0.0.1:${await freePort()}`;
      await restoreLazily(restored.qmp, guest, { address });
      await assertSound(restored);
    });

    test('without a background sends only what the guest asks for', async () => {
      await using restored = await machine(incoming);
      const stop = new AbortController();
      const restoring = restoreLazily(restored.qmp, guest, {
        background: false,
        signal: stop.signal,
        onProgress: ({ resumeMs }) => {
          if (resumeMs !== null) stop.abort();
        },
      });
      // The guest touches only some of it.
      await assert.rejects(restoring, /--recover/);
    });

    test('sends first what was recorded, and the guest asks for less', async () => {
      const recorded = await (async () => {
        await using restored = await machine(incoming);
        return await restoreLazily(restored.qmp, guest, { recordMs: 1000 });
      })();
      assert.ok(recorded.workingSet.length > 0 && recorded.pages.requested > 0);
      await using restored = await machine(incoming);
      const { workingSet: prefetch } = recorded;
      const result = await restoreLazily(restored.qmp, guest, { prefetch });
      assert.ok(result.pages.prefetched > 0);
      assert.ok(result.faults < recorded.faults, `${result.faults} of ${recorded.faults} faults`);
      await assertSound(restored);
    });

    test('of one file to four QEMUs at once', async () => {
      await Promise.all(
        [1, 2, 3, 4].map(async () => {
          await using restored = await machine(incoming);
          await restoreLazily(restored.qmp, guest);
          await assertSound(restored);
        }),
      );
    });

    test('of a guest that is kept paused has its whole memory', async () => {
      await using restored = await machine(incoming);
      const result = await restoreLazily(restored.qmp, guest, { keepPaused: true });
      assert.deepEqual([result.status, result.resumeMs], ['paused', null]);
      await using eager = await machine(incoming);
      const from = await openFrom(dir.join('running.mig'));
      await restoreVm(eager.qmp, from, { keepPaused: true });
      const [one, other] = [await restored.qemu.readRam(), await eager.qemu.readRam()];
      assert.deepEqual(differingPages(one, other), []);
      await restored.qemu.resume();
      await assertSound(restored);
    });

    test('of a guest that was stopped leaves it stopped, unless it is to run', async () => {
      const path = dir.join('stopped.mig');
      await saveGuest(path, options, { pause: true });
      const stopped = await openGuest(path);
      try {
        for (const resume of [false, true]) {
          await using restored = await machine(incoming);
          const { status, resumeMs } = await restoreLazily(restored.qmp, stopped, { resume });
          assert.equal(status, resume ? 'running' : 'paused');
          assert.equal(resumeMs !== null, resume);
          if (!resume) await restored.qemu.resume();
          await assertSound(restored);
        }
      } finally {
        await stopped.close();
      }
    });

    for (const [capability, message] of [
      ['multifd', /multifd is on at the destination: .*migrate_set_capability multifd off/],
      ['x-ignore-shared', /x-ignore-shared is on at the destination/],
    ] as const) {
      test(`is refused with ${capability}, and QEMU still waits`, async () => {
        await using restored = await machine(incoming);
        await restored.qemu.setMigration({ capabilities: { [capability]: true } });
        await assert.rejects(restoreLazily(restored.qmp, guest), fails('ENOTSUP', message));
        assert.equal(await restored.qemu.status(), 'inmigrate');
        await restored.qemu.setMigration({ capabilities: { [capability]: false } });
        await restoreLazily(restored.qmp, guest);
        await assertSound(restored);
      });
    }

    test('is refused where RAM is a file on a disk, and for another machine', async () => {
      const file = dir.join('ram');
      const backend = `memory-backend-file,id=ram,size=16M,mem-path=${file},share=off`;
      await using onDisk = await machine(incoming, [
        '-object',
        backend,
        '-machine',
        'memory-backend=ram',
      ]);
      const message = /memory backend "ram" is a file on a disk .*memory-backend-memfd/;
      await assert.rejects(
        restoreLazily(onDisk.qmp, guest, { check: false }),
        fails('ENOTSUP', message),
      );
      await using other = await machine({ ...incoming, machine: 'pc' });
      await assert.rejects(restoreLazily(other.qmp, guest), fails('EINVAL', /machine type/));
    });

    test('of a guest that ran while it was saved has the last copy of each page', async () => {
      const path = dir.join('live.mig');
      await saveGuest(path, options, { pause: false, maxBandwidth: 8 << 20 });
      const live = await openGuest(path);
      assert.ok(statSync(path).size > dataBytes(live) + (1 << 19), 'pages were sent several times');
      await using restored = await machine(incoming);
      try {
        await restoreLazily(restored.qmp, live);
      } finally {
        await live.close();
      }
      await assertSound(restored);
    });

    test('of a file that is truncated meanwhile names the page, and the guest stays', async () => {
      const path = dir.join('short.mig');
      copyFileSync(dir.join('running.mig'), path);
      const short = await openGuest(path);
      const truncating = watchReads(short, (bytes) => {
        if (bytes > 500_000) truncateSync(path, 10_000);
      });
      await using restored = await machine(incoming);
      try {
        await assert.rejects(
          restoreLazily(restored.qmp, truncating),
          fails('EIO', /the pages from 0x\w+ of ".*; the guest keeps what has arrived and waits/),
        );
      } finally {
        await short.close();
      }
      // The end was not sent. QEMU's main thread may wait for a page, and then answers no command.
      await restored.qmp.waitForEvent('MIGRATION', {
        since: 0,
        matches: ({ data }) => data.status === 'postcopy-paused',
      });
    });

    test('whose disk fails names the page, and goes on with an intact copy of the file', async () => {
      const failing = watchReads(guest, (bytes) => {
        if (bytes > 1_000_000) throw new QemuFileError('EIO', 'the disk cannot be read');
      });
      await using restored = await machine(incoming);
      await assert.rejects(
        restoreLazily(restored.qmp, failing),
        fails('EIO', /the disk cannot be read; the guest keeps what has arrived and waits/),
      );
      await recoverLazily(restored.qmp, guest);
      await assertSound(restored);
    });

    test('whose QEMU is killed says so', async () => {
      await using restored = await machine(incoming);
      const killing = watchReads(guest, (bytes) => {
        if (bytes > 1_000_000) process.kill(restored.qemu.pid, 'SIGKILL');
      });
      await assert.rejects(restoreLazily(restored.qmp, killing), (error) => {
        assert.ok(error instanceof QemuFileError);
        assert.match(error.message, /QEMU ended while the guest ran/);
        return true;
      });
    });

    test('is a command that prints both times', async () => {
      await using restored = await machine(incoming);
      const set = dir.join('set');
      const { code, stderr, stdout } = await run([
        ...['restore', '--lazy=auto', '--json', '--record', set, '--record-seconds', '0.5'],
        ...['--qmp', restored.monitor, dir.join('running.mig')],
      ]);
      assert.equal(code, 0, stderr);
      assert.match(stderr, /the guest ran after [\d.]+ ms, all its memory was there after \d+ ms/);
      const fields = JSON.parse(stdout.toString()) as Record<string, unknown>;
      assert.equal(fields.status, 'running');
      for (const name of ['resumeMs', 'completeMs', 'startMs', 'requests', 'faults']) {
        assert.ok(Number(fields[name]) > 0, name);
      }
      assert.deepEqual(Object.keys(fields.faultMs as object).sort(), ['max', 'p50', 'p99']);
      const reasons = ['around', 'background', 'prefetched', 'requested', 'zero'];
      assert.deepEqual(Object.keys(fields.pages as object).sort(), reasons);
      assert.match(readFileSync(set, 'utf8'), /"format":"qemu-file working set"/);
      await assertSound(restored);
    });
  });
}

describe('a lazy restore of a mapped-ram file', { skip: requireQemu10() }, () => {
  test('runs the guest in QEMU 10.0 with all of its memory', async () => {
    const options = QEMUS.at(-1)?.options ?? {};
    await using dir = makeTempDir();
    const path = dir.join('mapped.mig');
    {
      await using source = await machine(options);
      await source.qemu.waitGuestReady();
      await source.qemu.migrate(`file:${path}`, { capabilities: { 'mapped-ram': true } });
    }
    const guest = await openGuest(path);
    try {
      await using restored = await machine({ ...options, incoming: 'defer' });
      const { status } = await restoreLazily(restored.qmp, guest);
      assert.equal(status, 'running');
      await assertSound(restored);
    } finally {
      await guest.close();
    }
  });
});

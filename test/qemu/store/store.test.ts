// Real guests in a snapshot store: saved with a parent, restored at once and lazily, copied, with the parent gone.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { openStore, type SnapshotReader, type SnapshotStore } from '../../../lib/snapshot/index.ts';
import { QmpClient, recoverLazily, restoreLazily, saveVm } from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { firmware, type GuestProgram, memoryProblems } from '../harness/guest.ts';
import { type Qemu, type QemuOptions, requireQemu, startQemu } from '../harness/harness.ts';
import { findQemu10, requireQemu10 } from '../harness/qemu10.ts';

const program: GuestProgram = { patternBytes: 3 << 20, dirtyBytes: 1 << 19 };
const image = firmware(program);

/** Pages that a lazy restore sent, by reason. */
interface LazyPages {
  requested: number;
  prefetched: number;
}

interface Machine extends AsyncDisposable {
  qemu: Qemu;
  monitor: string;
}

async function machine(options: QemuOptions): Promise<Machine> {
  const dir = makeTempDir();
  const monitor = dir.join('qmp');
  const extraArgs = ['-qmp', `unix:${monitor},server=on,wait=off`];
  const qemu = await startQemu({ firmware: image, extraArgs, ...options });
  return {
    qemu,
    monitor,
    [Symbol.asyncDispose]: async () => {
      await qemu.stop();
      dir.remove();
    },
  };
}

/** Removes the packs of a store. */
async function losePacks({ storage }: SnapshotStore): Promise<void> {
  for await (const { key } of storage.list('packs/')) await storage.remove(key);
}

/** Returns the parts of a guest, without those that only a snapshot has. */
function guestOf(snapshot: SnapshotReader): SavedGuest {
  const { configuration, configurationBytes, hasFooters, ram, sections, pages } = snapshot;
  const { sectionsBeforeRam, descriptionText } = snapshot;
  return {
    ...{ configuration, configurationBytes, hasFooters, ram, sections, pages },
    ...{ sectionsBeforeRam, descriptionText },
    close: async () => {},
  };
}

/** Runs the command, which must succeed, and returns its standard output. */
async function command(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(args);
  assert.equal(code, 0, `${args.join(' ')}: ${stderr.toString()}`);
  return stdout.toString();
}

for (const { version, skip, binary } of [
  { version: '7.2', skip: requireQemu(), binary: undefined },
  { version: '10.0', skip: requireQemu10(), binary: findQemu10() },
]) {
  const which: QemuOptions = binary === undefined ? {} : { binary };

  describe(`a guest of QEMU ${version} in a store`, { skip }, () => {
    let dir: TempDir;
    let store: string;
    before(async () => {
      dir = makeTempDir();
      store = `store:${dir.join('store')}`;
      await using source = await machine(which);
      await source.qemu.waitGuestReady();
      await command('save', '--qmp', source.monitor, '--resume', `${store}#base`);
      await source.qemu.waitCounterRises();
      await command(
        'save',
        '--qmp',
        source.monitor,
        '--resume',
        `${store}#child`,
        '--parent',
        'base',
      );
      await source.qemu.waitCounterRises();
      await source.qemu.pause();
      await using qmp = await QmpClient.connect(source.monitor);
      const opened = await openStore(store);
      await saveVm(qmp, opened.writer('still', { parent: 'child' }).file());
      await opened.close();
    });
    after(() => dir.remove());

    /** Restores a snapshot, and checks that the guest runs and that its memory is right. */
    const restore = async (snapshot: string, ...options: string[]): Promise<void> => {
      await using restored = await machine({ ...which, incoming: 'defer' });
      await command('restore', '--qmp', restored.monitor, '--resume', ...options, snapshot);
      await restored.qemu.waitCounterRises();
      await restored.qemu.pause();
      assert.deepEqual(memoryProblems(await restored.qemu.readRam(), program), []);
    };

    test('costs what changed, and nothing is damaged', async () => {
      const list = JSON.parse(await command('store', 'ls', store, '--json')) as {
        name: string;
        parent: string | null;
        ownBytes: number;
        machine: string;
      }[];
      const [base, child, still] = list;
      assert.deepEqual(
        list.map(({ name, parent }) => [name, parent]),
        [
          ['base', null],
          ['child', 'base'],
          ['still', 'child'],
        ],
      );
      assert.equal(base?.machine, 'microvm');
      assert.ok((child?.ownBytes ?? 0) < (base?.ownBytes ?? 0) / 2, JSON.stringify(list));
      assert.ok((still?.ownBytes ?? 0) < (base?.ownBytes ?? 0) / 2, JSON.stringify(list));
      await command('store', 'fsck', '--deep', store);
      await command('verify', `${store}#child`);
    });

    test('is restored, at once and lazily', async () => {
      await restore(`${store}#base`);
      await restore(`${store}#child`);
      await restore(`${store}#still`, '--lazy');
    });

    test('whose device state QEMU refuses is checked then, and the fault is named', async () => {
      const opened = await openStore(store);
      const guest = guestOf(await opened.reader('still'));
      const [timer] = guest.sections.filter(({ name }) => name === 'timer');
      assert.ok(timer !== undefined);
      const cut = { ...timer, body: timer.body.subarray(0, timer.body.length - 1) };
      const sections = guest.sections.map((section) => (section === timer ? cut : section));
      await opened.writer('cut').writeGuest({ ...guest, sections });
      await opened.close();
      await using waiting = await machine({ ...which, incoming: 'defer' });
      const { code, stderr } = await run(['restore', '--qmp', waiting.monitor, `${store}#cut`]);
      assert.match(String(stderr), /"timer"/);
      assert.equal(code, 3);
      await command('store', 'rm', `${store}#cut`);
    });

    test('keeps its working set, which the next lazy restore sends first', async () => {
      const lazily = async (snapshot: string, ...options: string[]): Promise<LazyPages> => {
        await using restored = await machine({ ...which, incoming: 'defer' });
        const args = ['--lazy', '--json', '--quiet', '--resume', ...options];
        const json = await command('restore', '--qmp', restored.monitor, snapshot, ...args);
        await restored.qemu.waitCounterRises();
        await restored.qemu.pause();
        assert.deepEqual(memoryProblems(await restored.qemu.readRam(), program), []);
        return (JSON.parse(json) as { pages: LazyPages }).pages;
      };
      const setBytes = async (snapshot: string): Promise<number> => {
        const json = await command('store', 'show', snapshot, '--json');
        return (JSON.parse(json) as { workingSetBytes: number }).workingSetBytes;
      };
      assert.equal(await setBytes(`${store}#still`), 0);
      const first = await lazily(`${store}#still`, '--record-in-store', '--record-seconds', '1');
      assert.equal(first.prefetched, 0);
      assert.ok(first.requested > 0);
      assert.ok((await setBytes(`${store}#still`)) > 0);
      assert.ok((await lazily(`${store}#still`)).prefetched > 0);

      await command('compact', `${store}#still`, `${store}#packed`, '--quiet');
      assert.equal(await setBytes(`${store}#packed`), await setBytes(`${store}#still`));
      assert.ok((await lazily(`${store}#packed`)).prefetched > 0);
      await command('store', 'fsck', '--deep', store);
      await command('store', 'rm', `${store}#packed`);
    });

    test('of which a pack is missed after it runs waits, and goes on once the pack is back', async () => {
      await using restored = await machine({ ...which, incoming: 'defer' });
      await using qmp = await QmpClient.connect(restored.monitor, { oob: true });
      const other = await openStore(store);
      const losing = await openStore(`store:${dir.join('losing')}`);
      await other.copy('base', losing);
      const guest = await losing.reader('base');
      let hasStarted = false;
      qmp.on('event', ({ event }) => {
        hasStarted ||= event === 'RESUME';
      });
      const { pages } = guest;
      const dying: SavedGuest = {
        ...guestOf(guest),
        pages: {
          pageSize: pages.pageSize,
          blocks: pages.blocks,
          extents: (block) => pages.extents(block),
          read: async (block, offset, target) => {
            if (hasStarted) await losePacks(losing);
            return pages.read(block, offset, target);
          },
        },
      };
      // Slow enough that the guest runs before its memory is there.
      await assert.rejects(restoreLazily(qmp, dying, { maxBandwidth: 1 << 20 }), {
        code: 'EBADMSG',
        message: new RegExp(
          'packs/[0-9a-f]{64} is damaged: it is missing; the page at 0x[0-9a-f]+ of the RAM block ".*" is in it; ' +
            'the guest .* waits .* store copy --replace.*restore --lazy --recover',
        ),
      });
      await losing.close();

      const again = await openStore(`store:${dir.join('losing')}`);
      await assert.rejects(recoverLazily(qmp, await again.reader('base')), {
        code: 'EBADMSG',
        message: /packs\/.* it is missing.*the guest .* waits.*--recover/,
      });
      await other.copy('base', again, { replace: true });
      const { status } = await recoverLazily(qmp, await again.reader('base'));
      assert.equal(status, 'running');
      await again.close();
      await other.close();
      await restored.qemu.waitCounterRises();
      await restored.qemu.pause();
      assert.deepEqual(memoryProblems(await restored.qemu.readRam(), program), []);
    });

    test('is restored from a copy after its parents are gone', async () => {
      await command('store', 'copy', `${store}#still`, `store:${dir.join('other')}`);
      for (const name of ['base', 'child', 'still'])
        await command('store', 'rm', `${store}#${name}`);
      await command('store', 'gc', '--grace', '0', store);
      await restore(`store:${dir.join('other')}#still`);
    });

    test('arrives there by a plain migrate, through a relay', async () => {
      await using source = await machine(which);
      await source.qemu.waitGuestReady();
      const socket = dir.join('relay.sock');
      const relayed = run(['relay', `unix:${socket}`, `${store}#relayed`, '--quiet']);
      const { code, stderr } = await Promise.all([
        relayed,
        source.qemu.migrate(`exec:socat -u - UNIX-CONNECT:${socket},retry=100,interval=0.1`),
      ]).then(([ended]) => ended);
      assert.equal(code, 0, stderr.toString());
      await restore(`${store}#relayed`);
    });
  });
}

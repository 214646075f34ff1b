// Real guests saved and restored by one call, and what becomes of them when that fails.
import assert from 'node:assert/strict';
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { openFrom, openTo } from '../../../adapters/index.ts';
import { openScratchStore } from '../../../lib/extract/scratch-store.ts';
import { type QemuFile, QemuFileError } from '../../../lib/index.ts';
import { unwrap, verifyStream } from '../../../lib/migration/index.ts';
import {
  QmpClient,
  type RestoreOptions,
  restoreVm,
  type SaveOptions,
  saveVm,
} from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { fails } from '../../helpers/errors.ts';
import { mountSmallDisk, requireSmallDisk } from '../../helpers/storage/small-disk.ts';
import { until } from '../../helpers/until.ts';
import { firmware, type GuestProgram, memoryProblems } from '../harness/guest.ts';
import {
  differingPages,
  type Qemu,
  type QemuOptions,
  requireQemu,
  startQemu,
} from '../harness/harness.ts';
import { findQemu10, requireQemu10 } from '../harness/qemu10.ts';

const program: GuestProgram = { patternBytes: 3 << 20, dirtyBytes: 1 << 20 };
const image = firmware(program);
/** Slow enough for a test to get in between: the guest is three seconds' worth. */
const SLOW: SaveOptions = { maxBandwidth: 1 << 20 };

/**
 * Checks the error of a save that somebody else cancelled. With a return path QEMU may see the connection break,
 * which its own cancelling does, before it notes that it was cancelled.
 */
function isCancelled(error: unknown): true {
  assert.ok(error instanceof QemuFileError, String(error));
  assert.match(
    error.message,
    /ECANCELED: .*another client cancelled|EIO: .*QEMU's migration failed/,
  );
  return true;
}

/** A QEMU with a monitor of our client's. */
interface Machine extends AsyncDisposable {
  qemu: Qemu;
  qmp: QmpClient;
}

async function machine(options: QemuOptions = {}, extra: readonly string[] = []): Promise<Machine> {
  const dir = makeTempDir();
  const monitor = `unix:${dir.join('qmp')},server=on,wait=off`;
  const qemu = await startQemu({
    firmware: image,
    extraArgs: ['-qmp', monitor, ...extra],
    ...options,
  });
  const qmp = await QmpClient.connect(dir.join('qmp'));
  return {
    qemu,
    qmp,
    [Symbol.asyncDispose]: async () => {
      await qmp.close();
      await qemu.stop();
      dir.remove();
    },
  };
}

/** Everything that a user may have set for migrations. */
async function settingsOf({ qmp }: Machine): Promise<unknown> {
  const capabilities = await qmp.execute('query-migrate-capabilities');
  return { capabilities, parameters: await qmp.execute('query-migrate-parameters') };
}

/** A signal that aborts once some bytes have been saved. */
function afterSome(): { signal: AbortSignal; onProgress: NonNullable<SaveOptions['onProgress']> } {
  const controller = new AbortController();
  const onProgress = ({ transferred }: { transferred: number }): void => {
    if (transferred > 0) controller.abort();
  };
  return { signal: controller.signal, onProgress };
}

for (const { version, skip, binary } of [
  { version: '7.2', skip: requireQemu(), binary: undefined },
  { version: '10.0', skip: requireQemu10(), binary: findQemu10() },
]) {
  const which: QemuOptions = binary === undefined ? {} : { binary };

  describe(`a guest of QEMU ${version} is saved`, { skip }, () => {
    let dir: TempDir;
    let source: Machine;
    before(async () => {
      dir = makeTempDir();
      source = await machine(which);
      await source.qemu.waitGuestReady();
      // Settings that its user keeps for other migrations; a save would stall or be useless with them.
      await source.qemu.setMigration({
        capabilities: { events: false, multifd: true, 'pause-before-switchover': true },
        parameters: { 'max-bandwidth': 12345678 },
      });
    });
    after(async () => {
      await source[Symbol.asyncDispose]();
      dir.remove();
    });

    /** Saves, and checks that QEMU has the settings it had. */
    const save = async (name: string, options: SaveOptions = {}): ReturnType<typeof saveVm> => {
      const settings = await settingsOf(source);
      const path = name.startsWith('/') ? name : dir.join(name);
      try {
        return await saveVm(source.qmp, await openTo(path), options);
      } finally {
        assert.deepEqual(await settingsOf(source), settings);
      }
    };

    const load = async (
      name: string,
      options: RestoreOptions,
      use: (restored: Machine, status: string) => Promise<void>,
    ): Promise<void> => {
      await using restored = await machine({ ...which, incoming: 'defer' });
      const settings = await settingsOf(restored);
      const result = await restoreVm(restored.qmp, await openFrom(dir.join(name)), options);
      assert.deepEqual(await settingsOf(restored), settings);
      assert.equal(await restored.qemu.status(), result.status);
      await use(restored, result.status);
    };

    test('while it runs on, plain and compressed, and each file is a guest that runs', async () => {
      for (const [name, compress] of [
        ['plain', undefined],
        ['gzip', 'gzip'],
        ['zstd', 'zstd'],
      ] as const) {
        const { status, bytes, warnings } = await save(name, { compress, resume: true });
        assert.deepEqual([status, warnings], ['running', []]);
        assert.ok(bytes > 3 << 20);
        assert.equal(statSync(dir.join(name)).mode & 0o777, 0o600);
        await source.qemu.waitCounterRises();
        await load(name, {}, async ({ qemu }, restored) => {
          assert.equal(restored, 'running');
          await qemu.waitCounterRises();
          await qemu.pause();
          assert.deepEqual(memoryProblems(await qemu.readRam(), program), []);
        });
      }
      assert.ok(statSync(dir.join('gzip')).size < statSync(dir.join('plain')).size);
      assert.equal(readFileSync(dir.join('zstd')).readUInt32LE(), 0xfd2fb528);
    });

    test('with a manifest that the file agrees with', async () => {
      const options: SaveOptions = { compress: 'gzip', manifest: true, resume: true };
      const { manifest } = await save('manifest', options);
      assert.ok(manifest !== null);
      using kept = openScratchStore();
      const { file } = await unwrap(await openFrom(dir.join('manifest')));
      const { faults } = await verifyStream(file, { manifest, digests: { store: kept.store } });
      await file.close();
      assert.deepEqual(faults, []);
    });

    test('stopped, and it is restored stopped unless it is to run', async () => {
      await save('stopped', { pause: true, resume: true });
      await source.qemu.waitCounterRises();
      await load('stopped', {}, async (_, status) => assert.equal(status, 'paused'));
      await load('stopped', { resume: true }, async ({ qemu }, status) => {
        assert.equal(status, 'running');
        await qemu.waitCounterRises();
      });
    });

    test('whose file system is full, and it runs on', { skip: requireSmallDisk() }, async () => {
      await using disk = mountSmallDisk();
      for (const options of [
        {},
        { check: false },
        { layout: 'mapped-ram' },
        { compress: 'gzip' },
      ] as const satisfies readonly SaveOptions[]) {
        rmSync(disk.join('fill'), { force: true });
        disk.fill('compress' in options ? 4096 : 65536);
        await assert.rejects(save(disk.join('vm'), options), fails('ENOSPC', /no space left/));
        assert.deepEqual(readdirSync(disk.path), ['fill']);
        await source.qemu.waitCounterRises();
      }
      await assert.rejects(save('/dev/full'), fails('ENOSPC', /no space left/));
      await source.qemu.waitCounterRises();
    });

    test('until it is given up, and it runs on, or is still stopped', async () => {
      await assert.rejects(
        save('aborted', { ...SLOW, ...afterSome() }),
        fails('ECANCELED', /aborted/),
      );
      await source.qemu.waitCounterRises();
      const paused = save('aborted', { ...SLOW, ...afterSome(), pause: true });
      await assert.rejects(paused, fails('ECANCELED', /aborted/));
      await source.qemu.waitCounterRises();
      await source.qemu.pause();
      const still = save('aborted', { ...SLOW, ...afterSome() });
      await assert.rejects(still, fails('ECANCELED', /aborted/));
      // QEMU says "postmigrate" if the cancel came while it was completing: stopped, and `cont` runs it.
      assert.match(await source.qemu.status(), /^(paused|postmigrate)$/);
      await source.qemu.resume();
      assert.equal(existsSync(dir.join('aborted')), false);
    });

    test('until it is given up at once, again and again, and can be saved after all', async () => {
      for (let i = 0; i < 10; i++) {
        const controller = new AbortController();
        const setUp = source.qmp.waitForEvent('MIGRATION').then(() => controller.abort());
        const saving = save('early', { signal: controller.signal });
        await assert.rejects(saving, fails('ECANCELED', /aborted/));
        await setUp;
        assert.match((await source.qemu.migrationInfo()).status ?? '', /^(cancelled|failed)$/);
      }
      await save('early', { resume: true });
      await source.qemu.waitCounterRises();
    });

    test('until another client cancels the migration, and the guest runs on', async () => {
      const saving = save('cancelled', {
        ...SLOW,
        onProgress: ({ transferred }) => {
          if (transferred > 0) void source.qemu.qmp.execute('migrate_cancel');
        },
      });
      await assert.rejects(saving, isCancelled);
      assert.equal(existsSync(dir.join('cancelled')), false);
      await source.qemu.waitCounterRises();
    });

    test('by one at a time', async () => {
      const first = save('first', SLOW);
      await until(async () => (await source.qemu.migrationInfo()).status === 'active', {
        what: 'the first save',
      });
      const second = saveVm(source.qmp, await openTo(dir.join('second')));
      await assert.rejects(
        second,
        fails('EBUSY', /another migration of this QEMU is in progress, in state "active"/),
      );
      await source.qemu.qmp.execute('migrate_cancel');
      await assert.rejects(first, isCancelled);
      assert.equal(existsSync(dir.join('second')), false);
      await source.qemu.waitCounterRises();
    });

    test('and left stopped: page by page the same where it is restored, and kept stopped', async () => {
      assert.equal((await save('kept')).status, 'postmigrate');
      await load('kept', { keepPaused: true }, async ({ qemu }, status) => {
        assert.equal(status, 'paused');
        const [here, there] = [await source.qemu.readRam(), await qemu.readRam()];
        assert.deepEqual(differingPages(here, there), []);
        await qemu.resume();
        await qemu.waitCounterRises();
      });
      await assert.rejects(
        save('again'),
        fails('EBUSY', /already been saved or migrated away.*"cont"/),
      );
      // The guest sends output after the save.
      await source.qemu.resume();
      await source.qemu.waitCounterRises();
    });

    test('and goes on from a file with more in it than the stream, as on a disk', async () => {
      await save('longer', { resume: true });
      // More than the connection holds: QEMU closes it while these bytes are on their way.
      appendFileSync(dir.join('longer'), Buffer.alloc(8 << 20, 'left over '));
      await load('longer', {}, async ({ qemu }, status) => {
        assert.equal(status, 'running');
        await qemu.waitCounterRises();
      });
    });

    test('by any QEMU that reads a file itself', async () => {
      await save('file', { resume: true });
      const uris = [`exec:cat ${dir.join('file')}`];
      if (version === '10.0') uris.push(`file:${dir.join('file')}`);
      for (const uri of uris) {
        await using restored = await machine({ ...which, incoming: 'defer' });
        await restored.qemu.migrateIncoming(uri);
        await restored.qemu.waitIncomingEnd();
        await restored.qemu.waitCounterRises();
      }
    });

    test('until QEMU is killed, and no file appears', async () => {
      await using victim = await machine(which);
      await victim.qemu.waitGuestReady();
      const saving = saveVm(victim.qmp, await openTo(dir.join('killed')), {
        ...SLOW,
        onProgress: ({ transferred }) => {
          if (transferred > 0) process.kill(victim.qemu.pid, 'SIGKILL');
        },
      });
      await assert.rejects(saving, fails('ECONNRESET', /QEMU cannot be reached any more/));
      assert.equal(existsSync(dir.join('killed')), false);
    });
  });

  describe(`a guest of QEMU ${version} is not restored`, { skip }, () => {
    let dir: TempDir;
    before(async () => {
      dir = makeTempDir();
      await using source = await machine(which);
      await source.qemu.waitGuestReady();
      await saveVm(source.qmp, await openTo(dir.join('vm.mig')));
    });
    after(() => dir.remove());

    /** Has a QEMU that waits load something that it must not. */
    const fail = async (
      name: string,
      { check, abort }: { check?: boolean; abort?: true },
      is: (error: unknown) => true,
      options: QemuOptions = {},
    ): Promise<Machine> => {
      const waiting = await machine({ ...which, incoming: 'defer', ...options });
      const signal = abort ? AbortSignal.timeout(200) : undefined;
      const limit = abort ? 1 << 20 : 0;
      const restoring = restoreVm(waiting.qmp, await openFrom(dir.join(name)), {
        check,
        signal,
        maxBandwidth: limit,
      });
      try {
        await assert.rejects(restoring, is);
      } catch (error) {
        await waiting[Symbol.asyncDispose]();
        throw error;
      }
      return waiting;
    };

    /** Waits for the end of a QEMU that has no guest and can get none. */
    const isGone = async ({ qmp, qemu }: Machine): Promise<void> => {
      await until(() => qmp.isClosed, { what: 'the end of QEMU' });
      await assert.rejects(qemu.status());
    };

    test('if the file is cut off: half a guest never runs', async () => {
      writeFileSync(dir.join('cut'), readFileSync(dir.join('vm.mig')));
      truncateSync(dir.join('cut'), 2_000_000);
      await using checked = await fail('cut', {}, fails('ENODATA', /the stream ends inside/));
      await isGone(checked);
      const reason =
        version === '7.2' ? /see its standard error for the reason/ : /load of migration failed/;
      await using unchecked = await fail('cut', { check: false }, fails('EIO', reason));
      await isGone(unchecked);
      assert.match(unchecked.qemu.stderr, /load/);
    });

    for (const [fault, open, is] of [
      [
        'the VM description, which QEMU does not read, is damaged',
        async (): Promise<QemuFile> => {
          const bytes = readFileSync(dir.join('vm.mig'));
          const at = bytes.lastIndexOf('"page_size"');
          assert.ok(at > 0);
          bytes[at] = 0x27;
          writeFileSync(dir.join('description'), bytes);
          return openFrom(dir.join('description'));
        },
        fails('EBADMSG', /VM description/),
      ],
      [
        'the checksum of the compressed file is wrong',
        async (): Promise<QemuFile> => {
          const bytes = gzipSync(readFileSync(dir.join('vm.mig')), { level: 1 });
          bytes.writeUInt32LE(1, bytes.length - 8);
          writeFileSync(dir.join('vm.mig.gz'), bytes);
          return openFrom(dir.join('vm.mig.gz'));
        },
        fails('EBADMSG', /./),
      ],
      [
        'the command that it comes from fails after its last byte',
        (): Promise<QemuFile> => openFrom(`exec:cat ${dir.join('vm.mig')}; exit 3`),
        fails('EIO', /3/),
      ],
    ] as const) {
      test(`if only its end shows that ${fault}: no guest runs`, async () => {
        await using waiting = await machine({ ...which, incoming: 'defer' });
        const events: string[] = [];
        waiting.qmp.on('event', ({ event }) => events.push(event));
        await assert.rejects(restoreVm(waiting.qmp, await open()), is);
        await isGone(waiting);
        assert.ok(!events.includes('RESUME'), events.join());
      });
    }

    test('if it is given up', async () => {
      await using waiting = await fail('vm.mig', { abort: true }, fails('ECANCELED', /aborted/));
      await isGone(waiting);
    });

    test('into another machine type, which keeps waiting', async () => {
      const is = fails(
        'EINVAL',
        /saved on machine type "microvm", but this QEMU has "pc-i440fx-.*-M microvm/,
      );
      await using waiting = await fail('vm.mig', {}, is, { machine: 'pc' });
      assert.equal(await waiting.qemu.status(), 'inmigrate');
    });

    test('into a machine with other memory, which keeps waiting', async () => {
      const says =
        /EINVAL.*"microvm.ram" has 16777216 bytes in the stream, but 33554432.*-m, here 16M/;
      await using waiting = await fail('vm.mig', {}, fails('EINVAL', says), { memoryMiB: 32 });
      assert.equal(await waiting.qemu.status(), 'inmigrate');
    });

    test('into a machine with other memory, as verify --qmp reports before', async () => {
      const waiting = await startQemu({
        ...which,
        firmware: image,
        incoming: 'defer',
        memoryMiB: 32,
        extraArgs: ['-qmp', `unix:${dir.join('qmp')},server=on,wait=off`],
      });
      try {
        const { code, stderr } = await run([
          'verify',
          dir.join('vm.mig'),
          '--qmp',
          dir.join('qmp'),
        ]);
        assert.equal(code, 1, stderr);
        assert.match(stderr, /would not load this stream: RAM block "microvm.ram".*-m, here 16M/);
        assert.match(stderr, /not compared with the QEMU at .*CPU model/);
        assert.equal(await waiting.status(), 'inmigrate');
      } finally {
        await waiting.stop();
      }
    });

    test('into a machine with another controller, which the error names', async () => {
      const path = dir.join('controller.mig');
      {
        const device = ['-device', 'virtio-scsi-pci,addr=05.0'];
        await using source = await machine({ ...which, machine: 'pc' }, device);
        await saveVm(source.qmp, await openTo(path));
      }
      const other = ['-device', 'lsi53c895a,addr=05.0'];
      await using waiting = await machine({ ...which, machine: 'pc', incoming: 'defer' }, other);
      await assert.rejects(
        restoreVm(waiting.qmp, await openFrom(path)),
        fails(
          'EIO',
          /"lsi53c895a" in this QEMU; replace it with -device virtio-scsi-pci,addr=05\.0/,
        ),
      );
      await isGone(waiting);
    });

    test('unchecked into a machine with other memory, and QEMU is quoted', async () => {
      const says =
        version === '7.2'
          ? /ended without loading the stream.*see its standard error/
          : /load of migration failed/;
      await using waiting = await fail('vm.mig', { check: false }, fails('EIO', says), {
        memoryMiB: 32,
      });
      await isGone(waiting);
      assert.match(waiting.qemu.stderr, /Size mismatch: microvm.ram/);
    });

    test('from bytes that are not a stream, and QEMU keeps waiting', async () => {
      writeFileSync(dir.join('text'), 'nothing of the kind');
      await using waiting = await fail('text', {}, fails('EPROTO', /not a migration stream/));
      assert.equal(await waiting.qemu.status(), 'inmigrate');
      await restoreVm(waiting.qmp, await openFrom(dir.join('vm.mig')));
      await waiting.qemu.waitCounterRises();
    });

    test('by a QEMU that does not wait for one, or waits for another', async () => {
      const running = { incoming: undefined as never };
      await using busy = await fail(
        'vm.mig',
        {},
        fails('EINVAL', /start it with -incoming defer/),
        running,
      );
      assert.equal(await busy.qemu.status(), 'running');
      const other = { incoming: 'tcp:127.0.0.1:0' };
      await using waiting = await fail('vm.mig', {}, fails('EBUSY', /already/), other);
      assert.equal(await waiting.qemu.status(), 'inmigrate');
    });
  });
}

describe('a mapped-ram file', { skip: requireQemu10() }, () => {
  test('inside a sparse image of libvirt is restored from its offset in the image', async () => {
    await using dir = makeTempDir();
    const path = dir.join('vm.save');
    // The header of src/qemu/qemu_saveimage.h: 92 bytes, then XML padded to 64 KiB.
    const header = Buffer.alloc(92 + 65536);
    header.write('LibvirtQemudSave', 'latin1');
    header.writeUInt32LE(2, 16);
    header.writeUInt32LE(65536, 20);
    header.writeUInt32LE(1, 24);
    header.writeUInt32LE(6, 28);
    header.write('<domain/>', 92, 'latin1');
    writeFileSync(path, header);
    const which: QemuOptions = { binary: findQemu10() as string };
    await using source = await machine(which);
    await source.qemu.waitGuestReady();
    await source.qemu.migrate(`file:${path},offset=${header.length}`, {
      capabilities: { 'mapped-ram': true },
    });
    await using waiting = await machine({ ...which, incoming: 'defer' });
    const { status, bytes } = await restoreVm(waiting.qmp, await openFrom(path));
    assert.deepEqual([status, bytes], ['running', null]);
    await waiting.qemu.waitCounterRises();
  });

  test('is read by QEMU 10.0 itself, and by QEMU 7.2 as a sequential stream', async () => {
    await using dir = makeTempDir();
    const binary = findQemu10() ?? '';
    await using source = await machine({ binary });
    await source.qemu.waitGuestReady();
    const capabilities = { 'mapped-ram': true, multifd: true };
    await source.qemu.migrate(`file:${dir.join('vm')},offset=4096`, { capabilities });
    const from = `file:${dir.join('vm')},offset=4096`;
    await using restored = await machine({ binary, incoming: 'defer' });
    // QEMU would take this for the one above, at another place.
    const misleading = { scheme: 'file', path: dir.join('vm,offset=8'), offset: 4096 } as const;
    copyFileSync(dir.join('vm'), misleading.path);
    const misled = restoreVm(restored.qmp, await openFrom(misleading));
    await assert.rejects(misled, fails('ENOTSUP', /as an offset; rename the file/));
    const { bytes, status } = await restoreVm(restored.qmp, await openFrom(from));
    assert.deepEqual([bytes, status], [null, 'running']);
    await restored.qemu.waitCounterRises();
    assert.equal(requireQemu(), false);
    await using old = await machine({ incoming: 'defer' });
    const sequential = await restoreVm(old.qmp, await openFrom(from));
    assert.equal(sequential.status, 'running');
    assert.ok(Number(sequential.bytes) > 0);
    await old.qemu.waitCounterRises();
  });
});

describe('a monitor', { skip: requireQemu() }, () => {
  test('that another client uses is reported as busy, and is free once that client has closed', async () => {
    await using dir = makeTempDir();
    const monitor = `unix:${dir.join('qmp')},server=on,wait=off`;
    await using qemu = await startQemu({ firmware: image, extraArgs: ['-qmp', monitor] });
    const first = await QmpClient.connect(dir.join('qmp'));
    const second = QmpClient.connect(dir.join('qmp'), { timeoutMs: 100 });
    await assert.rejects(second, fails('ETIMEDOUT', /another client may be connected/));
    await first.close();
    await using third = await QmpClient.connect(dir.join('qmp'));
    const since = third.eventCount;
    await third.execute('stop');
    assert.equal((await third.waitForEvent('STOP', { since })).event, 'STOP');
    assert.equal((await third.execute<{ status: string }>('query-status')).status, 'paused');
    const ended = third.waitForEvent('NEVER');
    process.kill(qemu.pid, 'SIGKILL');
    await assert.rejects(ended, fails('ECONNRESET', /./));
  });

  test('for people is distinguished from one for programs', async () => {
    await using dir = makeTempDir();
    const monitor = `unix:${dir.join('hmp')},server=on,wait=off`;
    await using qemu = await startQemu({ firmware: image, extraArgs: ['-monitor', monitor] });
    const connecting = QmpClient.connect(dir.join('hmp'));
    await assert.rejects(connecting, fails('EPROTO', /human monitor.*start QEMU with -qmp/));
    assert.equal(await qemu.status(), 'running');
  });
});

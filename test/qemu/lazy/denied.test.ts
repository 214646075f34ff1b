// Lazy restores to a QEMU whose user the kernel denies userfaultfd.
import assert from 'node:assert/strict';
import { chmodSync, readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { type Machine, machine, QEMUS, saveGuest } from './machine.ts';

/** Arguments with which a QEMU gives up the rights of root once it has opened its files. */
const UNPRIVILEGED: Readonly<Record<string, readonly string[]>> = {
  '7.2': ['-runas', 'nobody'],
  '10.0': ['-run-with', 'user=nobody'],
};

/** Returns the `skip` option of these tests: `false` where QEMU can be started as root and go on as another user. */
function requireDenial(): string | false {
  if (process.getuid?.() !== 0) {
    const reason = 'only root can start a QEMU that goes on as another user';
    if (process.env.CI) throw new Error(`${reason}; these tests must not be skipped in CI`);
    return reason;
  }
  const isAllowed = readFileSync('/proc/sys/vm/unprivileged_userfaultfd', 'utf8').trim() === '1';
  return isAllowed && 'this host allows userfaultfd to everybody';
}

/** Checks that a QEMU waits for a migration as after its start. */
async function assertWaitsUntouched({ qemu, qmp }: Machine): Promise<void> {
  assert.equal(await qemu.status(), 'inmigrate');
  assert.deepEqual(await qmp.execute('query-migrate'), {});
}

const hasNoDenial = requireDenial();

for (const { version, skip, options } of QEMUS) {
  describe(`a lazy restore to QEMU ${version} without userfaultfd`, {
    skip: skip || hasNoDenial,
    timeout: 300_000,
  }, () => {
    let dir: TempDir;
    before(async () => {
      dir = makeTempDir();
      await saveGuest(dir.join('vm.mig'), options);
    });
    after(() => dir.remove());

    const start = (): Promise<Machine> => {
      return machine({ ...options, incoming: 'defer' }, UNPRIVILEGED[version]);
    };

    test('is refused before anything is sent, and says what to allow', async () => {
      await using restored = await start();
      const { code, stderr } = await run([
        ...['restore', '--lazy', '--qmp', restored.monitor, dir.join('vm.mig')],
      ]);
      assert.equal(code, 5, stderr);
      assert.match(stderr, /QEMU refuses postcopy: .*sysctl vm\.unprivileged_userfaultfd=1/);
      assert.match(stderr, /\/dev\/userfaultfd \(its group\), or restore without --lazy/);
      await assertWaitsUntouched(restored);
    });

    // QEMU's new user cannot reach the private socket of the command, but can read a mapped-ram file by itself.
    if (version === '7.2') return;

    test('is an ordinary one with --lazy=auto', async () => {
      const mapped = dir.join('mapped.mig');
      {
        await using source = await machine(options);
        await source.qemu.waitGuestReady();
        await source.qemu.migrate(`file:${mapped}`, { capabilities: { 'mapped-ram': true } });
      }
      chmodSync(dir.path, 0o755);
      chmodSync(mapped, 0o644);
      await using restored = await start();
      const { code, stderr } = await run([
        ...['restore', '--lazy=auto', '--qmp', restored.monitor, mapped],
      ]);
      assert.equal(code, 0, stderr);
      assert.match(stderr, /restoring ordinarily, because QEMU refuses postcopy: /);
      assert.match(stderr, /restored .* the guest is running/);
    });
  });
}

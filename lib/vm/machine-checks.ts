import { QemuFileError } from '../contract/errors.ts';
import { hasEnded, queryMigration, queryRunState, type RunState } from './migration-watch.ts';
import type { QmpClient } from './qmp/qmp-client.ts';
import { QmpError } from './qmp/qmp-error.ts';

/** Run states in which a guest cannot be saved: why, and what to do. */
const UNSAVEABLE: ReadonlyMap<string, string> = new Map([
  ['inmigrate', 'it waits for an incoming migration and has no guest yet'],
  [
    'postmigrate',
    'its guest has already been saved or migrated away; to run the guest here again and save it again, give ' +
      'the command "cont" first',
  ],
  ['finish-migrate', 'a migration is ending; try again in a moment'],
  ['save-vm', 'a snapshot is being saved; try again when it is done'],
  ['restore-vm', 'a snapshot is being loaded; try again when it is done'],
  ['colo', 'its guest is one of a pair that COLO keeps in step; end COLO first'],
]);

/**
 * Check that a QEMU can be saved now.
 *
 * @returns Its run state.
 * @throws {QemuFileError} (rejects) `EBUSY` if the run state does not allow it or a migration is in progress;
 *   `ENOTSUP` if QEMU reports that this guest cannot be migrated.
 */
export async function checkSaveable(qmp: QmpClient): Promise<RunState> {
  const operation = 'saveVm';
  const state = await queryRunState(qmp);
  const info = await queryMigration(qmp);
  const obstacle = UNSAVEABLE.get(state.status);
  if (obstacle !== undefined) {
    const reason = `QEMU is in state "${state.status}": ${obstacle}`;
    throw new QemuFileError('EBUSY', reason, { operation });
  }
  if (!hasEnded(info.status)) {
    const reason =
      `another migration of this QEMU is in progress, in state "${info.status}"; wait for its end or give the ` +
      'command "migrate_cancel"';
    throw new QemuFileError('EBUSY', reason, { operation });
  }
  const blockers = info['blocked-reasons'] ?? [];
  if (blockers.length > 0) {
    const reason = `QEMU cannot save this guest: ${blockers.join('; ')}`;
    throw new QemuFileError('ENOTSUP', reason, { operation });
  }
  return state;
}

/**
 * Check that a QEMU was started with `-incoming defer` and waits for `migrate-incoming`.
 *
 * @throws {QemuFileError} (rejects) `EINVAL` if it was not started for a migration; `EBUSY` if it already has an
 *   address to load a migration from.
 */
export async function checkWaiting(qmp: QmpClient): Promise<void> {
  const operation = 'restoreVm';
  // Sent at once: each round trip delays the guest.
  const [{ status }, info] = await Promise.all([queryRunState(qmp), queryMigration(qmp)]);
  if (status !== 'inmigrate') {
    const reason = `QEMU is in state "${status}" and does not wait for a migration; start it with -incoming defer`;
    throw new QemuFileError('EINVAL', reason, { operation });
  }
  if (info.status !== undefined && info.status !== 'none') {
    const reason =
      `this QEMU already has an incoming migration, in state "${info.status}"; start it with -incoming defer ` +
      'instead of an address';
    throw new QemuFileError('EBUSY', reason, { operation });
  }
}

/** Return whether a machine omits the VM description at the end of its stream (`suppress-vmdesc=on`). */
export async function suppressesDescription(qmp: QmpClient): Promise<boolean> {
  return (await machineProperty(qmp, 'suppress-vmdesc')) === true;
}

/** Return a property of the machine; undefined if this machine does not have it. */
async function machineProperty(qmp: QmpClient, property: string): Promise<unknown> {
  try {
    return await qmp.execute<unknown>('qom-get', { path: '/machine', property });
  } catch (error) {
    if (error instanceof QmpError) return undefined;
    throw error;
  }
}

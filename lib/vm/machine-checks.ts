import { QemuFileError } from '../contract/errors.ts';
import { printable } from '../util/format.ts';
import { hasEnded, queryMigration, queryRunState, type RunState } from './migration-watch.ts';
import type { QmpClient } from './qmp/qmp-client.ts';
import { QmpError } from './qmp/qmp-error.ts';

/** What a guest that cannot be saved now may be up to, and what helps. */
const UNSAVEABLE: ReadonlyMap<string, string> = new Map([
  ['inmigrate', 'it waits for a migration itself, and has no guest yet'],
  [
    'postmigrate',
    'its guest was saved or migrated away already; if it is to run on here, and be saved again, give the ' +
      'command "cont" first',
  ],
  ['finish-migrate', 'a migration is just ending'],
  ['save-vm', 'a snapshot is being saved'],
  ['restore-vm', 'a snapshot is being loaded'],
  ['colo', 'it is one of a pair that is kept the same (COLO)'],
]);

/**
 * Makes sure that a QEMU can be saved now.
 *
 * @returns Its run state.
 * @throws {QemuFileError} (rejects) `EBUSY` if a migration or the like is under way, or has been; `ENOTSUP` if QEMU
 *   itself says that this guest cannot be migrated.
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
    const reason = `a migration of this QEMU is under way already, in state "${info.status}"`;
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
 * Makes sure that a QEMU waits to be told where a migration comes from.
 *
 * @throws {QemuFileError} (rejects) `EINVAL` if it was not started for that; `EBUSY` if a migration comes in already.
 */
export async function checkWaiting(qmp: QmpClient): Promise<void> {
  const operation = 'restoreVm';
  const { status } = await queryRunState(qmp);
  if (status !== 'inmigrate') {
    const reason = `QEMU is in state "${status}" and waits for no migration: start it with -incoming defer`;
    throw new QemuFileError('EINVAL', reason, { operation });
  }
  const info = await queryMigration(qmp);
  if (info.status !== undefined && info.status !== 'none') {
    const reason =
      `this QEMU has been told already where its migration comes from (state "${info.status}"): start it ` +
      'with -incoming defer';
    throw new QemuFileError('EBUSY', reason, { operation });
  }
}

/**
 * Makes sure that a QEMU has the machine that a stream is of: QEMU would find out too late to be of use for
 * another stream.
 *
 * @throws {QemuFileError} (rejects) `EINVAL` if it has another one.
 */
export async function checkMachine(
  qmp: QmpClient,
  { machine }: { readonly machine: string },
): Promise<void> {
  const type = await machineProperty(qmp, 'type');
  if (typeof type !== 'string') return;
  const own = type.replace(/-machine$/, '');
  if (own === machine) return;
  const saved = printable(machine);
  const reason = `the guest was saved on a machine "${saved}", and this QEMU has "${own}": start it with -M ${saved}`;
  throw new QemuFileError('EINVAL', reason, { operation: 'restoreVm' });
}

/** Whether a machine sends no VM description at the end of its stream. */
export async function suppressesDescription(qmp: QmpClient): Promise<boolean> {
  return (await machineProperty(qmp, 'suppress-vmdesc')) === true;
}

/** Gives a property of the machine; undefined if it has no such. */
async function machineProperty(qmp: QmpClient, property: string): Promise<unknown> {
  try {
    return await qmp.execute<unknown>('qom-get', { path: '/machine', property });
  } catch (error) {
    if (error instanceof QmpError) return undefined;
    throw error;
  }
}

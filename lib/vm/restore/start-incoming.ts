import { QemuFileError } from '../../contract/errors.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { QmpError } from '../qmp/qmp-error.ts';

/**
 * Name the address from which a QEMU that was started with `-incoming defer` loads its guest.
 *
 * @throws {QemuFileError} (rejects) `EBUSY` if QEMU has such an address already; otherwise its refusal.
 */
export async function startIncoming(qmp: QmpClient, uri: string): Promise<void> {
  try {
    await migrateIncoming(qmp, uri);
  } catch (error) {
    if (!(error instanceof QmpError) || !error.description.includes('already been started')) {
      throw error;
    }
    const reason =
      'this QEMU listens for another migration already; start it with -incoming defer instead of an address';
    throw new QemuFileError('EBUSY', reason, { operation: 'migrate-incoming', cause: error });
  }
}

async function migrateIncoming(qmp: QmpClient, uri: string): Promise<void> {
  try {
    // QEMU must not exit on an error before its reason was read.
    await qmp.execute('migrate-incoming', { uri, 'exit-on-error': false });
  } catch (error) {
    const isUnknown = error instanceof QmpError && error.description.includes('exit-on-error');
    if (!isUnknown) throw error;
    await qmp.execute('migrate-incoming', { uri });
  }
}

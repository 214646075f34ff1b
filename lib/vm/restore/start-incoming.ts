import { QemuFileError } from '../../contract/errors.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { QmpError } from '../qmp/qmp-error.ts';

/** The first major version of QEMU some of whose minor versions know `exit-on-error` (9.1). */
const EXIT_ON_ERROR_FROM = 9;

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
  // Earlier versions refuse the option, and a refused command would delay the guest.
  if (qmp.greeting.version.major >= EXIT_ON_ERROR_FROM) {
    try {
      // QEMU must not exit on an error before its reason was read.
      await qmp.execute('migrate-incoming', { uri, 'exit-on-error': false });
      return;
    } catch (error) {
      const isUnknown = error instanceof QmpError && error.description.includes('exit-on-error');
      if (!isUnknown) throw error;
    }
  }
  await qmp.execute('migrate-incoming', { uri });
}

import type { QmpClient } from '../qmp/qmp-client.ts';
import { QmpError } from '../qmp/qmp-error.ts';

/** Name the address from which a QEMU that was started with `-incoming defer` loads its guest. */
export async function startIncoming(qmp: QmpClient, uri: string): Promise<void> {
  try {
    // QEMU must not exit on an error before its reason was read.
    await qmp.execute('migrate-incoming', { uri, 'exit-on-error': false });
  } catch (error) {
    const isUnknown = error instanceof QmpError && error.description.includes('exit-on-error');
    if (!isUnknown) throw error;
    await qmp.execute('migrate-incoming', { uri });
  }
}

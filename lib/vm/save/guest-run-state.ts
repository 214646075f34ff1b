import { QemuFileError } from '../../contract/errors.ts';
import { settledRunState } from '../migration-watch.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import type { SaveOptions } from './save-options.ts';

/**
 * Let the guest run if it ran before a save that failed.
 *
 * @param wasRunning - Whether it ran.
 * @param cause - The error of the save.
 * @throws {QemuFileError} (rejects) with the code of `cause` if the guest does not run on.
 */
export async function resumeAfterFailure(
  qmp: QmpClient,
  { signal, pause }: SaveOptions,
  wasRunning: boolean,
  cause: QemuFileError,
): Promise<void> {
  if (qmp.isClosed) {
    if (signal?.aborted !== true || cause.cause !== signal.reason) return;
    // A Ctrl-C may have ended QEMU as well, and the caller would otherwise see only the abort.
    const reason = `${cause.reason}; and QEMU cannot be reached any more`;
    throw new QemuFileError(cause.code, reason, { operation: 'saveVm', cause });
  }
  if (!wasRunning) return;
  try {
    const { status } = await settledRunState(qmp);
    const wasPausedHere = status === 'paused' && pause === true;
    // In any other state, such as `io-error`, the guest was stopped for a reason of its own.
    if (wasPausedHere || status === 'postmigrate') await qmp.execute('cont');
  } catch (error) {
    const reason = `${cause.message}; and the guest does not run on: ${(error as Error).message}`;
    throw new QemuFileError(cause.code, reason, { operation: 'saveVm', cause });
  }
}

/**
 * Let the guest run after a save, if the caller asked for it.
 *
 * @param warnings - Receives a warning instead of an error: the stream is stored, so the save does not fail any more.
 * @returns The run state; `unknown` if QEMU does not report it.
 */
export async function runStateAfterSave(
  qmp: QmpClient,
  { resume }: SaveOptions,
  warnings: string[],
): Promise<string> {
  try {
    const { status } = await settledRunState(qmp);
    if (resume !== true) return status;
    await qmp.execute('cont');
    return (await settledRunState(qmp)).status;
  } catch (error) {
    warnings.push(`the guest is saved, but ${(error as Error).message}`);
    return 'unknown';
  }
}

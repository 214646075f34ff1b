import { QemuFileError } from '../../contract/errors.ts';
import type { MigrationInfo } from '../migration-watch.ts';

const operation = 'saveVm';

/** Return the error of a migration that did not complete, with QEMU's own words where there are any. */
export function migrationError(info: MigrationInfo, cause?: Error): QemuFileError {
  if (info.status === 'cancelled') {
    const reason = 'another client cancelled the migration in QEMU';
    return new QemuFileError('ECANCELED', reason, { operation, cause });
  }
  const detail =
    info['error-desc'] ?? cause?.message ?? 'it reports no reason; see its standard error';
  return new QemuFileError('EIO', `QEMU's migration failed: ${detail}`, { operation, cause });
}

/** Return the error of a save whose QEMU no longer answers. */
export function unreachableError(cause: QemuFileError): QemuFileError {
  const reason = `QEMU cannot be reached any more during the save: ${cause.reason}`;
  return new QemuFileError(cause.code, reason, { operation, cause });
}

/** Return the error of a save whose stream was stored, but whose QEMU did not complete its migration. */
export function notCompletedError(cause: QemuFileError): QemuFileError {
  const reason =
    `the stream was saved completely, but QEMU did not complete its migration (${cause.message}); if its guest ` +
    'runs on, its disks no longer match what was saved: save it again';
  return new QemuFileError(cause.code, reason, { operation, cause });
}

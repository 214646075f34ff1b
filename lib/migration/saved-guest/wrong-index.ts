import { QemuFileError } from '../../contract/errors.ts';

/** Return the error of an index that does not fit its file. */
export function wrongIndex(why: string, position?: number): QemuFileError {
  const reason = `the page index does not fit the file: ${why}; the file was changed, or the index belongs to another one: remove the index`;
  return new QemuFileError('EBADMSG', reason, { operation: 'openSavedGuest', position });
}

import { QemuFileError } from '../../contract/errors.ts';

/**
 * Return the error for an object whose bytes are not what the format demands.
 *
 * @param key - Key of the object.
 * @param reason - What is wrong, as a clause.
 */
export function damaged(key: string, reason: string, cause?: unknown): QemuFileError {
  const context = { operation: 'readSnapshot', cause };
  return new QemuFileError('EBADMSG', `${key} is damaged: ${reason}`, context);
}

import { QemuFileError } from '../../contract/errors.ts';

/**
 * Return the error for an object whose bytes are not what the format demands.
 *
 * @param key - Key of the object.
 * @param reason - What is wrong, as a clause.
 */
export function damaged(key: string, reason: string, cause?: unknown): QemuFileError {
  const advice = 'see what else is damaged with "qemu-file store fsck --deep"';
  const context = { operation: 'readSnapshot', advice, cause };
  return new QemuFileError('EBADMSG', `${key} is damaged: ${reason}`, context);
}

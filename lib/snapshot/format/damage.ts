import { QemuFileError } from '../../contract/errors.ts';
import { hex, quote } from '../../util/format.ts';

/** Operation of the errors of damaged objects. */
const READ_SNAPSHOT = 'readSnapshot';

/**
 * Return the error for an object whose bytes are not what the format demands.
 *
 * @param key - Key of the object.
 * @param reason - What is wrong, as a clause.
 */
export function damaged(key: string, reason: string, cause?: unknown): QemuFileError {
  return damageError(`${key} is damaged: ${reason}`, cause);
}

/** Return whether an error is about a damaged or missing object of a store. */
export function isDamageError({ code, operation }: QemuFileError): boolean {
  return code === 'EBADMSG' && operation === READ_SNAPSHOT;
}

/**
 * Return the error for a page that cannot be read, with its place if an object is damaged.
 *
 * @param block - Name of its RAM block.
 * @param offset - Offset of the page in the block.
 */
export function unreadablePage(error: unknown, block: string, offset: number): unknown {
  if (!(error instanceof QemuFileError) || !isDamageError(error)) return error;
  const place = `the page at ${hex(offset)} of the RAM block ${quote(block)}`;
  return damageError(`${error.reason}; ${place} is in it`, error);
}

function damageError(reason: string, cause: unknown): QemuFileError {
  const advice = 'see what else is damaged with "qemu-file store fsck --deep"';
  return new QemuFileError('EBADMSG', reason, { operation: READ_SNAPSHOT, advice, cause });
}

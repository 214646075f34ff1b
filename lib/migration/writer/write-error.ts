import { QemuFileError } from '../../contract/errors.ts';
import { printable } from '../../util/format.ts';
import { quoteSection, type SectionName } from '../format/stream-error.ts';

/**
 * Return the error of a call that would write a stream which QEMU does not load.
 *
 * @param operation - Public name of the call.
 * @param reason - The fault, as a clause without a full stop; made `printable` here.
 * @param position - Offset in the stream of the next byte to write.
 * @param section - The section that is open.
 */
export function writeError(
  operation: string,
  reason: string,
  position: number,
  section: SectionName | null = null,
): QemuFileError {
  const within = section === null ? '' : `in section ${quoteSection(section)}: `;
  return new QemuFileError('EINVAL', within + printable(reason), { operation, position });
}

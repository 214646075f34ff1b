import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { isMappedRam, rebaseMappedRam } from '../../relay/rebase-mapped-ram.ts';
import type { Endpoint } from '../endpoints/endpoint.ts';
import type { OpenFailure } from '../endpoints/open-endpoints.ts';

/** The two ends of a relay, as far as offsets in a mapped-ram stream depend on them. */
export interface RelayRoute {
  readonly from: Endpoint;
  readonly to: Endpoint;
  /** Path of the copy, which begins at offset 0. */
  readonly tee?: string | undefined;
}

/** Return the offset in its file at which an end of a relay has the stream. */
export function streamOffsetOf(end: Endpoint): number {
  return end.scheme === 'file' ? end.offset : 0;
}

/**
 * Return the file that a relay reads so that the offsets in a mapped-ram stream fit the place where it goes:
 * `file` itself where nothing changes, else one that rewrites them.
 *
 * @returns A failure if the stream has mapped-ram and cannot go there: `ENOTSUP`, or the error of its header.
 */
export async function fitMappedRam(
  { from, to, tee }: RelayRoute,
  file: QemuFile,
): Promise<QemuFile | OpenFailure> {
  const [fromOffset, toOffset] = [streamOffsetOf(from), streamOffsetOf(to)];
  // A live source is never mapped-ram, and its first bytes must not wait for more of them.
  if (from.scheme !== 'file') return file;
  const isMoved = fromOffset !== toOffset;
  const isCopyMoved = tee !== undefined && toOffset !== 0;
  if (!isMoved && !isCopyMoved) return file;
  try {
    if (!(await isMappedRam(file))) return file;
  } catch (error) {
    return { end: 'from', error: toQemuFileError(error) };
  }
  if (to.scheme !== 'file') {
    const reason =
      `offsets in a mapped-ram stream count from the start of its file, where it is at ${fromOffset}, ` +
      'and this end cannot seek; relay it to a file';
    return { end: 'to', error: new QemuFileError('ENOTSUP', reason) };
  }
  if (isCopyMoved) {
    const reason =
      `offsets in a mapped-ram stream count from the start of its file, and it cannot be both at ` +
      `${toOffset} and, in the copy, at 0; make the copy with a relay of its own`;
    return { end: 'tee', error: new QemuFileError('ENOTSUP', reason) };
  }
  return rebaseMappedRam(file, fromOffset, toOffset);
}

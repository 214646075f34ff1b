import { toQemuFileError } from '../../contract/errors.ts';
import { EXIT } from '../shell/exit-codes.ts';
import { printStderr } from '../shell/stdio.ts';
import { isNameError } from './snapshot-url.ts';
import { isTlsUsage } from './tls/credentials.ts';

/**
 * Print why the endpoints of a command cannot be used as typed.
 *
 * @param error - An error of `parseEndpoint` or `readTls`.
 * @returns The exit code: `IO` if a file that the TLS options name cannot be read or used, or if no snapshot can have
 *   the name in an endpoint; otherwise `USAGE`.
 */
export async function reportUnusable(error: unknown): Promise<number> {
  const failure = toQemuFileError(error);
  await printStderr(failure.reason);
  const isUnreadable = failure.operation === 'tls' && !isTlsUsage(failure);
  return isUnreadable || isNameError(failure) ? EXIT.IO : EXIT.USAGE;
}

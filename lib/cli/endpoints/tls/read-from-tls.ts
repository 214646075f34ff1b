import { printStderr } from '../../shell/stdio.ts';
import type { Endpoint } from '../endpoint.ts';
import type { TlsEnds, TlsFlags } from './credentials.ts';

/** Values of the TLS options of a command that only reads. */
export type FromTlsFlags = Pick<TlsFlags, keyof TlsFlags & `from${string}`>;

/**
 * Read the files that the TLS options of a reading command name.
 *
 * @returns How the endpoint speaks TLS; undefined if no option asks for it.
 * @throws {QemuFileError} (rejects) as `readTls`.
 */
export async function readFromTls(
  flags: FromTlsFlags,
  from: Endpoint,
): Promise<TlsEnds | undefined> {
  if (!Object.keys(flags).some((name) => name.startsWith('fromTls'))) return undefined;
  // Loaded here, because a command that reads a file starts faster without it.
  const { readTls } = await import('./credentials.ts');
  return readTls(flags, { from }, (text) => void printStderr(text));
}

/** Print why the endpoints of a command cannot be used; return the exit code, as `reportUnusable`. */
export async function reportUnreadable(error: unknown): Promise<number> {
  const { reportUnusable } = await import('../report-unusable.ts');
  return reportUnusable(error);
}

import { constants } from 'node:os';
import { QemuFileError } from '../lib/errors.ts';

/**
 * Turns an error of `node:net` or `node:tls` into one that says where it happened. What has no errno
 * (a certificate that does not verify, a handshake that failed) is `EPROTO`.
 *
 * @param error - What the socket or the server reported.
 * @param operation - `connect`, `listen` or `accept`.
 * @param where - The address, as a URI shows it.
 */
export function networkError(error: Error, operation: string, where: string): QemuFileError {
  const { code } = error as { code?: unknown };
  const known = typeof code === 'string' && code in constants.errno ? code : undefined;
  const isLookup = (error as { syscall?: unknown }).syscall === 'getaddrinfo';
  const fallback = isLookup ? 'EHOSTUNREACH' : 'EPROTO';
  return new QemuFileError(known ?? fallback, `${where}: ${reasonOf(error)}`, {
    operation,
    cause: error,
  });
}

/** Node leaves the message of an `AggregateError` empty, one error per address tried inside. */
function reasonOf(error: Error): string {
  if (error.message !== '') return error.message;
  const { errors } = error as { errors?: unknown };
  return Array.isArray(errors)
    ? errors
        .map((each: unknown) => (each instanceof Error ? each.message : String(each)))
        .join(', ')
    : 'the connection failed';
}

import { constants } from 'node:os';
import { QemuFileError } from '../../lib/contract/errors.ts';
import { tlsReason } from '../stream/tls-reason.ts';

/** Node's messages for a peer that ends the connection during the handshake. */
const HUNG_UP: ReadonlySet<string> = new Set([
  'Client network socket disconnected before secure TLS connection was established',
  'socket hang up',
]);
const LEFT_EARLY =
  'it ended the connection during the TLS handshake: it may not speak TLS, or refuse the ' +
  'certificate or the shared key (PSK) of this side; look at its log';

/**
 * Convert an error of `node:net` or `node:tls` to a `QemuFileError` that names the address. An error without
 * an errno (an invalid certificate, a failed handshake) becomes `EPROTO`, a handshake that timed out
 * `ETIMEDOUT`.
 *
 * @param error - The error that the socket or the server emitted.
 * @param operation - `connect`, `listen` or `accept`.
 * @param where - The address, as a URI.
 */
export function networkError(error: Error, operation: string, where: string): QemuFileError {
  const { code } = error as { code?: unknown };
  const known = typeof code === 'string' && code in constants.errno ? code : undefined;
  const isLookup = (error as { syscall?: unknown }).syscall === 'getaddrinfo';
  const isLate = code === 'ERR_TLS_HANDSHAKE_TIMEOUT';
  const fallback = isLookup ? 'EHOSTUNREACH' : isLate ? 'ETIMEDOUT' : 'EPROTO';
  const reason = tlsReason(error) ?? reasonOf(error);
  return new QemuFileError(known ?? fallback, `${where}: ${reason}`, {
    operation,
    cause: error,
  });
}

/** Node leaves the message of an `AggregateError` empty, which has one error for each address. */
function reasonOf(error: Error): string {
  if (HUNG_UP.has(error.message)) return LEFT_EARLY;
  if (error.message !== '') return error.message;
  const { errors } = error as { errors?: unknown };
  return Array.isArray(errors)
    ? errors
        .map((each: unknown) => (each instanceof Error ? each.message : String(each)))
        .join(', ')
    : 'the connection failed';
}

import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { tlsReason } from './tls-reason.ts';

/** Codes of Node and libuv that mean only that the stream is gone. */
const GONE: ReadonlySet<string> = new Set([
  // libuv: the handle was closed during a write, as Node closes a child's standard input at its exit.
  'ECANCELED',
  'ERR_SOCKET_CLOSED',
  'ERR_STREAM_ALREADY_FINISHED',
  'ERR_STREAM_DESTROYED',
  'ERR_STREAM_PREMATURE_CLOSE',
  'ERR_STREAM_WRITE_AFTER_END',
]);

/** A latched failure: makes its error for the operation that meets it, at a position. */
export type Failure = (operation: string, position: number | undefined) => QemuFileError;

/** Return a failure with a code and a reason of our own. */
export function failure(code: string, reason: string, cause?: unknown): Failure {
  return (operation, position) => new QemuFileError(code, reason, { operation, position, cause });
}

/** Return the failure of writing to a stream that is closed or ended. */
export function gone(cause?: unknown): Failure {
  return failure('EPIPE', 'the stream is closed for writing', cause);
}

/**
 * Return the failure for an error that a stream emitted.
 *
 * @param cause - The error.
 * @param lost - Returns the failure instead when the error means only that the stream is gone.
 */
export function failureOf(cause: unknown, lost: (cause: unknown) => Failure): Failure {
  const code = (cause as { code?: unknown } | null | undefined)?.code;
  const isOurs = cause instanceof QemuFileError;
  if (!isOurs && typeof code === 'string' && GONE.has(code)) return lost(cause);
  // With TLS 1.3, the peer rejects a certificate only after the handshake.
  const reason = !isOurs && cause instanceof Error ? tlsReason(cause) : undefined;
  if (reason !== undefined) return failure('EPROTO', reason, cause);
  return (operation, position) => toQemuFileError(cause, { operation, position });
}

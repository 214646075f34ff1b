import type { Rejection } from '../../../../adapters/socket/listen/admit.ts';
import type { QemuFileError } from '../../../contract/errors.ts';
import type { RelayEnd } from '../../../relay/relay-types.ts';
import type { TlsEnds } from './credentials.ts';

const BROKEN: ReadonlySet<string> = new Set(['ECONNRESET', 'EPIPE']);

/**
 * Return what an error of `to` may mean where `to` speaks TLS. QEMU verifies certificates only after the
 * handshake, and then closes the connection without an alert.
 *
 * @returns A clause to append, or an empty string.
 */
export function tlsHint(end: RelayEnd | null, { code }: QemuFileError, { to }: TlsEnds): string {
  if (end !== 'to' || to === undefined || to.pskCallback !== undefined || !BROKEN.has(code)) {
    return '';
  }
  return to.cert === undefined
    ? '; the peer may require a client certificate, and there is none: give one with --to-tls-cert'
    : '; the peer may not trust the client certificate: see its log';
}

/**
 * Return what it may mean that a client closed the connection after the handshake without sending anything, as
 * a QEMU does that does not accept the server certificate.
 *
 * @returns A clause to append, or an empty string.
 */
export function rejectionHint({ reason, start }: Rejection, tls: TlsEnds | undefined): string {
  const from = tls?.from;
  if (from === undefined || from.pskCallback !== undefined) return '';
  if (reason !== 'closed' || start.length > 0) return '';
  return (
    ', after the TLS handshake: it may not trust the server certificate, or expect another name in it (set its ' +
    'parameter tls-hostname)'
  );
}

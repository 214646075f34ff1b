import type { Rejection } from '../../../adapters/index.ts';
import type { QemuFileError } from '../../contract/errors.ts';
import type { RelayEnd } from '../../relay/relay.ts';
import type { TlsEnds } from './tls-credentials.ts';

const BROKEN: ReadonlySet<string> = new Set(['ECONNRESET', 'EPIPE']);

/**
 * Says what an error of `to` may mean where it speaks TLS. A QEMU looks at certificates only when the
 * handshake is done, and then breaks the connection without a word.
 *
 * @returns A clause to be appended, or nothing.
 */
export function tlsHint(end: RelayEnd | null, { code }: QemuFileError, { to }: TlsEnds): string {
  if (end !== 'to' || to === undefined || to.pskCallback !== undefined || !BROKEN.has(code)) {
    return '';
  }
  return to.cert === undefined
    ? '; it may demand a certificate of this side, which has none: give it one with --to-tls-cert'
    : "; it may not trust this side's certificate: its log says so then";
}

/**
 * Says what it may mean that a client ended after its handshake without a byte, as a QEMU does that does
 * not accept the certificate of this side.
 *
 * @returns A clause to be appended, or nothing.
 */
export function refusedHint({ reason, start }: Rejection, tls: TlsEnds | undefined): string {
  const from = tls?.from;
  if (from === undefined || from.pskCallback !== undefined) return '';
  if (reason !== 'closed' || start.length > 0) return '';
  return (
    ", after the TLS handshake: it may not trust this side's certificate, or expect another name " +
    'in it (tls-hostname)'
  );
}

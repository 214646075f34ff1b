/** Reasons why the peer's certificate is not valid, by OpenSSL's codes. */
const UNVERIFIED: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'its certificate has expired: renew it, or correct the clock of this machine',
  CERT_NOT_YET_VALID:
    'its certificate is not valid yet: correct the clock of this machine, or of its authority',
  CERT_REVOKED: 'its certificate has been revoked by its authority',
  INVALID_PURPOSE:
    'its certificate is not for this side of a connection: its extended key usage must allow it',
};

/** OpenSSL's codes for a chain of certificates that does not end at a trusted authority. */
const UNTRUSTED: ReadonlySet<string> = new Set([
  'CERT_REJECTED',
  'CERT_SIGNATURE_FAILURE',
  'CERT_UNTRUSTED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'INVALID_CA',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);

const NO_TLS = 'the peer does not speak TLS: turn TLS on at the peer, or off here';
const NOTHING_IN_COMMON =
  'the two sides have no protocol version or cipher in common: both must use certificates, or both a ' +
  'shared key (PSK), with TLS 1.2 or newer';
const WRONG_KEY =
  'the shared keys (PSK) differ, or the data was damaged: give both sides the same key for that user';
const REFUSES_OURS = "the peer rejects this side's certificate";

/** Reasons that the peer sent, by the names of TLS's alerts. */
const ALERTS: Readonly<Record<string, string>> = {
  BAD_CERTIFICATE: REFUSES_OURS,
  BAD_RECORD_MAC: WRONG_KEY,
  CERTIFICATE_EXPIRED: `${REFUSES_OURS}: it has expired`,
  CERTIFICATE_REVOKED: `${REFUSES_OURS}: it has been revoked`,
  CERTIFICATE_UNKNOWN: REFUSES_OURS,
  HANDSHAKE_FAILURE: NOTHING_IN_COMMON,
  UNSUPPORTED_CERTIFICATE: `${REFUSES_OURS}: the peer does not support its type`,
  CERTIFICATE_REQUIRED:
    'the peer requires a certificate: give this side one of an authority that the peer trusts',
  ACCESS_DENIED: `${REFUSES_OURS}: it has no access`,
  DECRYPT_ERROR: WRONG_KEY,
  INSUFFICIENT_SECURITY: NOTHING_IN_COMMON,
  PROTOCOL_VERSION: NOTHING_IN_COMMON,
  UNKNOWN_CA: `${REFUSES_OURS}: it does not trust its authority`,
  UNKNOWN_PSK_IDENTITY: 'the peer has no shared key (PSK) for this user',
};

/** Node's codes of alerts, with OpenSSL's prefix of a TLS version. */
const ALERT = /^ERR_SSL_.*_ALERT_(\w+)$/;

/** Reasons why the handshake failed on this side, by Node's codes of OpenSSL's reasons. */
const HANDSHAKE: Readonly<Record<string, string>> = {
  ERR_SSL_BINDER_DOES_NOT_VERIFY: WRONG_KEY,
  ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC: WRONG_KEY,
  ERR_SSL_DIGEST_CHECK_FAILED: WRONG_KEY,
  ERR_SSL_HTTP_REQUEST: NO_TLS,
  ERR_SSL_NO_SHARED_CIPHER: NOTHING_IN_COMMON,
  ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM: NOTHING_IN_COMMON,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: NO_TLS,
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    'it sent no certificate of a trusted authority: give it one',
  ERR_SSL_PSK_IDENTITY_NOT_FOUND: 'there is no shared key (PSK) for the user that it named',
  ERR_SSL_UNSUPPORTED_PROTOCOL: NOTHING_IN_COMMON,
  ERR_SSL_WRONG_VERSION_NUMBER: NO_TLS,
  ERR_TLS_HANDSHAKE_TIMEOUT: 'it did not finish the TLS handshake in time',
};

/**
 * Return whether an error is the alert that OpenSSL 3 sends when a connection ends with a FIN and no
 * `close_notify`: it has read all bytes before the FIN, but calls the end a `decode_error`.
 */
export function isEndWithoutNotify(error: Error): boolean {
  const { code } = error as { code?: unknown };
  return typeof code === 'string' && ALERT.exec(code)?.[1] === 'DECODE_ERROR';
}

/**
 * Return the reason why TLS failed, and what to do about it.
 *
 * @param error - The error that `node:tls` emitted, during the handshake or later.
 * @returns A clause; undefined for an error that is not TLS's own.
 */
export function tlsReason(error: Error): string | undefined {
  const { code } = error as { code?: unknown };
  if (typeof code !== 'string') return undefined;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return wrongName(error);
  const alert = ALERT.exec(code)?.[1] ?? '';
  return unverifiedReason(code) ?? HANDSHAKE[code] ?? ALERTS[alert] ?? openSslReason(error);
}

/**
 * Return the reason why a certificate is not trusted.
 *
 * @param code - OpenSSL's code, such as `CERT_HAS_EXPIRED`.
 * @returns A clause; undefined for another code.
 */
export function unverifiedReason(code: string): string | undefined {
  if (!UNTRUSTED.has(code)) return UNVERIFIED[code];
  return `its certificate does not verify (${code}): its authority is not trusted here`;
}

function wrongName(error: Error): string {
  const { host, cert } = error as { host?: unknown; cert?: { subjectaltname?: unknown } };
  const names = cert?.subjectaltname;
  const itsNames = typeof names === 'string' ? ` but for ${names}` : '';
  return (
    `its certificate is not for "${String(host)}"${itsNames} (altnames): if that is the right peer, ` +
    'set the TLS host name'
  );
}

/** Return OpenSSL's reason; its message also names source files. */
function openSslReason(error: Error): string | undefined {
  const { library, reason } = error as { library?: unknown; reason?: unknown };
  return library === 'SSL routines' && typeof reason === 'string'
    ? `TLS failed: ${reason}`
    : undefined;
}

/** What of the certificates did not verify here, by OpenSSL's codes; of whoever is at the other end. */
const UNVERIFIED: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'its certificate has expired: renew it, or set the clock of this machine right',
  CERT_NOT_YET_VALID:
    'its certificate is not valid yet: set the clock of this machine right, or that of whoever issued it',
  CERT_REVOKED: 'its certificate has been revoked by its authority',
  INVALID_PURPOSE:
    'its certificate is not meant for this end of a connection: its extended key usage must allow it',
};

/** OpenSSL's codes for a chain of certificates that does not lead to an authority known here. */
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

const NO_TLS = 'what came is no TLS: turn TLS on at the other end, or off at this one';
const NOTHING_IN_COMMON =
  'the two ends have nothing in common: both must use certificates, or both a shared key (PSK), ' +
  'with TLS 1.2 or newer';
const WRONG_KEY =
  'the shared keys (PSK) differ, or what came was damaged: give both ends the same key for that user';
const REFUSES_OURS = "the other end refuses this side's certificate";

/** What the other end says that went wrong, by the names of TLS's alerts. */
const ALERTS: Readonly<Record<string, string>> = {
  BAD_CERTIFICATE: REFUSES_OURS,
  BAD_RECORD_MAC: WRONG_KEY,
  CERTIFICATE_EXPIRED: `${REFUSES_OURS}: it has expired`,
  CERTIFICATE_REVOKED: `${REFUSES_OURS}: it has been revoked`,
  CERTIFICATE_UNKNOWN: REFUSES_OURS,
  HANDSHAKE_FAILURE: NOTHING_IN_COMMON,
  UNSUPPORTED_CERTIFICATE: `${REFUSES_OURS}: it is of a kind unknown there`,
  CERTIFICATE_REQUIRED:
    'the other end demands a certificate: give this side one, of an authority that is trusted there',
  ACCESS_DENIED: `${REFUSES_OURS}: it is not allowed in there`,
  DECRYPT_ERROR: WRONG_KEY,
  INSUFFICIENT_SECURITY: NOTHING_IN_COMMON,
  PROTOCOL_VERSION: NOTHING_IN_COMMON,
  UNKNOWN_CA: `${REFUSES_OURS}: its authority is not trusted there`,
  UNKNOWN_PSK_IDENTITY: 'the other end knows no key (PSK) for this user',
};

/** What the alerts are called by Node's codes: OpenSSL puts versions before them, other ones at times. */
const ALERT = /^ERR_SSL_.*_ALERT_(\w+)$/;

/** What went wrong in the handshake on this side, by Node's codes of OpenSSL's reasons. */
const HANDSHAKE: Readonly<Record<string, string>> = {
  ERR_SSL_BINDER_DOES_NOT_VERIFY: WRONG_KEY,
  ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC: WRONG_KEY,
  ERR_SSL_DIGEST_CHECK_FAILED: WRONG_KEY,
  ERR_SSL_HTTP_REQUEST: NO_TLS,
  ERR_SSL_NO_SHARED_CIPHER: NOTHING_IN_COMMON,
  ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM: NOTHING_IN_COMMON,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: NO_TLS,
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    'it showed no certificate, or none of an authority that is trusted here: give it one',
  ERR_SSL_PSK_IDENTITY_NOT_FOUND: 'no key is known here for the user (PSK) that it named',
  ERR_SSL_UNSUPPORTED_PROTOCOL: NOTHING_IN_COMMON,
  ERR_SSL_WRONG_VERSION_NUMBER: NO_TLS,
  ERR_TLS_HANDSHAKE_TIMEOUT: 'it did not finish the TLS handshake in time',
};

/**
 * Gives the reason why TLS failed, and what to do about it, in words for a person.
 *
 * @param error - What `node:tls` reported, during the handshake or after it.
 * @returns A clause; undefined for what is no failure of TLS's own.
 */
export function tlsReason(error: Error): string | undefined {
  const { code } = error as { code?: unknown };
  if (typeof code !== 'string') return undefined;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return wrongName(error);
  const alert = ALERT.exec(code)?.[1] ?? '';
  return unverifiedReason(code) ?? HANDSHAKE[code] ?? ALERTS[alert] ?? openSslReason(error);
}

/**
 * Gives the reason why a certificate is not trusted.
 *
 * @param code - OpenSSL's, such as `CERT_HAS_EXPIRED`.
 * @returns A clause; undefined for what is no such code.
 */
export function unverifiedReason(code: string): string | undefined {
  if (!UNTRUSTED.has(code)) return UNVERIFIED[code];
  return `its certificate does not verify (${code}): it was issued by no authority that is trusted here`;
}

function wrongName(error: Error): string {
  const { host, cert } = error as { host?: unknown; cert?: { subjectaltname?: unknown } };
  const names = cert?.subjectaltname;
  const itsNames = typeof names === 'string' ? ` but for ${names}` : '';
  return (
    `its certificate is not for "${String(host)}"${itsNames} (altnames): if that is whom you mean, ` +
    'say so as the TLS host name'
  );
}

/** OpenSSL's messages name its source files; the reason alone stands in a property. */
function openSslReason(error: Error): string | undefined {
  const { library, reason } = error as { library?: unknown; reason?: unknown };
  return library === 'SSL routines' && typeof reason === 'string'
    ? `TLS failed: ${reason}`
    : undefined;
}

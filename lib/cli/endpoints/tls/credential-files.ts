import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { open } from 'node:fs/promises';
import { QemuFileError, toQemuFileError } from '../../../contract/errors.ts';

/** Longest file in bytes; the list of all authorities that systems trust is a tenth of this. */
const MAX_FILE_BYTES = 4_194_304;
const READABLE_BY_OTHERS = 0o004;
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;
const KEY_LINE = /^([^:]+):((?:[0-9a-fA-F]{2})+)$/;
/** Longest shared key in bytes that RFC 4279 requires implementations to support. */
const MAX_KEY_BYTES = 64;

/** Receives a message for the user that does not stop the command. */
export type Warn = (text: string) => void;

/** Return the error of a file with unusable contents. */
export function badFile(path: string, problem: string, cause?: unknown): QemuFileError {
  return new QemuFileError('EBADMSG', `${path}: ${problem}`, { operation: 'tls', cause });
}

/** Return the error of a file that cannot be read. */
export function unreadable(path: string, error: unknown): QemuFileError {
  const { code, reason } = toQemuFileError(error);
  // Node's messages end with the system call and the path, which is named already.
  const detail = reason.replace(/, \w+( '.*')?$/, '');
  return new QemuFileError(code, `${path}: ${detail}`, { operation: 'tls', cause: error });
}

async function readText(path: string, warnIfPublic?: Warn): Promise<string> {
  try {
    await using file = await open(path);
    const stats = await file.stat();
    if (stats.size > MAX_FILE_BYTES) throw badFile(path, 'too long for certificates or keys');
    if (warnIfPublic !== undefined && (stats.mode & READABLE_BY_OTHERS) !== 0) {
      warnIfPublic(`${path}: every user of this machine can read this key; run chmod 600 ${path}`);
    }
    return await file.readFile('latin1');
  } catch (error) {
    throw error instanceof QemuFileError ? error : unreadable(path, error);
  }
}

/** Certificates in PEM, and the parsed first one. */
export interface CertificateFile {
  readonly pem: string;
  readonly first: X509Certificate;
}

/**
 * Read a file of certificates.
 *
 * @throws {QemuFileError} The system's code if it cannot be read; `EBADMSG` if it has no certificate, or a
 *   malformed one.
 */
export async function readCertificates(path: string): Promise<CertificateFile> {
  const pem = await readText(path);
  const blocks = pem.match(CERTIFICATE) ?? [];
  let first: X509Certificate | undefined;
  for (const block of blocks) {
    try {
      const certificate = new X509Certificate(block);
      first ??= certificate;
    } catch (error) {
      throw badFile(path, 'it contains a malformed certificate', error);
    }
  }
  if (first === undefined) throw badFile(path, 'it contains no certificate; PEM is expected');
  return { pem, first };
}

/**
 * Read a private key.
 *
 * @param path - Path of a PEM file.
 * @param warn - Called if every user of the machine can read the file.
 * @throws {QemuFileError} The system's code if it cannot be read; `EBADMSG` if it has no private key, or an
 *   encrypted one.
 */
export async function readPrivateKey(
  path: string,
  warn: Warn,
): Promise<{ pem: string; key: KeyObject }> {
  const pem = await readText(path, warn);
  try {
    return { pem, key: createPrivateKey(pem) };
  } catch (error) {
    const isEncrypted = /ENCRYPTED/.test(pem);
    const problem = isEncrypted
      ? 'the private key is encrypted; decrypt it with "openssl pkey" into a file of mode 600'
      : 'it contains no private key, or a malformed one; PEM is expected';
    throw badFile(path, problem, error);
  }
}

/** Read a list of revoked certificates. OpenSSL parses it later. */
export function readRevoked(path: string): Promise<string> {
  return readText(path);
}

/**
 * Read shared keys as `psktool` writes them: lines of `user:hexkey`.
 *
 * @param path - Path of the file. Empty lines and lines that begin with `#` are skipped.
 * @param warn - Called if every user of the machine can read the file.
 * @returns Keys by user.
 * @throws {QemuFileError} The system's code if it cannot be read; `EBADMSG` if it has no key, or a malformed
 *   line.
 */
export async function readSharedKeys(
  path: string,
  warn: Warn,
): Promise<ReadonlyMap<string, Buffer>> {
  const keys = new Map<string, Buffer>();
  for (const [index, line] of (await readText(path, warn)).split(/\r?\n/).entries()) {
    if (line === '' || line.startsWith('#')) continue;
    const [, user, hex] = KEY_LINE.exec(line) ?? [];
    if (user === undefined || hex === undefined) {
      throw badFile(path, `line ${index + 1} is not USER:HEXKEY`);
    }
    const key = Buffer.from(hex, 'hex');
    if (key.length > MAX_KEY_BYTES) {
      throw badFile(path, `the key in line ${index + 1} is longer than ${MAX_KEY_BYTES} bytes`);
    }
    // GnuTLS uses the first line of a user as well.
    if (!keys.has(user)) keys.set(user, key);
  }
  if (keys.size === 0) throw badFile(path, 'it contains no shared key (USER:HEXKEY)');
  return keys;
}

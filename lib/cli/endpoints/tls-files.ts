import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { open } from 'node:fs/promises';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';

/** More than any file of certificates or keys has: all authorities that systems trust are a tenth. */
const MAX_BYTES = 4_194_304;
const READABLE_BY_OTHERS = 0o004;
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;
const KEY_LINE = /^([^:]+):((?:[0-9a-fA-F]{2})+)$/;
/** Longest that RFC 4279 has every implementation take, in bytes. */
const MAX_KEY = 64;

/** Gets what a person should know although it stops nothing. */
export type Warn = (text: string) => void;

/** An error of what a file holds. */
export function badFile(path: string, what: string, cause?: unknown): QemuFileError {
  return new QemuFileError('EBADMSG', `${path}: ${what}`, {
    operation: 'tls',
    ...(cause === undefined ? {} : { cause }),
  });
}

async function readText(path: string, secret?: Warn): Promise<string> {
  try {
    await using file = await open(path);
    const stats = await file.stat();
    if (stats.size > MAX_BYTES) throw badFile(path, 'this is too long for certificates or keys');
    if (secret !== undefined && (stats.mode & READABLE_BY_OTHERS) !== 0) {
      secret(`${path}: every user of this machine can read this key: chmod 600 ${path}`);
    }
    return await file.readFile('latin1');
  } catch (error) {
    if (error instanceof QemuFileError) throw error;
    const { code, message } = toQemuFileError(error);
    const said = message.replace(/^\w+: /, '').replace(/, \w+ '.*'/, '');
    throw new QemuFileError(code, `${path}: ${said}`, { operation: 'tls', cause: error });
  }
}

/** Certificates in PEM, the first of them parsed. */
export interface CertificateFile {
  readonly pem: string;
  readonly first: X509Certificate;
}

/**
 * Reads a file of certificates.
 *
 * @throws {QemuFileError} The system's code if it cannot be read; `EBADMSG` if there is none, or a bad one.
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
      throw badFile(path, 'a certificate in it is garbled', error);
    }
  }
  if (first === undefined) throw badFile(path, 'there is no certificate in it (PEM is expected)');
  return { pem, first };
}

/**
 * Reads a private key.
 *
 * @param path - Of a PEM file.
 * @param warn - Is told if everybody can read it.
 * @throws {QemuFileError} The system's code if it cannot be read; `EBADMSG` if it is none, or encrypted.
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
    const what = isEncrypted
      ? 'the private key is encrypted: decrypt it with "openssl pkey", into a file of mode 600'
      : 'there is no private key in it (PEM is expected), or it is garbled';
    throw badFile(path, what, error);
  }
}

/** Reads a list of revoked certificates; OpenSSL judges what is in it. */
export function readRevoked(path: string): Promise<string> {
  return readText(path);
}

/**
 * Reads shared keys, as `psktool` writes them: lines of `user:hexkey`.
 *
 * @param path - Of the file; empty lines and those that begin with `#` are skipped.
 * @param warn - Is told if everybody can read it.
 * @returns Keys by users.
 * @throws {QemuFileError} The system's code if it cannot be read; `EBADMSG` if there is no key, or a bad line.
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
      throw badFile(path, `line ${index + 1} is no USER:HEXKEY`);
    }
    const key = Buffer.from(hex, 'hex');
    if (key.length > MAX_KEY) {
      throw badFile(path, `the key in line ${index + 1} is longer than ${MAX_KEY} bytes`);
    }
    // As GnuTLS has it, the first line of a user counts.
    if (!keys.has(user)) keys.set(user, key);
  }
  if (keys.size === 0) throw badFile(path, 'there is no shared key in it (USER:HEXKEY)');
  return keys;
}

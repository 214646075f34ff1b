import { readdir } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, createSecureContext, type TlsOptions } from 'node:tls';
import { QemuFileError } from '../../../contract/errors.ts';
import type { Endpoint } from '../endpoint.ts';
import {
  badFile,
  readCertificates,
  readPrivateKey,
  readRevoked,
  readSharedKeys,
  unreadable,
  type Warn,
} from './credential-files.ts';
import type { TlsSide } from './options.ts';

/** Values of the options that `addTlsOptions` adds; paths unless noted otherwise. */
export interface TlsFlags {
  fromTls?: string;
  fromTlsCa?: string;
  fromTlsCert?: string;
  fromTlsKey?: string;
  fromTlsPsk?: string;
  /** Accept clients without a certificate. */
  fromTlsAnonymous?: boolean;
  toTls?: string;
  toTlsCa?: string;
  toTlsCert?: string;
  toTlsKey?: string;
  toTlsPsk?: string;
  /** Host name or IP address that the peer's certificate must be for. */
  toTlsHostname?: string;
  /** User of the shared key. */
  toTlsUser?: string;
}

/** How the endpoints of a command speak TLS; undefined for an endpoint that does not. */
export interface TlsEnds {
  /** For `openFrom` and `listenSocket`. */
  from?: TlsOptions | undefined;
  /** For `openTo` and `connectSocket`. */
  to?: ConnectionOptions | undefined;
}

/** The flags of one side, by the last parts of their names. */
interface SideFlags {
  dir?: string | undefined;
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
  psk?: string | undefined;
  crl?: string | undefined;
  anonymous?: boolean | undefined;
  hostname?: string | undefined;
  user?: string | undefined;
}

/** Credentials of either side, by the option names of `node:tls`. */
interface Certificates {
  ca?: string;
  cert?: string;
  key?: string;
  crl?: string;
}

const DEFAULT_USER = 'qemu';

/*
 * The ciphers for shared keys that OpenSSL and GnuTLS have in common and that have forward secrecy. The version
 * is at most TLS 1.2, because with 1.3 Node would accept a certificate of any trusted authority instead of the
 * key.
 */
const PSK_CIPHERS = [
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'DHE-PSK-CHACHA20-POLY1305',
].join(':');
const PSK_COMMON = { ciphers: PSK_CIPHERS, maxVersion: 'TLSv1.2' } as const;

/**
 * Read the files that the TLS options name, before the command listens or connects.
 *
 * @param flags - The options.
 * @param ends - The endpoints; undefined for a side that the command does not have.
 * @param warn - Receives messages for the user that do not stop the command.
 * @throws {QemuFileError} `EINVAL` if the options do not fit each other or the endpoint; `EBADMSG` if a file
 *   has unexpected contents, or the private key does not belong to the certificate; the system's code if a file
 *   cannot be read.
 */
export async function readTls(
  flags: TlsFlags,
  ends: { readonly from?: Endpoint | undefined; readonly to?: Endpoint | undefined },
  warn: Warn,
): Promise<TlsEnds> {
  const from = sideOf('from', flags);
  const to = sideOf('to', flags);
  for (const [side, given] of [['from', from] as const, ['to', to] as const]) {
    if (given !== undefined) checkEndpoint(side, ends[side]);
  }
  return {
    from: from && (await readServer(await complete('from', from), warn)),
    to: to && (await readClient(await complete('to', to), warn)),
  };
}

/** Return whether an error of `readTls` is a wrong combination of options. */
export function isTlsUsage({ code, operation }: QemuFileError): boolean {
  return code === 'EINVAL' && operation === 'tls';
}

function sideOf(side: TlsSide, flags: TlsFlags): SideFlags | undefined {
  const given: SideFlags =
    side === 'from'
      ? {
          dir: flags.fromTls,
          ca: flags.fromTlsCa,
          cert: flags.fromTlsCert,
          key: flags.fromTlsKey,
          psk: flags.fromTlsPsk,
          anonymous: flags.fromTlsAnonymous,
        }
      : {
          dir: flags.toTls,
          ca: flags.toTlsCa,
          cert: flags.toTlsCert,
          key: flags.toTlsKey,
          psk: flags.toTlsPsk,
          hostname: flags.toTlsHostname,
          user: flags.toTlsUser,
        };
  return Object.values(given).some((value) => value !== undefined) ? given : undefined;
}

function checkEndpoint(side: TlsSide, uri: Endpoint | undefined): void {
  if (uri?.scheme === 'tcp' || uri?.scheme === 'unix') return;
  throw usage(
    `--${side}-tls…: only tcp: and unix: endpoints can speak TLS, and <${side}> is neither`,
  );
}

/** Add the files of the directory, and check that the flags fit each other. */
async function complete(side: TlsSide, given: SideFlags): Promise<SideFlags> {
  const { dir, ...named } = given;
  const all =
    dir === undefined ? named : { ...(await filesIn(side, dir, named)), ...defined(named) };
  const name = (what: keyof SideFlags): string => `--${side}-tls-${what}`;
  const certificates = (['ca', 'cert', 'key', 'anonymous', 'hostname'] as const).filter(
    (what) => all[what] !== undefined,
  );
  if (all.psk !== undefined) {
    const [other] = certificates;
    if (other === undefined) return all;
    throw usage(
      `${name('psk')} replaces certificates, so it cannot be combined with ${name(other)}`,
    );
  }
  if (all.user !== undefined) throw usage(`${name('user')} needs ${name('psk')}`);
  if ((all.cert === undefined) !== (all.key === undefined)) {
    const [has, lacks] = all.cert === undefined ? ['key', 'cert'] : ['cert', 'key'];
    throw usage(`${name(has as 'key')} also needs ${name(lacks as 'cert')}`);
  }
  if (side === 'from' && all.cert === undefined) {
    throw usage(
      `<from> needs a certificate: ${name('cert')} and ${name('key')}, or ${name('psk')}`,
    );
  }
  if (all.ca === undefined && all.anonymous !== true) {
    const or = side === 'from' ? `, or ${name('anonymous')} to accept any client` : '';
    throw usage(`<${side}> needs an authority to verify its peer: ${name('ca')}${or}`);
  }
  return all;
}

/** Find the files in a directory of credentials, under QEMU's names for them. */
async function filesIn(side: TlsSide, dir: string, named: SideFlags): Promise<SideFlags> {
  let names: ReadonlySet<string>;
  try {
    names = new Set(await readdir(dir));
  } catch (error) {
    throw unreadable(dir, error);
  }
  const find = (name: string): string | undefined =>
    names.has(name) ? join(dir, name) : undefined;
  const role = side === 'from' ? 'server' : 'client';
  const own = {
    ca: find('ca-cert.pem'),
    cert: find(`${role}-cert.pem`),
    key: find(`${role}-key.pem`),
    crl: find('ca-crl.pem'),
  };
  const psk = find('keys.psk');
  const hasOwn = own.ca !== undefined || own.cert !== undefined;
  const wantsOwn = named.ca !== undefined || named.cert !== undefined;
  if (named.psk !== undefined || (psk !== undefined && !hasOwn && !wantsOwn)) return { psk };
  if (psk !== undefined && !wantsOwn) {
    throw usage(
      `${dir}: it contains both certificates and keys.psk; name the files to use with --${side}-tls-ca or --${side}-tls-psk`,
    );
  }
  if (!hasOwn && !wantsOwn) {
    throw badFile(dir, `it contains neither ca-cert.pem nor ${role}-cert.pem nor keys.psk`);
  }
  // A named certificate belongs to a named key, not to the key in the directory.
  return named.cert === undefined && named.key === undefined ? own : { ca: own.ca, crl: own.crl };
}

function defined(flags: SideFlags): SideFlags {
  return Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined));
}

async function readServer(files: SideFlags, warn: Warn): Promise<TlsOptions> {
  if (files.psk !== undefined) {
    const keys = await readSharedKeys(files.psk, warn);
    return { ...PSK_COMMON, pskCallback: (_socket, user) => keys.get(user) ?? null };
  }
  // Do not request a certificate that is optional, as QEMU with verify-peer=off.
  const needsClientCertificate = files.anonymous !== true;
  const { ca, crl, ...own } = await readX509(files, warn);
  if (!needsClientCertificate) return own;
  return { ...own, ca, crl, requestCert: true, rejectUnauthorized: true };
}

async function readClient(files: SideFlags, warn: Warn): Promise<ConnectionOptions> {
  if (files.psk !== undefined) {
    const user = files.user ?? DEFAULT_USER;
    const psk = (await readSharedKeys(files.psk, warn)).get(user);
    if (psk === undefined) {
      throw badFile(
        files.psk,
        `it contains no key of user "${user}"; choose another user with --to-tls-user`,
      );
    }
    return { ...PSK_COMMON, pskCallback: () => ({ psk, identity: user }) };
  }
  const options: ConnectionOptions = await readX509(files, warn);
  // Explicit, so that the environment variable NODE_TLS_REJECT_UNAUTHORIZED cannot turn it off.
  options.rejectUnauthorized = true;
  const { hostname } = files;
  if (hostname === undefined) return options;
  // An IP address is verified, but must not be sent as a server name (RFC 6066).
  if (isIP(hostname) !== 0) return { ...options, host: hostname, servername: '' };
  return { ...options, servername: hostname };
}

async function readX509(files: SideFlags, warn: Warn): Promise<Certificates> {
  const read: Certificates = {};
  if (files.ca !== undefined) read.ca = (await readCertificates(files.ca)).pem;
  if (files.crl !== undefined) read.crl = await readRevoked(files.crl);
  if (files.cert !== undefined && files.key !== undefined) {
    const { pem, first } = await readCertificates(files.cert);
    const { pem: keyPem, key } = await readPrivateKey(files.key, warn);
    if (!first.checkPrivateKey(key)) {
      throw badFile(files.key, `it is not the private key of ${files.cert}`);
    }
    if (Date.parse(first.validTo) < Date.now()) {
      warn(
        `${files.cert}: this certificate expired on ${first.validTo}; peers will reject it: renew it`,
      );
    }
    Object.assign(read, { cert: pem, key: keyPem });
  }
  try {
    createSecureContext(read);
  } catch (error) {
    const named = [files.ca, files.crl, files.cert].filter((path) => path !== undefined).join(', ');
    const { reason, message } = error as { reason?: string; message: string };
    throw badFile(named, `OpenSSL rejects it: ${reason ?? message}`, error);
  }
  return read;
}

function usage(reason: string): QemuFileError {
  return new QemuFileError('EINVAL', reason, { operation: 'tls' });
}

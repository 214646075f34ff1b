// Directories of credentials as QEMU reads them, generated for each test run.
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Key of the user `qemu` in `psk/keys.psk`. */
export const SHARED_KEY = '000102030405060708090a0b0c0d0e0f';

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'] as const;

/** Make a certificate authority: `ca-cert.pem` and `ca-key.pem`. */
function makeAuthority(dir: string, name: string): void {
  mkdirSync(dir);
  const to = ['-keyout', join(dir, 'ca-key.pem'), '-out', join(dir, 'ca-cert.pem')];
  openssl('req', '-x509', ...NEW_KEY, '-days', '2', '-subj', `/CN=${name}`, ...to);
}

interface Leaf {
  /** Directory of the authority. */
  by: string;
  /** Subject alternative names. */
  names: string;
  /** Default 2. */
  days?: number;
}

/** Make a certificate and its key: `server-cert.pem` and `server-key.pem`, or those of a client. */
function makeLeaf(dir: string, role: 'server' | 'client', { by, names, days = 2 }: Leaf): void {
  const request = join(dir, `${role}.csr`);
  const extensions = join(dir, `${role}.ext`);
  writeFileSync(extensions, `subjectAltName=${names}\n`);
  const keyFile = join(dir, `${role}-key.pem`);
  openssl('req', ...NEW_KEY, '-subj', `/CN=${role}`, '-keyout', keyFile, '-out', request);
  const authority = ['-CA', join(by, 'ca-cert.pem'), '-CAkey', join(by, 'ca-key.pem')];
  const out = [
    '-days',
    String(days),
    '-extfile',
    extensions,
    '-out',
    join(dir, `${role}-cert.pem`),
  ];
  openssl('x509', '-req', '-in', request, ...authority, '-CAcreateserial', ...out);
}

/** Directories of credentials by purpose. */
export interface Credentials {
  /** An authority, a server certificate for this machine (localhost, 127.0.0.1, ::1), a client certificate. */
  readonly good: string;
  /** The same authority, and a server certificate for `vm.example` only. */
  readonly named: string;
  /** The same authority alone. */
  readonly anonymous: string;
  /** Another authority, with a server certificate for this machine and a client certificate. */
  readonly stranger: string;
  /** The good authority, with server and client certificates that expired yesterday. */
  readonly expired: string;
  /** `keys.psk` with the user `qemu` and another user. */
  readonly psk: string;
  /** `keys.psk` with another key for the same user. */
  readonly wrongKey: string;
  /** `keys.psk` without the user `qemu`. */
  readonly otherUser: string;
}

/** Make all of them in an existing directory. */
export function makeCredentials(path: string): Credentials {
  const dir = (name: string): string => join(path, name);
  const made: Credentials = {
    good: dir('good'),
    named: dir('named'),
    anonymous: dir('anonymous'),
    stranger: dir('stranger'),
    expired: dir('expired'),
    psk: dir('psk'),
    wrongKey: dir('wrong-key'),
    otherUser: dir('other-user'),
  };
  const here = 'DNS:localhost,IP:127.0.0.1,IP:::1';
  makeAuthority(made.good, 'test authority');
  makeLeaf(made.good, 'server', { by: made.good, names: here });
  makeLeaf(made.good, 'client', { by: made.good, names: 'DNS:client' });
  makeAuthority(made.stranger, 'other authority');
  makeLeaf(made.stranger, 'server', { by: made.stranger, names: here });
  makeLeaf(made.stranger, 'client', { by: made.stranger, names: 'DNS:stranger' });
  for (const name of [made.named, made.anonymous, made.expired]) {
    mkdirSync(name);
    copyFileSync(join(made.good, 'ca-cert.pem'), join(name, 'ca-cert.pem'));
  }
  makeLeaf(made.named, 'server', { by: made.good, names: 'DNS:vm.example' });
  for (const role of ['server', 'client'] as const) {
    makeLeaf(made.expired, role, { by: made.good, names: here, days: -1 });
  }
  const keys: [string, string][] = [
    [made.psk, `# made for a test\nother:${'5a'.repeat(16)}\nqemu:${SHARED_KEY}\n`],
    [made.wrongKey, `qemu:${'ff'.repeat(16)}\n`],
    [made.otherUser, `somebody:${SHARED_KEY}\n`],
  ];
  for (const [name, text] of keys) {
    mkdirSync(name);
    writeFileSync(join(name, 'keys.psk'), text, { mode: 0o600 });
  }
  return made;
}

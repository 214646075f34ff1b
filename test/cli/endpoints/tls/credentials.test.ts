// TLS options: the files and directories that they read, and the messages about unusable ones.
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { after, describe, test } from 'node:test';
import { parseUri } from '../../../../adapters/index.ts';
import {
  isTlsUsage,
  readTls,
  type TlsFlags,
} from '../../../../lib/cli/endpoints/tls/credentials.ts';
import { QemuFileError } from '../../../../lib/contract/errors.ts';
import { makeTempDir } from '../../../helpers/cleanup.ts';
import { run } from '../../../helpers/command/command.ts';
import { makeCredentials, SHARED_KEY } from '../../../helpers/transports/credentials.ts';

const dir = makeTempDir();
after(() => dir.remove());
const made = makeCredentials(dir.path);
const sockets = { from: parseUri('tcp:127.0.0.1:0'), to: parseUri('unix:/run/to.sock') };
const text = (path: string): string => readFileSync(path, 'latin1');

async function read(flags: TlsFlags, ends: Parameters<typeof readTls>[1] = sockets) {
  const warnings: string[] = [];
  const tls = await readTls(flags, ends, (warning) => warnings.push(warning));
  return { ...tls, warnings };
}

/** Assert that flags are refused, as a usage error or because of a file, and the message. */
async function refuses(flags: TlsFlags, isUsage: boolean, says: RegExp): Promise<void> {
  await assert.rejects(read(flags), (error) => {
    assert.ok(error instanceof QemuFileError);
    assert.match(error.message, says);
    assert.equal(isTlsUsage(error), isUsage, error.message);
    return true;
  });
}

describe('the TLS options', () => {
  test('turn nothing on unless one of them is given', async () => {
    assert.deepEqual(await read({}), { from: undefined, to: undefined, warnings: [] });
  });

  test("take QEMU's directories, for the role of each side", async () => {
    const { from, to, warnings } = await read({ fromTls: made.good, toTls: made.good });
    assert.equal(from?.cert, text(`${made.good}/server-cert.pem`));
    assert.equal(from?.key, text(`${made.good}/server-key.pem`));
    assert.equal(from?.ca, text(`${made.good}/ca-cert.pem`));
    assert.equal(from?.requestCert, true);
    assert.equal(from?.rejectUnauthorized, true);
    assert.equal(to?.cert, text(`${made.good}/client-cert.pem`));
    assert.equal(to?.rejectUnauthorized, true);
    assert.deepEqual(warnings, []);
  });

  test('let a file that is named replace that of the directory', async () => {
    const { to } = await read({ toTls: made.good, toTlsCa: `${made.stranger}/ca-cert.pem` });
    assert.equal(to?.ca, text(`${made.stranger}/ca-cert.pem`));
    assert.equal(to?.cert, text(`${made.good}/client-cert.pem`));
  });

  test('request a client certificate only with the option for it', async () => {
    const { from } = await read({ fromTls: made.good, fromTlsAnonymous: true });
    assert.equal(from?.requestCert, undefined);
    const own = {
      fromTlsCert: `${made.good}/server-cert.pem`,
      fromTlsKey: `${made.good}/server-key.pem`,
    };
    await refuses(own, true, /--from-tls-ca, or --from-tls-anonymous to accept any client/);
    assert.ok((await read({ ...own, fromTlsAnonymous: true })).from);
  });

  test('verify a name, or a number that must not be sent as a name', async () => {
    const named = await read({ toTls: made.anonymous, toTlsHostname: 'vm.example' });
    assert.equal(named.to?.servername, 'vm.example');
    const numbered = await read({ toTls: made.anonymous, toTlsHostname: '127.0.0.1' });
    assert.equal(numbered.to?.servername, '');
    assert.equal(numbered.to?.host, '127.0.0.1');
  });

  test('take shared keys, by users', async () => {
    const { from, to } = await read({ fromTls: made.psk, toTlsPsk: `${made.psk}/keys.psk` });
    const key = Buffer.from(SHARED_KEY, 'hex');
    assert.deepEqual(from?.pskCallback?.(undefined as never, 'qemu'), key);
    assert.equal(from?.pskCallback?.(undefined as never, 'nobody'), null);
    assert.deepEqual(to?.pskCallback?.(null), { psk: key, identity: 'qemu' });
    const other = await read({ toTls: made.psk, toTlsUser: 'other' });
    assert.equal(other.to?.pskCallback?.(null)?.identity, 'other');
    // Not one cipher that would do with a certificate in place of the key.
    assert.equal(to?.maxVersion, 'TLSv1.2');
    assert.ok(
      String(to?.ciphers)
        .split(':')
        .every((cipher) => /^(EC)?DHE-PSK-/.test(cipher)),
    );
  });

  test('must fit each other', async () => {
    await refuses(
      { fromTlsCa: `${made.good}/ca-cert.pem` },
      true,
      /--from-tls-cert and --from-tls-key/,
    );
    await refuses({ toTlsCa: 'a', toTlsCert: 'b' }, true, /--to-tls-cert also needs --to-tls-key/);
    await refuses({ toTlsHostname: 'vm.example' }, true, /needs an authority.*--to-tls-ca/);
    await refuses({ toTlsUser: 'qemu' }, true, /--to-tls-user needs --to-tls-psk/);
    await refuses(
      { toTls: made.psk, toTlsHostname: 'x' },
      true,
      /cannot be combined with --to-tls-hostname/,
    );
  });

  test('name the choice in a directory with certificates and shared keys', async () => {
    const both = dir.join('both');
    mkdirSync(both);
    copyFileSync(`${made.good}/ca-cert.pem`, `${both}/ca-cert.pem`);
    copyFileSync(`${made.psk}/keys.psk`, `${both}/keys.psk`);
    await refuses({ toTls: both }, true, /both certificates and keys\.psk/);
    assert.ok((await read({ toTls: both, toTlsPsk: `${both}/keys.psk` })).to?.pskCallback);
    assert.ok((await read({ toTls: both, toTlsCa: `${both}/ca-cert.pem` })).to?.ca);
  });

  test('are for sockets only', async () => {
    const ends = { from: parseUri('-'), to: parseUri('tcp:127.0.0.1:1') };
    await assert.rejects(read({ fromTls: made.good }, ends), {
      code: 'EINVAL',
      message: /only tcp: and unix: endpoints can speak TLS, and <from> is neither/,
    });
  });
});

describe('files that do not do', () => {
  const bad = (name: string, content: string): string => {
    writeFileSync(dir.join(name), content, { mode: 0o600 });
    return dir.join(name);
  };

  test('are distinguished: missing, invalid, of another kind', async () => {
    const own = { toTlsCa: `${made.good}/ca-cert.pem`, toTlsCert: `${made.good}/client-cert.pem` };
    await refuses({ toTls: dir.join('none') }, false, /^ENOENT: tls: .*none: .*check the path/);
    await refuses({ toTlsCa: dir.join('none') }, false, /^ENOENT: tls: .*none: /);
    await refuses({ toTlsCa: dir.path }, false, /^EISDIR: tls: /);
    await refuses({ toTlsCa: bad('empty.pem', '') }, false, /it contains no certificate/);
    const garbled = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n';
    await refuses(
      { toTlsCa: bad('bad.pem', garbled) },
      false,
      /it contains a malformed certificate/,
    );
    await refuses({ ...own, toTlsKey: own.toTlsCert }, false, /it contains no private key/);
    const another = `${made.stranger}/client-key.pem`;
    await refuses(
      { ...own, toTlsKey: another },
      false,
      /not the private key of .*client-cert\.pem/,
    );
    await refuses({ toTls: bad('x', '') }, false, /^ENOTDIR: /);
    const nothing = dir.join('nothing');
    mkdirSync(nothing);
    await refuses(
      { fromTls: nothing },
      false,
      /neither ca-cert\.pem nor server-cert\.pem nor keys/,
    );
  });

  test('shared keys: the invalid line or the missing user is named', async () => {
    await refuses({ toTlsPsk: bad('a', 'qemu:00\nqemu\n') }, false, /line 2 is not USER:HEXKEY/);
    await refuses({ toTlsPsk: bad('b', 'qemu:0g\n') }, false, /line 1 is not USER:HEXKEY/);
    await refuses({ toTlsPsk: bad('c', '# none\n') }, false, /it contains no shared key/);
    await refuses({ toTlsPsk: bad('d', `qemu:${'00'.repeat(65)}`) }, false, /longer than 64 bytes/);
    await refuses({ toTls: made.otherUser }, false, /no key of user "qemu".*--to-tls-user/);
  });

  test('cause a warning if others can read a key, or if a certificate has expired', async () => {
    const open = dir.join('open');
    mkdirSync(open);
    copyFileSync(`${made.psk}/keys.psk`, `${open}/keys.psk`);
    chmodSync(`${open}/keys.psk`, 0o644);
    const { warnings } = await read({ fromTls: open });
    assert.match(warnings.join(), /every user of this machine can read this key; run chmod 600 /);
    const expired = await read({ fromTls: made.expired });
    assert.match(expired.warnings.join(), /this certificate expired on/);
  });
});

describe('the command', { concurrency: 2 }, () => {
  test('ends with 2 where TLS was asked for in vain', async () => {
    const { code, stderr } = await run(['relay', '-', dir.join('x'), '--to-tls', made.good]);
    assert.equal(code, 2);
    assert.match(stderr, /^qemu-file: --to-tls…: only tcp: and unix: endpoints can speak TLS/);
  });

  test('ends with 4 before it listens where a file cannot be read', async () => {
    const ended = await run(['relay', 'tcp:127.0.0.1:0', 'x', '--from-tls', dir.join('none')]);
    assert.equal(ended.code, 4);
    assert.doesNotMatch(ended.stderr, /listening/);
  });
});

// TLS with real QEMUs, whose TLS is GnuTLS's: our command between two of them, its two sides in all roles.
// Somebody on each wire keeps every byte, so that what was encrypted, and what was not, is not a belief.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command } from '../../helpers/command/command.ts';
import { type Credentials, makeCredentials } from '../../helpers/transports/credentials.ts';
import { assertOnlyTls, WireTap } from '../../helpers/transports/wire-tap.ts';
import { until } from '../../helpers/until.ts';
import { firmware, GUEST, type GuestProgram, memoryProblems } from '../harness/guest.ts';
import {
  differingPages,
  type MigrationSettings,
  type Qemu,
  type QemuOptions,
  requireQemu,
  startQemu,
} from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import { endCommand, qemu10, UNLIMITED } from '../harness/scenario.ts';

const program: GuestProgram = { patternBytes: 1 << 20, dirtyBytes: 256 << 10 };
const guest: QemuOptions = { firmware: firmware(program) };
/** The start of the stream, and the pattern of the guest's memory: no wire may show them. */
const HEADER = Buffer.from('QEVM');
const PATTERN_BYTES = 16;

const versions = [
  { version: '7.2', skip: requireQemu(), qemu: {} },
  { version: '10.0', skip: requireQemu10(), qemu: qemu10() },
];

/** Holds a command, so that none is left when a test fails. */
function endAtLast(relay: Command): { relay: Command } & AsyncDisposable {
  return { relay, [Symbol.asyncDispose]: () => endCommand(relay) };
}

/** How one of the QEMUs speaks TLS. */
interface QemuTls {
  kind: 'x509' | 'psk';
  /** Directory of its credentials. */
  dir: string;
  /** For `endpoint=server`: whether clients must have a certificate. Default true. */
  verifyPeer?: boolean;
  /** For the client: whom to expect. */
  hostname?: string;
}

function objectOf(id: string, endpoint: 'client' | 'server', tls: QemuTls): string[] {
  const verify =
    tls.kind === 'psk' ? '' : `,verify-peer=${tls.verifyPeer === false ? 'off' : 'on'}`;
  return ['-object', `tls-creds-${tls.kind},id=${id},dir=${tls.dir},endpoint=${endpoint}${verify}`];
}

function parametersOf(id: string, tls: QemuTls | undefined): Record<string, string> {
  return { 'tls-creds': tls === undefined ? '' : id, 'tls-hostname': tls?.hostname ?? '' };
}

/** A migration that must succeed. */
interface Row {
  name: string;
  /** The source, and our listening side; undefined where they speak no TLS. */
  source?: QemuTls;
  from: readonly string[];
  /** The destination, and our connecting side. */
  destination?: QemuTls;
  to: readonly string[];
  /** How both connecting ends name this machine. Default `127.0.0.1`. */
  host?: string;
  capabilities?: Readonly<Record<string, boolean>>;
  parameters?: Readonly<Record<string, number>>;
}

function goodRows(dir: Credentials): Row[] {
  const { good, named, anonymous, psk } = dir;
  return [
    {
      name: 'certificates of both ends in, plain out',
      source: { kind: 'x509', dir: good },
      from: ['--from-tls', good],
      to: [],
    },
    {
      name: 'plain in, certificates of both ends out',
      from: [],
      destination: { kind: 'x509', dir: good },
      to: ['--to-tls', good],
      host: 'localhost',
    },
    {
      name: 'anonymous clients, and another host name, in and out',
      source: { kind: 'x509', dir: anonymous, hostname: 'vm.example' },
      from: ['--from-tls', named, '--from-tls-anonymous'],
      destination: { kind: 'x509', dir: named, verifyPeer: false },
      to: ['--to-tls', anonymous, '--to-tls-hostname', 'vm.example'],
    },
    {
      name: 'a shared key in, certificates out, with return path',
      source: { kind: 'psk', dir: psk },
      from: ['--from-tls', psk],
      destination: { kind: 'x509', dir: good },
      to: ['--to-tls', good],
      capabilities: { 'return-path': true },
    },
    {
      name: 'certificates in, a shared key out, with return path',
      source: { kind: 'x509', dir: good },
      from: ['--from-tls', good],
      destination: { kind: 'psk', dir: psk },
      to: ['--to-tls', psk],
      host: 'localhost',
      capabilities: { 'return-path': true },
    },
    {
      name: 'certificates in and out, with two channels of multifd',
      source: { kind: 'x509', dir: good },
      from: ['--from-tls', good, '--channels', '3'],
      destination: { kind: 'x509', dir: good },
      to: ['--to-tls', good],
      capabilities: { multifd: true },
      parameters: { 'multifd-channels': 2 },
    },
  ];
}

/** Start a destination and a recording proxy before it. */
async function startDestination(
  qemu: QemuOptions,
  tls: QemuTls | undefined,
  settings: MigrationSettings = {},
): Promise<{ destination: Qemu; wire: WireTap } & AsyncDisposable> {
  const extraArgs = tls === undefined ? [] : objectOf('tls0', 'server', tls);
  const options = { ...guest, ...qemu, extraArgs, incoming: 'defer', startStopped: true };
  const destination = await startQemu(options);
  const creds = tls === undefined ? {} : { 'tls-creds': 'tls0' };
  const parameters = { ...settings.parameters, ...creds };
  await destination.migrateIncoming('tcp:127.0.0.1:0', { ...settings, parameters });
  const wire = await WireTap.before(await destination.incomingPort());
  return {
    destination,
    wire,
    async [Symbol.asyncDispose]() {
      await Promise.all([wire[Symbol.asyncDispose](), destination.stop()]);
    },
  };
}

/** Assert the bytes that a wire has shown. */
function assertWire(wire: WireTap, encrypted: boolean, secret: Buffer): void {
  const streams = wire.streams;
  assert.ok(streams.length > 0, 'there was a connection');
  for (const bytes of streams) {
    if (!encrypted) continue;
    assertOnlyTls(bytes);
    assert.ok(!bytes.includes(HEADER) && !bytes.includes(secret), 'nothing readable');
  }
  // That these are what can be seen where nothing is encrypted.
  if (encrypted) return;
  assert.ok(streams.some((bytes) => bytes.includes(HEADER) && bytes.includes(secret)));
}

/** Some bytes that the guest's memory has and nothing else. */
function secretOf(source: Qemu): Promise<Buffer> {
  return source.readGuestMemory(GUEST.pattern + (512 << 10), PATTERN_BYTES);
}

async function assertMoves(row: Row, qemu: QemuOptions): Promise<void> {
  const { capabilities = {}, parameters: more = {}, host = '127.0.0.1' } = row;
  const extraArgs = row.source === undefined ? [] : objectOf('tls0', 'client', row.source);
  await using source = await startQemu({ ...guest, ...qemu, extraArgs });
  await using there = await startDestination(qemu, row.destination, {
    capabilities,
    parameters: more,
  });
  const { destination, wire: outer } = there;
  const to = `tcp:${host}:${outer.port}`;
  await using running = endAtLast(
    new Command(['relay', 'tcp:127.0.0.1:0', to, ...row.from, ...row.to]),
  );
  const { relay } = running;
  await using inner = await WireTap.before(await relay.listening());
  await source.waitGuestReady();
  const secret = await secretOf(source);
  const parameters = {
    'max-bandwidth': UNLIMITED,
    ...more,
    ...parametersOf('tls0', row.source),
  };
  await source.migrate(`tcp:${host}:${inner.port}`, { capabilities, parameters });
  const { code, stderr } = await relay.ended();
  assert.equal(code, 0, stderr);
  await destination.waitIncomingEnd();
  await destination.waitStatus(['paused']);
  assert.deepEqual(differingPages(await source.readRam(), await destination.readRam()), []);
  assert.deepEqual(memoryProblems(await destination.readRam(), program), []);
  await destination.resume();
  await destination.waitCounterRises();
  assertWire(inner, row.source !== undefined, secret);
  assertWire(outer, row.destination !== undefined, secret);
}

describe('TLS on either side of a relay', () => {
  for (const { version, skip, qemu } of versions) {
    test(`carries whole guests of QEMU ${version}`, { skip }, async (t) => {
      await using dir = makeTempDir();
      for (const row of goodRows(makeCredentials(dir.path))) {
        await t.test(row.name, () => assertMoves(row, qemu));
      }
    });
  }
});

/** A source that must be refused, or refuses: its TLS settings, and the message of the command. */
interface Refused {
  name: string;
  source?: QemuTls;
  says: RegExp;
}

/** A listening side, who is refused by it, and who is not. */
interface Listening {
  name: string;
  from: readonly string[];
  refused: Refused[];
  welcome: QemuTls;
}

function listeningSides({ good, stranger, anonymous, psk, ...dir }: Credentials): Listening[] {
  return [
    {
      name: 'certificates are demanded',
      from: ['--from-tls', good],
      welcome: { kind: 'x509', dir: good },
      refused: [
        {
          name: 'expects another host',
          source: { kind: 'x509', dir: good, hostname: 'vm.example' },
          says: /peer closed it after sending nothing.*certificate.*another name/,
        },
        {
          name: 'has no certificate',
          source: { kind: 'x509', dir: anonymous },
          says: /EPROTO: .*sent no certificate/,
        },
        {
          name: 'knows another authority only, and has its certificate from there',
          source: { kind: 'x509', dir: stranger },
          says: /EPROTO: .*sent no certificate of a trusted authority/,
        },
        {
          name: 'has a shared key',
          source: { kind: 'psk', dir: psk },
          says: /EPROTO: .*both must use certificates, or both a shared key/,
        },
        { name: 'speaks no TLS', says: /EPROTO: .*the peer does not speak TLS: turn TLS on/ },
      ],
    },
    {
      name: 'anybody may come',
      from: ['--from-tls', good, '--from-tls-anonymous'],
      welcome: { kind: 'x509', dir: anonymous },
      refused: [
        {
          name: 'knows another authority only',
          source: { kind: 'x509', dir: stranger },
          says: /peer closed it after sending nothing.*may not trust the server certificate/,
        },
      ],
    },
    {
      name: 'a shared key is wanted',
      from: ['--from-tls-psk', `${psk}/keys.psk`],
      welcome: { kind: 'psk', dir: psk },
      refused: [
        {
          name: 'has another key',
          source: { kind: 'psk', dir: dir.wrongKey },
          says: /EPROTO: .*shared keys \(PSK\) differ/,
        },
        {
          name: 'has certificates',
          source: { kind: 'x509', dir: good },
          says: /EPROTO: .*both must use certificates, or both a shared key/,
        },
        { name: 'speaks no TLS', says: /EPROTO: .*the peer does not speak TLS/ },
      ],
    },
  ];
}

async function assertStays(source: Qemu): Promise<void> {
  await source.waitRunning();
  await source.waitCounterRises();
}

async function assertRefuses(listening: Listening, qemu: QemuOptions): Promise<void> {
  await using dir = makeTempDir();
  const sources = [...listening.refused.map(({ source }) => source), listening.welcome];
  const extraArgs = sources.flatMap((tls, i) =>
    tls === undefined ? [] : objectOf(`tls${i}`, 'client', tls),
  );
  await using source = await startQemu({ ...guest, ...qemu, extraArgs });
  const image = dir.join('vm.mig');
  await using running = endAtLast(
    new Command(['relay', 'tcp:127.0.0.1:0', image, ...listening.from]),
  );
  const { relay } = running;
  const port = await relay.listening();
  await source.waitGuestReady();
  const secret = await secretOf(source);
  // So slow that it is not over, for a source that is not told otherwise, before it has been refused.
  const slow = { 'max-bandwidth': 32 << 10 };
  for (const [i, { name, source: tls, says }] of listening.refused.entries()) {
    await using wire = await WireTap.before(port);
    const before = relay.stderr.length;
    const parameters = { ...slow, ...parametersOf(`tls${i}`, tls) };
    await source.startMigration(`tcp:127.0.0.1:${wire.port}`, { parameters });
    assert.equal((await source.waitMigrationEnd()).status, 'failed', name);
    await until(() => relay.stderr.length > before, { what: `a line about who ${name}` });
    assert.match(relay.stderr.slice(before), says);
    await assertStays(source);
    if (tls !== undefined) assertWire(wire, true, secret);
    // Who speaks no TLS shows what he likes; nothing but TLS comes back.
    else assertOnlyTls(wire.streams[1] ?? Buffer.alloc(0));
  }
  const id = `tls${listening.refused.length}`;
  const parameters = { 'max-bandwidth': UNLIMITED, ...parametersOf(id, listening.welcome) };
  await source.migrate(`tcp:127.0.0.1:${port}`, { parameters });
  const { code, stderr } = await relay.ended();
  assert.equal(code, 0, stderr);
}

describe('a relay that listens with TLS', () => {
  for (const { version, skip, qemu } of versions) {
    test(`reports which QEMU ${version} it refuses, and waits for the right one`, {
      skip,
    }, async (t) => {
      await using dir = makeTempDir();
      for (const listening of listeningSides(makeCredentials(dir.path))) {
        await t.test(listening.name, () => assertRefuses(listening, qemu));
      }
    });
  }
});

/** A destination that must not be given anything. */
interface Shunned {
  name: string;
  destination?: QemuTls;
  to: readonly string[];
  says: RegExp;
}

function shunnedRows({ good, named, anonymous, stranger, psk, ...dir }: Credentials): Shunned[] {
  const x509 = (path: string): QemuTls => ({ kind: 'x509', dir: path });
  return [
    {
      name: 'is another host',
      destination: x509(named),
      to: ['--to-tls', good],
      says: /cannot be opened: EPROTO: .*not for "127\.0\.0\.1" but for DNS:vm\.example/,
    },
    {
      name: 'is not the host that was named',
      destination: x509(good),
      to: ['--to-tls', good, '--to-tls-hostname', 'vm.example'],
      says: /cannot be opened: EPROTO: .*not for "vm\.example" but for DNS:localhost/,
    },
    {
      name: 'has its certificate of an unknown authority',
      destination: x509(good),
      to: ['--to-tls', stranger],
      says: /cannot be opened: EPROTO: .*its authority is not trusted here/,
    },
    {
      name: 'demands a certificate',
      destination: x509(good),
      to: ['--to-tls', anonymous],
      says: /failed after .*(ECONNRESET|EPIPE): .*may require a client certificate.*--to-tls-cert/,
    },
    {
      name: 'trusts another authority',
      destination: x509(good),
      to: [
        ['--to-tls-ca', `${good}/ca-cert.pem`],
        ['--to-tls-cert', `${stranger}/client-cert.pem`],
        ['--to-tls-key', `${stranger}/client-key.pem`],
      ].flat(),
      says: /failed after .*(ECONNRESET|EPIPE): .*may not trust the client certificate/,
    },
    {
      name: 'has another shared key',
      destination: { kind: 'psk', dir: psk },
      to: ['--to-tls', dir.wrongKey],
      says: /cannot be opened: .*refuse the certificate or the shared key/,
    },
    {
      name: 'does not know the user of the shared key',
      destination: { kind: 'psk', dir: psk },
      to: ['--to-tls', dir.otherUser, '--to-tls-user', 'somebody'],
      says: /cannot be opened: .*refuse the certificate or the shared key/,
    },
    {
      name: 'speaks no TLS',
      to: ['--to-tls', good],
      says: /cannot be opened: ECONNRESET: .*may not speak TLS/,
    },
  ];
}

async function assertShuns(row: Shunned, source: Qemu, qemu: QemuOptions): Promise<void> {
  await using there = await startDestination(qemu, row.destination);
  const { wire } = there;
  const secret = await secretOf(source);
  await using running = endAtLast(
    new Command(['relay', 'tcp:127.0.0.1:0', `tcp:127.0.0.1:${wire.port}`, ...row.to]),
  );
  const { relay } = running;
  const uri = `tcp:127.0.0.1:${await relay.listening()}`;
  // Slow enough that it is not over, for the source, before it has been refused.
  await source.startMigration(uri, { parameters: { 'max-bandwidth': 32 << 10 } });
  const { code, stderr } = await relay.ended();
  assert.equal(code, 4, stderr);
  assert.match(stderr, /"to" \(/);
  assert.match(stderr, row.says);
  assert.equal((await source.waitMigrationEnd()).status, 'failed');
  await assertStays(source);
  assertWire(wire, true, secret);
}

describe('a relay that connects with TLS', () => {
  for (const { version, skip, qemu } of versions) {
    test(`sends no byte to an unauthenticated QEMU ${version}`, { skip }, async (t) => {
      await using dir = makeTempDir();
      await using source = await startQemu({ ...guest, ...qemu });
      await source.waitGuestReady();
      for (const row of shunnedRows(makeCredentials(dir.path))) {
        await t.test(`which ${row.name}`, () => assertShuns(row, source, qemu));
      }
    });
  }
});

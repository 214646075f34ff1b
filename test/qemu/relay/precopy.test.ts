// Precopy through our command, between two live QEMUs: over all that QEMU can migrate over, and what
// becomes of guest and relay when one side does not want to go on.
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command, run as runCommand } from '../../helpers/command/command.ts';
import { until } from '../../helpers/until.ts';
import { firmware } from '../harness/guest.ts';
import { requireQemu, startQemu } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import {
  BUSY_GUEST,
  ENDLESS,
  endCommand,
  qemu10,
  type Scenario,
  scenario,
  UNLIMITED,
} from '../harness/scenario.ts';

const returnPath = { capabilities: { 'return-path': true } };
const fast = { parameters: { 'max-bandwidth': UNLIMITED } };
const guest = { firmware: firmware(BUSY_GUEST) };

/** `relay`, for the command line of an `exec:` of QEMU's. */
const RELAY = [
  process.execPath,
  '--import',
  import.meta.resolve('tsx'),
  fileURLToPath(new URL('../../../lib/cli/main.ts', import.meta.url)),
  'relay',
].join(' ');

/** Waits until a migration has moved so much that it is in the middle of the guest's memory. */
async function midway({ source }: Scenario): Promise<void> {
  await until(async () => ((await source.migrationInfo()).ram?.transferred ?? 0) > 1 << 20, {
    what: 'a part of the memory to have been sent',
  });
}

describe('a running guest that dirties memory arrives whole', { skip: requireQemu() }, () => {
  for (const [name, transport] of [
    ['unix', 'unix'],
    ['tcp, IPv4', 'tcp'],
    ['tcp, IPv6', 'tcp6'],
  ] as const) {
    test(`through a relay over ${name}`, async () => {
      await using run = await scenario({ transport });
      await run.migrate();
      await run.assertArrived();
    });
  }

  test('through three relays in a row, in several rounds', async () => {
    await using run = await scenario({
      relays: [['--digest'], [], ['--digest']],
      settings: { ...returnPath, parameters: ENDLESS },
    });
    await run.startMigration();
    await until(
      async () => ((await run.source.migrationInfo()).ram?.['dirty-sync-count'] ?? 0) > 3,
      { what: 'three rounds' },
    );
    await run.letFinish();
    await run.assertArrived();
    const [first, , last] = (await run.relaysEnded()).map(({ stdout }) => stdout.toString());
    assert.match(first ?? '', /^forward {2}[0-9a-f]{16} {2}\d+\nreturn {3}[0-9a-f]{16} {2}16\n$/);
    assert.equal(first, last, 'both digests, and the number of bytes of both directions');
  });

  test('through inherited descriptors that are sockets, return path included', async () => {
    await using source = await startQemu(guest);
    await using destination = await startQemu({
      ...guest,
      startStopped: true,
      inherit: ['pipe'],
      incoming: 'fd:3',
    });
    await source.waitGuestReady();
    await destination.setMigration(returnPath);
    const from = await source.passChannel('channel');
    const [to] = destination.channels;
    assert.ok(to);
    const relay = new Command(['relay', 'fd:3', 'fd:4', '--json'], undefined, [from, to]);
    // Where our own copies stayed open, the relay's end of a connection would not be its end.
    from.destroy();
    to.destroy();
    try {
      await source.migrate('fd:channel', { ...fast, ...returnPath });
      await destination.waitIncomingEnd();
      assert.equal(await source.ramSha256(), await destination.ramSha256());
      const { code, stdout, stderr } = await relay.ended();
      assert.equal(code, 0, stderr);
      const { complete, return: back } = JSON.parse(stdout.toString()) as {
        complete: boolean;
        return: { bytes: number };
      };
      assert.deepEqual([complete, back.bytes], [true, 16]);
    } finally {
      await endCommand(relay);
    }
    await destination.resume();
    await destination.waitCounterRises();
  });

  test('through relays that QEMU itself starts, by exec:, on both sides', async () => {
    await using dir = makeTempDir();
    const middle = `unix:${dir.join('middle')}`;
    await using source = await startQemu(guest);
    await source.waitGuestReady();
    await using destination = await startQemu({
      ...guest,
      startStopped: true,
      incoming: `exec:${RELAY} ${middle} - --quiet`,
    });
    await until(() => isSocket(dir.join('middle')), { what: 'the relay to listen' });
    await source.migrate(`exec:${RELAY} - ${middle} --quiet`, fast);
    await destination.waitIncomingEnd();
    assert.equal(await source.ramSha256(), await destination.ramSha256());
    await destination.resume();
    await destination.waitCounterRises();
  });
});

describe('a guest in a file, at an offset (QEMU 10.0)', { skip: requireQemu10() }, () => {
  test('is unchanged after a relay has copied it to another file and offset', async () => {
    await using dir = makeTempDir();
    const [saved, copy] = [dir.join('saved'), dir.join('copy')];
    await using source = await startQemu({ ...guest, ...qemu10() });
    await source.waitGuestReady();
    await source.migrate(`file:${saved},offset=0x3000`, fast);
    const args = ['relay', `file:${saved},offset=0x3000`, `file:${copy},offset=8k`, '--check'];
    const { code, stderr } = await runCommand(args);
    assert.equal(code, 0, stderr);
    assert.equal(statSync(copy).size - (8 << 10), statSync(saved).size - 0x3000);

    await using destination = await startQemu({
      ...guest,
      ...qemu10(),
      startStopped: true,
      incoming: `file:${copy},offset=8k`,
    });
    await destination.waitIncomingEnd();
    assert.equal(await source.ramSha256(), await destination.ramSha256());
    await destination.resume();
    await destination.waitCounterRises();
  });
});

describe('the return path', { skip: requireQemu() }, () => {
  test('brings PONG and SHUT from the destination to the source', async () => {
    await using run = await scenario({ settings: returnPath });
    await using tap = await tapBetween(run);
    await run.source.migrate(tap.uri, run.sourceSettings);
    await run.assertArrived();
    // be16 type, be16 length, be32 value: the answer to the only PING, and a SHUT without an error.
    assert.equal(tap.returned(), '0002000400000001' + '0001000400000000');
  });

  test('brings SWITCHOVER_ACK (QEMU 10.0)', { skip: requireQemu10() }, async () => {
    await using run = await scenario({
      qemu: qemu10(),
      settings: { capabilities: { 'return-path': true, 'switchover-ack': true } },
    });
    await using tap = await tapBetween(run);
    await run.source.migrate(tap.uri, run.sourceSettings);
    await run.assertArrived();
    assert.equal(tap.returned(), '00070000' + '0002000400000001' + '0001000400000000');
  });
});

describe('a migration that is cancelled at its source', { skip: requireQemu() }, () => {
  for (const transport of ['unix', 'tcp'] as const) {
    test(`over ${transport}: leaves the guest there, and a second try gets through`, async () => {
      await using run = await scenario({
        transport,
        settings: transport === 'unix' ? {} : returnPath,
        sourceSettings: { parameters: ENDLESS },
        relays: [['--check']],
      });
      await run.startMigration();
      await midway(run);
      await run.source.qmp.execute('migrate_cancel');
      assert.equal((await run.source.waitMigrationEnd()).status, 'cancelled');
      const [relay] = await run.relaysEnded();
      if (transport === 'tcp' && relay?.code === 4) {
        // QEMU closed its connection with an answer in it that it had not read.
        assert.match(relay.stderr, /"from" .*: ECONNRESET: .*connection reset by peer/);
      } else {
        assert.equal(relay?.code, 3, relay?.stderr);
        assert.match(relay.stderr, /"from" .*: ENODATA: in section "ram": the stream ends inside/);
      }
      await assert.rejects(run.destination.waitIncomingEnd(), /load of migration failed/);
      await run.assertStayed();

      await run.reroute({});
      await run.startMigration();
      await run.letFinish();
      await run.assertArrived();
    });
  }

  test('leaves it there, and no guest at the destination, when nothing reads along', async () => {
    await using run = await scenario({ sourceSettings: { parameters: ENDLESS } });
    await run.startMigration();
    await midway(run);
    await run.source.qmp.execute('migrate_cancel');
    assert.equal((await run.source.waitMigrationEnd()).status, 'cancelled');
    await run.relaysEnded();
    await assert.rejects(run.destination.waitIncomingEnd(), /load of migration failed/);
    await run.assertStayed();
  });
});

describe('a destination that refuses the guest', { skip: requireQemu() }, () => {
  for (const transport of ['unix', 'tcp'] as const) {
    test(`over ${transport}: the source learns it, and can go elsewhere`, async () => {
      await using run = await scenario({
        transport,
        settings: returnPath,
        destination: { machine: 'pc' },
      });
      await run.startMigration();
      assert.equal((await run.source.waitMigrationEnd()).status, 'failed');
      const [relay] = await run.relaysEnded();
      assert.equal(relay?.code, 4, relay?.stderr);
      assert.match(relay.stderr, /"to" \(.*\) failed after .*the other end .*: look at its log/);
      await assert.rejects(run.destination.waitIncomingEnd(), /Machine type received is 'microvm'/);
      await run.assertStayed();

      await run.reroute({ destination: {} });
      await run.migrate();
      await run.assertArrived();
    });
  }
});

function isSocket(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isSocket() === true;
}

/** Who stands between a source and its relay, hands everything on, and notes what goes back. */
async function tapBetween(run: Scenario) {
  const dir = makeTempDir();
  const returned: Buffer[] = [];
  const server = net.createServer({ allowHalfOpen: true }, (fromSource) => {
    const toRelay = net.connect({
      path: run.sourceUri.replace('unix:', ''),
      allowHalfOpen: true,
    });
    toRelay.on('data', (chunk) => returned.push(chunk));
    fromSource.pipe(toRelay).pipe(fromSource);
    fromSource.on('error', () => toRelay.destroy());
    toRelay.on('error', () => fromSource.destroy());
  });
  const path = dir.join('tap');
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    uri: `unix:${path}`,
    returned: () => Buffer.concat(returned).toString('hex'),
    [Symbol.asyncDispose]: async () => {
      server.close();
      dir.remove();
    },
  };
}

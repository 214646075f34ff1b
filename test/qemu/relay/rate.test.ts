// How fast a migration goes through our command: as a limit says, as that is changed, and no faster than
// its destination takes it. QEMU's own numbers are compared with each other, and never with a clock from
// above: a machine under load may always take longer.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { until } from '../../helpers/until.ts';
import { type Qemu, requireQemu } from '../harness/harness.ts';
import { type Scenario, scenario } from '../harness/scenario.ts';

const MIB = 1 << 20;
/** With it a source is done when its destination is, so that its times are of all the way. */
const returnPath = { 'return-path': true };

/** Bytes that a source has sent so far, and the time it took, by its own counters. */
interface Sent {
  bytes: number;
  seconds: number;
}

async function sentBy(source: Qemu): Promise<Sent> {
  const info = await source.migrationInfo();
  return { bytes: info.ram?.transferred ?? 0, seconds: (info['total-time'] ?? 0) / 1000 };
}

/** Wait until a source has sent some more, and return the bytes per second of that part. */
async function rateOver({ source }: Scenario, bytes: number): Promise<number> {
  const before = await sentBy(source);
  const after = await until(
    async () => {
      const now = await sentBy(source);
      return now.bytes - before.bytes >= bytes && now.seconds > before.seconds && now;
    },
    { what: `${bytes} more bytes` },
  );
  return (after.bytes - before.bytes) / (after.seconds - before.seconds);
}

/** Send a line to the control socket of a relay; return its reply. */
async function tell(path: string, line: string): Promise<Record<string, unknown>> {
  const socket = net.connect({ path, allowHalfOpen: true });
  socket.end(`${line}\n`);
  const answer = JSON.parse(await text(socket)) as Record<string, unknown>;
  assert.equal(answer.ok, true, JSON.stringify(answer));
  return answer;
}

function residentBytes(pid: number | undefined): number {
  const [, kib] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kib) * 1024;
}

describe('a relay between two live QEMUs', { skip: requireQemu() }, () => {
  test('goes as fast as --max-bandwidth says, and QEMU sees the same', async () => {
    const limit = 4 * MIB;
    await using run = await scenario({
      // A guest that stands still, so that the amount does not depend on the time.
      program: { patternBytes: 6 * MIB },
      settings: { capabilities: returnPath },
      relays: [['--max-bandwidth', '4MiB', '--json']],
    });
    const info = await run.migrate();
    await run.assertArrived();
    const [relay] = await run.relaysEnded();
    const { forward, limitedSeconds } = JSON.parse(relay?.stdout.toString() ?? '') as {
      forward: { bytes: number };
      limitedSeconds: number;
    };
    assert.ok(limitedSeconds > 0);
    const rate = forward.bytes / ((info['total-time'] ?? 0) / 1000);
    const seen = ((info.ram?.mbps ?? 0) * 1e6) / 8;
    for (const one of [rate, seen]) assert.ok(one > limit / 8 && one < limit * 1.2, `${one}/s`);
  });

  test('goes faster once its limit is raised, and finishes once that is lifted', async () => {
    await using dir = makeTempDir();
    const control = dir.join('control');
    await using run = await scenario({
      // It dirties 16 MiB/s at least, so that it cannot arrive while it is held back.
      program: { patternBytes: 4 * MIB, dirtyBytes: 2 * MIB },
      settings: { capabilities: returnPath, parameters: { 'downtime-limit': 1 } },
      relays: [['--max-bandwidth', '1MiB', '--control', control]],
    });
    await run.startMigration();
    // The buffers on the way to the destination are not limited.
    await rateOver(run, 1.5 * MIB);
    const slow = await rateOver(run, 1 * MIB);
    assert.ok(slow < 1.5 * MIB, `limited to 1 MiB/s: ${slow}/s`);
    assert.equal((await tell(control, 'status')).maxBandwidth, 1 * MIB);

    assert.equal((await tell(control, 'max-bandwidth 8MiB')).maxBandwidth, 8 * MIB);
    const faster = await rateOver(run, 8 * MIB);
    assert.ok(faster > 2 * slow && faster < 12 * MIB, `limited to 8 MiB/s: ${faster}/s`);

    await tell(control, 'max-bandwidth 0');
    await run.letFinish();
    await run.assertArrived();
  });

  test('stalls with its destination, without more memory, and continues with it', async () => {
    await using run = await scenario({
      // In each tick it writes to more than is sent until the next one, and so never arrives by itself.
      program: { patternBytes: 40 * MIB, dirtyBytes: 32 * MIB, dirtyPagesPerTick: 4096 },
      qemu: { memoryMiB: 64 },
      settings: {
        capabilities: returnPath,
        parameters: { 'downtime-limit': 1, 'max-bandwidth': 128 * MIB },
      },
    });
    const { source, destination, relay } = run;
    await run.startMigration();
    await rateOver(run, 32 * MIB);
    const usual = residentBytes(relay.child.pid);
    let most = usual;
    for (let stall = 0; stall < 3; stall++) {
      process.kill(destination.pid, 'SIGSTOP');
      const { bytes: before } = await sentBy(source);
      const { bytes: after } = await stalled(source);
      most = Math.max(most, residentBytes(relay.child.pid));
      process.kill(destination.pid, 'SIGCONT');
      assert.ok(
        after - before < 16 * MIB,
        `${after - before} bytes into a destination that stalls`,
      );
      await rateOver(run, 80 * MIB);
      most = Math.max(most, residentBytes(relay.child.pid));
    }
    assert.ok((await sentBy(source)).bytes > 256 * MIB);
    assert.ok(most < usual + 64 * MIB, `${most} bytes of memory, ${usual} before it stalled`);

    await run.letFinish();
    await run.assertArrived();
  });
});

/** Waits until a source that still has something to send has sent nothing for a while. */
async function stalled(source: Qemu): Promise<Sent> {
  let last: Sent | undefined;
  return until(
    async () => {
      const now = await sentBy(source);
      // By QEMU's clock, which goes on while it waits.
      if (last?.bytes !== now.bytes) last = now;
      return now.seconds - last.seconds > 0.5 && now;
    },
    { what: 'the source to stall' },
  );
}

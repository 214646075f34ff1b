// One of two live QEMUs is killed in the middle of a migration through our command.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../../helpers/until.ts';
import { requireQemu } from '../harness/harness.ts';
import { ENDLESS, scenario } from '../harness/scenario.ts';

const LIMITS = { timeout: 300_000, skip: requireQemu() };
/** A guest that never stops writing, so that the migration lasts until a process is killed. */
const endless = { sourceSettings: { parameters: ENDLESS } };

/** Waits until a good part of the memory has gone. */
async function midway(run: Awaited<ReturnType<typeof scenario>>): Promise<void> {
  await run.startMigration();
  await until(async () => ((await run.source.migrationInfo()).ram?.transferred ?? 0) > 1 << 20, {
    what: 'a MiB to be sent',
  });
}

test('the source is killed: the destination does not run half a guest', LIMITS, async () => {
  await using run = await scenario({ ...endless, relays: [['--check']] });
  await midway(run);
  process.kill(run.source.pid, 'SIGKILL');
  const { code, stderr } = await run.relay.ended();
  assert.equal(code, 3, stderr);
  assert.match(
    stderr,
    /"from" \(unix:.*\) is not a valid migration stream: ENODATA: .* at byte \d+/,
  );
  // It ends with a read error, or keeps waiting; it never runs.
  const ended = await until(() => run.destination.stderr !== '' && run.destination.stderr, {
    what: 'the destination to say that its migration failed',
  });
  assert.match(ended, /load of migration failed|error while loading state/);
});

test(
  'the destination is killed: the source reports it, and its guest runs on',
  LIMITS,
  async () => {
    await using run = await scenario(endless);
    await midway(run);
    process.kill(run.destination.pid, 'SIGKILL');
    const { code, stderr } = await run.relay.ended();
    assert.equal(code, 4, stderr);
    assert.match(stderr, /"to" \(unix:.*\) failed after .*: (?:EPIPE|ECONNRESET): .* at byte \d+/);
    const info = await run.source.waitMigrationEnd();
    assert.equal(info.status, 'failed');
    await run.source.waitRunning();
    await run.source.waitCounterRises();
  },
);

// Multifd between two QEMUs, with the command in between: every channel goes through it.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { reportIn } from '../../helpers/command/relay-report.ts';
import { until } from '../../helpers/until.ts';
import { type MigrationSettings, type QemuOptions, requireQemu } from '../harness/harness.ts';
import { requireQemu10 } from '../harness/qemu10.ts';
import { qemu10, type Scenario, scenario } from '../harness/scenario.ts';

/** A migration that ends well. */
interface Row {
  channels: number;
  compression: 'none' | 'zlib' | 'zstd';
  qemu?: '10.0';
  transport?: 'unix' | 'tcp';
  /** Of the relay, beside the number of channels. */
  args?: string[];
}

const ROWS: Row[] = [
  { channels: 1, compression: 'zlib' },
  { channels: 2, compression: 'zstd', transport: 'tcp' },
  { channels: 8, compression: 'none', args: ['--max-bandwidth', '16MiB'] },
  { channels: 8, compression: 'zstd', qemu: '10.0' },
];

function settingsOf(channels: number, compression: string): MigrationSettings {
  return {
    capabilities: { multifd: true },
    parameters: { 'multifd-channels': channels, 'multifd-compression': compression },
  };
}

/** Assert the relay's report: the main channel and all multifd channels moved bytes. */
async function assertMoved(run: Scenario, channels: number): Promise<void> {
  const { code, stdout, stderr } = await run.relay.ended();
  assert.equal(code, 0, stderr);
  const result = reportIn(stdout);
  assert.equal(result.complete, true);
  const bytes = (result.channels ?? []).map(({ forward }) => forward.bytes);
  assert.equal(bytes.length, 1 + channels);
  assert.ok(
    bytes.every((count) => count > 0),
    `bytes of each channel: ${bytes.join(', ')}`,
  );
}

for (const version of ['7.2', '10.0']) {
  const skip = version === '7.2' ? requireQemu() : requireQemu10();
  describe(`multifd with QEMU ${version}`, { skip, timeout: 300_000 }, () => {
    for (const row of ROWS.filter(({ qemu = '7.2' }) => qemu === version)) {
      const { channels, compression, transport = 'unix', args = [] } = row;
      test(`${channels} channels, ${compression}, ${transport} ${args.join(' ')}`, async () => {
        const qemu: QemuOptions = version === '10.0' ? qemu10() : {};
        await using run = await scenario({
          qemu,
          transport,
          settings: settingsOf(channels, compression),
          relays: [['--json', '--channels', String(1 + channels), ...args]],
        });
        await run.migrate();
        await assertMoved(run, channels);
        await run.assertArrived();
      });
    }

    if (version === '10.0') return;

    test('cancelled at the source, and tried again through a new relay', async () => {
      const settings = settingsOf(4, 'none');
      const relays = [['--json', '--channels', '5']];
      await using run = await scenario({ settings, relays });
      const slow = { ...run.sourceSettings.parameters, 'max-bandwidth': 400_000 };
      await run.source.startMigration(run.sourceUri, { ...run.sourceSettings, parameters: slow });
      await until(
        async () => ((await run.source.migrationInfo()).ram?.['multifd-bytes'] ?? 0) > 100_000,
        { what: 'bytes on the channels' },
      );
      await run.source.qmp.execute('migrate_cancel');
      assert.equal((await run.source.waitMigrationEnd()).status, 'cancelled');
      await run.relaysEnded();
      await run.assertStayed();
      await run.reroute({});
      await run.migrate();
      await assertMoved(run, 4);
      await run.assertArrived();
    });
  });
}

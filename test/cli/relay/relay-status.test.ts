// The reports of a running relay, and the commands that it accepts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryPair } from '../../../adapters/index.ts';
import { RelayMonitor } from '../../../lib/cli/relay/relay-status.ts';
import { BandwidthBudget, QemuFile, type QemuFileOptions, relay } from '../../../lib/index.ts';
import { pattern } from '../../helpers/bytes.ts';
import { until } from '../../helpers/until.ts';

/** A file, and the far end of its connection. */
function connection(options?: QemuFileOptions): [QemuFile, QemuFile] {
  const [ours, theirs] = memoryPair();
  return [new QemuFile(ours, options), new QemuFile(theirs)];
}

test('reports its state, from the wait for a connection to the end', async () => {
  const budget = new BandwidthBudget(1000);
  using steering = new RelayMonitor(budget, assert.fail);
  assert.deepEqual(
    { ...steering.status() },
    {
      state: 'waiting',
      channels: 0,
      forward: 0,
      return: null,
      seconds: 0,
      bytesPerSecond: 0,
      maxBandwidth: 1000,
      limitedSeconds: 0,
      pending: 0,
    },
  );
  steering.setMaxBandwidth(500_000);
  const [from, source] = connection();
  const [to, target] = connection({ budget });
  steering.add(from, to);
  const relayed = relay(from, to);
  source.write(pattern(3_000_000));
  target.write(pattern(7));
  let received = 0;
  target.on('data', (chunk: Buffer) => (received += chunk.length));
  await until(() => received > 20_000, { what: 'some bytes' });
  const status = steering.status();
  assert.deepEqual(
    [status.state, status.channels, status.return, status.maxBandwidth],
    ['moving', 1, 7, 500_000],
  );
  assert.ok(status.forward > 20_000 && status.forward <= received);
  assert.ok(status.seconds > 0 && status.limitedSeconds > 0 && status.bytesPerSecond > 0);
  assert.ok(status.pending > 0 && status.pending < 1 << 20, `${status.pending} bytes`);
  steering.setMaxBandwidth(0);
  source.resume().end();
  await until(() => target.readableEnded, { what: 'the end' });
  assert.equal(steering.status().state, 'ending');
  target.end();
  assert.equal((await relayed).complete, true);
  assert.deepEqual(
    [steering.status().forward, steering.status().pending, received],
    [3_000_000, 0, 3_000_000],
  );
});

test('adds up all channels, and stops the relay on command', () => {
  let stops = 0;
  using steering = new RelayMonitor(new BandwidthBudget(), () => (stops += 1));
  for (let channel = 0; channel < 3; channel += 1) {
    steering.add(connection()[0], connection()[0]);
  }
  assert.deepEqual([steering.status().channels, steering.status().return], [3, 0]);
  steering.stop();
  assert.deepEqual([stops, steering.status().state], [1, 'ending']);
});

test('refuses an invalid limit', () => {
  using steering = new RelayMonitor(new BandwidthBudget(5), assert.fail);
  assert.throws(() => steering.setMaxBandwidth(-1), RangeError);
  assert.equal(steering.status().maxBandwidth, 5);
});

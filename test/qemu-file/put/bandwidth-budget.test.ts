import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BandwidthBudget } from '../../../lib/qemu-file/put/bandwidth-budget.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { pattern, piecesOf, turn } from '../../helpers/bytes.ts';
import { Sink } from '../../helpers/transports/backends.ts';
import { until } from '../../helpers/until.ts';

describe('a budget of several files', () => {
  /** Files that want more than they get, over transports that take everything at once. */
  function sharers(
    budget: BandwidthBudget,
    answering: 'sync' | 'async',
  ): { sink: Sink; file: QemuFile }[] {
    return Array.from({ length: 3 }, () => {
      const sink = new Sink(answering);
      return { sink, file: new QemuFile(sink, { budget }) };
    });
  }

  test('is kept by all together, and serves each in turn', async () => {
    for (const answering of ['sync', 'async'] as const) {
      const budget = new BandwidthBudget(3_000_000);
      const all = sharers(budget, answering);
      const start = performance.now();
      // Sizes differ: who sends little at a time must not get in before the others.
      const sizes = [100_000, 30_000, 1000];
      for (const [at, { file }] of all.entries()) {
        for (const piece of piecesOf(pattern(100_000), sizes[at] as number))
          file.putBufferAsync(piece);
        void file.flush();
      }
      await until(() => all.every(({ sink }) => sink.written.length > 0), {
        what: 'a turn of each',
      });
      await Promise.all(all.map(({ file }) => file.close()));
      const seconds = (performance.now() - start) / 1000;
      assert.ok(300_000 <= 3_000_000 * (seconds + 0.015), `300000 bytes in ${seconds} s`);
      for (const { sink, file } of all) {
        assert.equal(Buffer.compare(sink.written, pattern(100_000)), 0);
        assert.ok(file.limitedMs <= budget.limitedMs + 1);
      }
      assert.ok(budget.limitedMs > 0 && budget.limitedMs <= seconds * 1000);
    }
  });

  test('is served in the order of waiting', () => {
    const clock = { ms: 0 };
    const budget = new BandwidthBudget(1000, () => clock.ms);
    assert.equal(budget.allowance(15), 15);
    budget.spend(15);
    const waiter = { wanted: 10, wake: () => {} };
    budget.wait(waiter);
    clock.ms += 15;
    assert.equal(budget.allowance(1), 0, 'another waiter comes first');
    budget.leave(waiter);
    assert.equal(budget.allowance(1), 1);
  });

  test('is not reserved for an idle file', () => {
    const budget = new BandwidthBudget(100_000);
    const [busy] = sharers(budget, 'sync');
    busy?.file.putBuffer(pattern(1500));
    void busy?.file.flush();
    assert.equal(busy?.sink.written.length, 1500);
  });

  test('is changed for all, directly or by one of the files', async () => {
    const budget = new BandwidthBudget(1);
    const all = sharers(budget, 'sync');
    for (const { file } of all) file.putBuffer(pattern(1000));
    const flushed = all.map(({ file }) => file.flush());
    await turn();
    budget.maxBandwidth = 1_000_000;
    await Promise.all(flushed);
    const [first, second] = all as [(typeof all)[0], (typeof all)[0]];
    first.file.maxBandwidth = 10;
    assert.equal(second.file.maxBandwidth, 10);
    for (const { file } of all) file.putBuffer(pattern(1000));
    const lifted = all.map(({ file }) => file.flush());
    first.file.maxBandwidth = 0;
    await Promise.all(lifted);
    assert.equal(second.file.getRateLimit(), 0);
  });

  test('continues without a file that is destroyed while it waits for its turn', async () => {
    const budget = new BandwidthBudget(100_000);
    const [first, second] = sharers(budget, 'sync') as [
      { file: QemuFile },
      { file: QemuFile; sink: Sink },
    ];
    for (const { file } of [first, second]) file.putBuffer(pattern(3000));
    const flushed = [first.file.flush(), second.file.flush()];
    first.file.destroy();
    await assert.rejects(flushed[0] as Promise<void>, { code: 'ECANCELED' });
    await flushed[1];
    assert.equal(second.sink.written.length, 3000);
  });

  test('lets the next one in at its time although the first left the queue just before', (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const clock = { ms: 0 };
    const pass = (ms: number): void => {
      clock.ms += ms;
      t.mock.timers.tick(ms);
    };
    const budget = new BandwidthBudget(1000, () => clock.ms);
    budget.spend(15);
    const first = { wanted: 10, wake: () => {} };
    let isWoken = false;
    budget.wait(first);
    budget.wait({ wanted: 10, wake: () => (isWoken = true) });
    pass(9);
    budget.leave(first);
    pass(1);
    assert.equal(isWoken, true);
  });

  test('wakes the others although what one of them calls throws', async (t) => {
    const thrown: Error[] = [];
    process.setUncaughtExceptionCaptureCallback((error) => thrown.push(error));
    t.after(() => process.setUncaughtExceptionCaptureCallback(null));
    const budget = new BandwidthBudget(100_000);
    budget.spend(1500);
    const wake = (): never => {
      throw new Error('a callback of the first');
    };
    budget.wait({ wanted: 1000, wake });
    let isWoken = false;
    budget.wait({ wanted: 1000, wake: () => (isWoken = true) });
    await until(() => isWoken, { what: 'the second to be woken' });
    assert.deepEqual(
      thrown.map(({ message }) => message),
      ['a callback of the first'],
    );
  });
});

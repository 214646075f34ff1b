import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFile } from '../../../lib/index.ts';
import { BandwidthBudget } from '../../../lib/qemu-file/put/bandwidth-budget.ts';
import { RateLimiter } from '../../../lib/qemu-file/put/rate-limiter.ts';
import { Sender } from '../../../lib/qemu-file/put/sender.ts';
import { turn } from '../../helpers/bytes.ts';
import { Sink } from '../../helpers/transports/backends.ts';

describe('the sender', () => {
  test('forgets a wait that was cancelled, and calls the others in the order of their targets', () => {
    const sink = new Sink('sync');
    const sender = new Sender(sink, new RateLimiter(new BandwidthBudget()), false, {
      nextBatch: () => null,
      release: () => {},
      taken: () => {},
      failed: assert.fail,
    });
    const calls: string[] = [];
    sender.whenTaken(4, () => calls.push('second'));
    const cancel = sender.whenTaken(3, () => calls.push('cancelled'));
    sender.whenTaken(2, () => calls.push('first'));
    cancel();
    sender.enqueue({ entries: [Buffer.alloc(4)], bytes: 4, releases: [], block: null });
    sender.send();
    assert.deepEqual(calls, ['first', 'second']);
    assert.equal(sender.taken, 4);
  });
});

describe('flush', () => {
  test('that is aborted leaves no listener', async () => {
    const sink = new Sink('manual');
    const file = new QemuFile(sink);
    file.putByte(1);
    const reasons: unknown[] = [];
    for (let round = 0; round < 3; round += 1) {
      const controller = new AbortController();
      const { signal } = controller;
      let listeners = 0;
      const add = signal.addEventListener.bind(signal);
      const remove = signal.removeEventListener.bind(signal);
      signal.addEventListener = (...args: Parameters<typeof add>) => {
        listeners += 1;
        add(...args);
      };
      signal.removeEventListener = (...args: Parameters<typeof remove>) => {
        listeners -= 1;
        remove(...args);
      };
      const flushed = file.flush({ signal }).catch((error: unknown) => reasons.push(error));
      controller.abort();
      await flushed;
      assert.equal(listeners, 0);
    }
    assert.equal(reasons.length, 3);
    const whole = file.flush();
    await turn();
    sink.take();
    await whole;
    assert.equal(file.sentPosition, 1);
    await file.close();
  });
});

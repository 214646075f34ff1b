import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { onAbort, waitFor, waitForPromise } from '../../lib/contract/wait-for.ts';
import { countedSignal } from '../helpers/counted-signal.ts';

describe('a wait', () => {
  test('ends with the value, and unsubscribes once', async () => {
    let unsubscribed = 0;
    let give: (value: number) => void = () => {};
    const wait = waitFor<number>(
      (resolve) => {
        give = resolve;
        return () => {
          unsubscribed += 1;
        };
      },
      { operation: 'test' },
    );
    give(7);
    give(8);
    assert.equal(await wait, 7);
    assert.equal(unsubscribed, 1);
  });

  test('that settles while it starts unsubscribes as well', async () => {
    let unsubscribed = 0;
    const wait = waitFor<number>(
      (resolve) => {
        resolve(1);
        return () => {
          unsubscribed += 1;
        };
      },
      { operation: 'test' },
    );
    assert.equal(await wait, 1);
    assert.equal(unsubscribed, 1);
  });

  test('is rejected with what start throws', async () => {
    const wait = waitFor(
      () => {
        throw new Error('no');
      },
      { operation: 'test' },
    );
    await assert.rejects(wait, { message: 'no' });
  });

  test('ends with ECANCELED when its signal aborts, and leaves no listener on it', async () => {
    const { signal, abort, listeners } = countedSignal();
    let unsubscribed = 0;
    const wait = waitFor(
      () => () => {
        unsubscribed += 1;
      },
      { signal, operation: 'test' },
    );
    assert.equal(listeners(), 1);
    abort();
    await assert.rejects(wait, { code: 'ECANCELED', operation: 'test' });
    assert.equal(unsubscribed, 1);
    assert.equal(listeners(), 0);
  });

  test('does not start when its signal is aborted already', async () => {
    let started = false;
    const wait = waitFor(
      () => {
        started = true;
      },
      { signal: AbortSignal.abort(), operation: 'test' },
    );
    await assert.rejects(wait, { code: 'ECANCELED' });
    assert.equal(started, false);
  });

  test('ends with ETIMEDOUT and its reason when the time is over', async () => {
    const never = new Promise<never>(() => {});
    const options = { timeoutMs: 1, operation: 'test', timeoutReason: () => 'QEMU did not answer' };
    await assert.rejects(waitForPromise(never, options), {
      code: 'ETIMEDOUT',
      reason: 'QEMU did not answer',
    });
  });

  test('for a promise ends as the promise does', async () => {
    assert.equal(await waitForPromise(Promise.resolve(3), { operation: 'test' }), 3);
    await assert.rejects(waitForPromise(Promise.reject(new Error('x')), { operation: 'test' }), {
      message: 'x',
    });
  });
});

test('a listener of an abort is removed by the function that onAbort returns', () => {
  const { signal, listeners } = countedSignal();
  const stop = onAbort(signal, () => {});
  assert.equal(listeners(), 1);
  stop();
  assert.equal(listeners(), 0);
});

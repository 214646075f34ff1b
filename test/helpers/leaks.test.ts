import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { createServer } from 'node:net';
import { describe, it } from 'node:test';
import { type LeakWatch, watchLeaks, withoutLeaks } from './leaks.ts';

const settleMs = 100;

/** Leak something, and clean it up after the watch noticed it. */
async function leak(make: (watch: LeakWatch) => Promise<() => unknown>): Promise<string> {
  const watch = await watchLeaks({ settleMs });
  const undo = await make(watch);
  const error = await watch.check().then(
    () => assert.fail('it was not noticed'),
    (reason: Error) => reason,
  );
  await undo();
  await watch[Symbol.asyncDispose]();
  return error.message;
}

describe('leaks', () => {
  it('are not found after work that releases everything', async () => {
    const given = await withoutLeaks(async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      await once(server.close(), 'close');
      const child = spawn('/bin/cat', { stdio: ['pipe', 'pipe', 'inherit'] });
      child.stdin.end('text');
      child.stdout.resume();
      await once(child, 'close');
      clearTimeout(setTimeout(() => {}, 1e6));
      return 7;
    });
    assert.equal(given, 7);
  });

  it('name a descriptor by the file that it refers to', async () => {
    const message = await leak(async () => {
      const fd = openSync('/proc/version', 'r');
      return () => closeSync(fd);
    });
    assert.match(message, /^left behind:\n {2}descriptor \d+: \/proc\/version$/);
  });

  it('name a child by its command', async () => {
    const message = await leak(async () => {
      const child = spawn('/bin/sleep', ['1000'], { stdio: 'ignore' });
      return async () => {
        child.kill('SIGKILL');
        await once(child, 'close');
      };
    });
    assert.match(message, /child \d+: \/bin\/sleep 1000/);
  });

  it('name a timer by its origin, also an unreferenced one', async () => {
    const message = await leak(async () => {
      const timers = [setTimeout(() => {}, 1e6), setInterval(() => {}, 1e6).unref()];
      return () => timers.forEach(clearTimeout);
    });
    assert.equal(message.match(/timer, made at .*leaks\.test\.ts:\d+/g)?.length, 2, message);
  });

  it('name a handle', async () => {
    const message = await leak(async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      return () => once(server.close(), 'close');
    });
    assert.match(message, /descriptor \d+: socket:\[\d+\]\n {2}1 more TCP/);
  });

  it('name listeners of the process', async () => {
    const message = await leak(async () => {
      const listener = () => {};
      process.on('SIGUSR2', listener);
      return () => process.off('SIGUSR2', listener);
    });
    assert.match(message, /1 more listeners of process for "SIGUSR2"/);
  });

  it('name listeners of the emitters given', async () => {
    const stable = new EventEmitter().on('a', () => {});
    const grown = new EventEmitter().on('a', () => {});
    const work = withoutLeaks(async () => grown.on('a', () => {}), {
      emitters: { stable, grown },
      settleMs,
    });
    await assert.rejects(work, { message: 'left behind:\n  1 more listeners of grown for "a"' });
  });

  it('do not hide the error of the work', async () => {
    let fd = -1;
    const work = withoutLeaks(
      async () => {
        fd = openSync('/proc/version', 'r');
        throw new Error('the work');
      },
      { settleMs },
    );
    await assert.rejects(work, { message: 'the work' });
    closeSync(fd);
  });
});

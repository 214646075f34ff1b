import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { memoryOps } from '../../adapters/index.ts';
import { channels } from '../../lib/contract/diagnostics-channels.ts';
import { DIAGNOSTICS_CHANNELS, QemuFile, QemuFileError } from '../../lib/index.ts';

interface Received {
  channel: string;
  message: Record<string, unknown>;
}

/** Run `work` and return what all channels publish meanwhile. */
async function published(work: () => Promise<void>): Promise<Received[]> {
  const received: Received[] = [];
  const listener = (message: unknown, channel: string | symbol): void => {
    received.push({ channel: String(channel), message: message as Record<string, unknown> });
  };
  const names = Object.values(DIAGNOSTICS_CHANNELS);
  for (const name of names) subscribe(name, listener);
  try {
    await work();
  } finally {
    for (const name of names) unsubscribe(name, listener);
  }
  return received;
}

describe('diagnostics channels', () => {
  test('report the life of a file: open, each batch, close', async () => {
    let file: QemuFile | undefined;
    const received = await published(async () => {
      file = new QemuFile(memoryOps());
      file.putBe32(1);
      await file.flush();
      file.putBufferAsync(Buffer.alloc(10));
      file.putByte(2);
      await file.flush();
      await file.readBe16();
      await file.close();
    });
    assert.deepEqual(received, [
      { channel: 'qemu-file:open', message: { file, readable: true, writable: true } },
      { channel: 'qemu-file:flush', message: { file, position: 0, bytes: 4, buffers: 1 } },
      { channel: 'qemu-file:flush', message: { file, position: 4, bytes: 11, buffers: 2 } },
      {
        channel: 'qemu-file:close',
        message: { file, error: null, putPosition: 15, getPosition: 2 },
      },
    ]);
  });

  test('report the latched error once, and with the close', async () => {
    const failure = new QemuFileError('ENOSPC', 'the disk is full');
    const received = await published(async () => {
      const file = new QemuFile({ writevBuffer: () => Promise.reject(failure) });
      file.putByte(1);
      await assert.rejects(file.flush(), { code: 'ENOSPC' });
      file.setError(-5);
      await assert.rejects(file.close(), { code: 'ENOSPC' });
    });
    assert.deepEqual(
      received.map(({ channel, message }) => [channel, message.error]),
      [
        ['qemu-file:open', undefined],
        ['qemu-file:error', failure],
        ['qemu-file:close', failure],
      ],
    );
  });

  test('report an error of closing the backend', async () => {
    const received = await published(async () => {
      const file = new QemuFile({ writevBuffer: () => 0, close: () => -28 });
      await assert.rejects(file.close(), { code: 'ENOSPC' });
    });
    assert.deepEqual(
      received.map(({ channel }) => channel),
      ['qemu-file:open', 'qemu-file:error', 'qemu-file:close'],
    );
  });

  for (const gate of ['budget', 'transport'] as const) {
    test(`report once that the ${gate} gate made a producer wait`, async () => {
      const received = await published(async () => {
        const file = new QemuFile(
          { writevBuffer: () => new Promise(() => {}) },
          { highWaterMark: gate === 'transport' ? 100 : 1000 },
        );
        if (gate === 'budget') file.setRateLimit(50);
        file.putBuffer(Buffer.alloc(200));
        assert.equal(file.rateLimitExceeded(), true);
        assert.equal(file.rateLimitExceeded(), true);
        file.destroy();
        await assert.rejects(file.drain());
      });
      const throttled = received.filter(({ channel }) => channel === 'qemu-file:throttle');
      assert.equal(throttled.length, 1);
      assert.equal(throttled[0]?.message.gate, gate);
      assert.equal(throttled[0]?.message.pendingBytes, 200);
    });
  }

  test('have no subscribers by default', () => {
    for (const channel of Object.values(channels)) assert.equal(channel.hasSubscribers, false);
  });

  test('are printed to stderr with NODE_DEBUG=qemu-file', () => {
    const code = `
      import { QemuFile } from ${JSON.stringify(new URL('../../lib/index.ts', import.meta.url))};
      const file = new QemuFile({ writevBuffer: (buffers) => -32 });
      file.putByte(1);
      await file.close().catch(() => {});`;
    const { stderr, status } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '-e', code],
      {
        cwd: fileURLToPath(new URL('../..', import.meta.url)),
        env: { ...process.env, NODE_DEBUG: 'qemu-file' },
        encoding: 'utf8',
      },
    );
    assert.equal(status, 0, stderr);
    const lines = stderr.split('\n').filter((line) => line.startsWith('QEMU-FILE'));
    assert.deepEqual(
      lines.map((line) => line.replace(/^QEMU-FILE \d+: /, '')),
      [
        'qemu-file:open { readable: false, writable: true }',
        "qemu-file:error { error: 'EPIPE: writevBuffer: the backend reported an error at byte 0; the other end stopped reading: look at its log for the reason' }",
        "qemu-file:close { error: 'EPIPE: writevBuffer: the backend reported an error at byte 0; the other end stopped reading: look at its log for the reason', putPosition: 0, getPosition: 0 }",
      ],
    );
  });
});

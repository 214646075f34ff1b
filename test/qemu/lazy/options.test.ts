// Lazy restores over TLS, with a limited bandwidth, beside an ordinary one, and of a busy guest.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import {
  DIAGNOSTICS_CHANNELS,
  type VmMessage,
} from '../../../lib/contract/diagnostics-channels.ts';
import type { SavedGuest } from '../../../lib/migration/index.ts';
import { noop } from '../../../lib/util/noop.ts';
import { type LazyProgress, recoverLazily, restoreLazily } from '../../../lib/vm/index.ts';
import { fixturePath } from '../../fixtures/recording.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import { has } from '../../helpers/command/reading-command.ts';
import { type Credentials, makeCredentials } from '../../helpers/transports/credentials.ts';
import { freePort } from '../../helpers/transports/sockets.ts';
import { until } from '../../helpers/until.ts';
import { firmware, type GuestProgram } from '../harness/guest.ts';
import { requireQemu } from '../harness/harness.ts';
import {
  assertSound,
  dataBytes,
  machine,
  openGuest,
  QEMUS,
  saveGuest,
  watchReads,
} from './machine.ts';

/** A guest that writes to each page of its pattern at each tick. */
const BUSY: GuestProgram = { patternBytes: 2 << 20, dirtyBytes: 2 << 20, dirtyPagesPerTick: 512 };

for (const { version, skip, options } of QEMUS) {
  describe(`a lazy restore to QEMU ${version}`, { skip, timeout: 300_000 }, () => {
    let dir: TempDir;
    let guest: SavedGuest;
    let path: string;
    let credentials: Credentials;
    const incoming = { ...options, incoming: 'defer' };
    before(async () => {
      dir = makeTempDir();
      credentials = makeCredentials(dir.path);
      path = dir.join('running.mig');
      await saveGuest(path, options);
      guest = await openGuest(path);
    });
    after(async () => {
      await guest.close();
      dir.remove();
    });

    for (const preempt of [[], ['--preempt']]) {
      test(['over TLS', ...preempt].join(' '), async () => {
        const { good } = credentials;
        await using restored = await machine(incoming, tlsObject(good));
        await restored.qemu.setMigration({ parameters: { 'tls-creds': 'tls0' } });
        const { code, stderr } = await run([
          ...['restore', '--lazy', '--qmp', restored.monitor, path, ...preempt],
          ...['--address', `tcp:127.0.0.1:${await freePort()}`, '--to-tls', good],
        ]);
        assert.equal(code, 0, stderr);
        await assertSound(restored);
      });
    }

    test('over TLS to a QEMU that is not trusted fails, and no guest runs', async () => {
      await using restored = await machine(incoming, tlsObject(credentials.good));
      await restored.qemu.setMigration({ parameters: { 'tls-creds': 'tls0' } });
      const { code, stderr } = await run([
        ...['restore', '--lazy', '--qmp', restored.monitor, path],
        ...['--address', `tcp:127.0.0.1:${await freePort()}`, '--to-tls', credentials.stranger],
      ]);
      assert.equal(code, 4, stderr);
      assert.match(stderr, /authority is not trusted here; no guest runs, and QEMU was ended/);
    });

    test('that a signal interrupts after the guest ran says that it waits, and how to go on', async () => {
      await using restored = await machine(incoming);
      const lazily = ['restore', '--lazy', '--qmp', restored.monitor, path];
      const running = restored.qmp.waitForEvent('RESUME');
      // The background takes longer than the test.
      const restoring = new Command([...lazily, '--max-bandwidth', '16k']);
      await running;
      restoring.child.kill('SIGINT');
      const { code, stderr } = await restoring.ended();
      assert.equal(code, 130, stderr);
      assert.match(
        stderr,
        /^qemu-file: interrupted by SIGINT; .*waits for the rest: continue with/m,
      );
      assert.doesNotMatch(stderr, /no guest/);
    });

    test('to an address that goes one way only is refused before QEMU listens', async () => {
      await using restored = await machine(incoming);
      const failing = restoreLazily(restored.qmp, guest, { address: `file:${dir.join('none')}` });
      await assert.rejects(failing, /give tcp: or unix:/);
      await restoreLazily(restored.qmp, guest);
    });

    test('of a compressed file, or beside multifd, is an ordinary one with --lazy=auto', async () => {
      const compressed = dir.join('running.mig.gz');
      writeFileSync(compressed, gzipSync(readFileSync(path)));
      {
        await using restored = await machine(incoming);
        const { code, stderr } = await run([
          ...['restore', '--lazy=auto', '--qmp', restored.monitor, compressed],
        ]);
        assert.equal(code, 0, stderr);
        assert.match(stderr, /restoring ordinarily, because .*compact/);
        await assertSound(restored);
      }
      await using restored = await machine(incoming);
      await restored.qemu.setMigration({ capabilities: { multifd: true } });
      const { code, stderr } = await run([
        ...['restore', '--lazy=auto', '--qmp', restored.monitor, path],
      ]);
      assert.equal(code, 0, stderr);
      assert.match(stderr, /restoring ordinarily, because .* multifd is on at the destination/);
      assert.match(stderr, /restored .* the guest is running/);
      await assertSound(restored);
    });

    test('with a bandwidth runs the guest while the background is held back', async () => {
      await using restored = await machine(incoming);
      const stop = new AbortController();
      let onRunning: (now: LazyProgress) => void = noop;
      const running = new Promise<LazyProgress>((resolve) => {
        onRunning = resolve;
      });
      let progress: LazyProgress | undefined;
      const restoring = restoreLazily(restored.qmp, guest, {
        maxBandwidth: 1,
        signal: stop.signal,
        onProgress: (now) => {
          progress = now;
          if (now.resumeMs !== null) onRunning(now);
        },
      });
      restoring.catch(noop);
      await running;
      await restored.qemu.waitCounterRises();
      stop.abort();
      await assert.rejects(restoring, /--recover/);
      assert.ok(progress !== undefined && progress.bytes < progress.total);
    });

    test('over a second connection that dies goes on with two new ones', async () => {
      await using restored = await machine(incoming);
      const death = new AbortController();
      let hasStarted = false;
      restored.qmp.on('event', ({ event }) => {
        hasStarted ||= event === 'RESUME';
      });
      const dying = watchReads(guest, (bytes) => {
        if (hasStarted && bytes > dataBytes(guest) / 2) death.abort();
      });
      const failing = restoreLazily(restored.qmp, dying, {
        ...{ preempt: true, maxBandwidth: 2 << 20 },
        signal: death.signal,
      });
      await assert.rejects(failing, /--recover/);
      await recoverLazily(restored.qmp, guest, { preempt: true });
      await assertSound(restored);
    });

    test('of a stopped guest over two connections is recovered without a word about them', async () => {
      await using restored = await machine(incoming);
      const death = new AbortController();
      const failing = restoreLazily(restored.qmp, guest, {
        ...{ preempt: true, keepPaused: true, maxBandwidth: 1 },
        signal: death.signal,
      });
      failing.catch(noop);
      await restored.qemu.waitStatus(['paused']);
      death.abort();
      await assert.rejects(failing, /--recover/);
      await recoverLazily(restored.qmp, guest);
      await restored.qemu.resume();
      await assertSound(restored);
    });

    test('publishes its start, its progress and its end', async () => {
      const messages: VmMessage[] = [];
      const onMessage = (message: unknown): void => void messages.push(message as VmMessage);
      subscribe(DIAGNOSTICS_CHANNELS.vmRestore, onMessage);
      try {
        await using restored = await machine(incoming);
        const { bytes } = await restoreLazily(restored.qmp, guest);
        assert.equal(messages[0]?.phase, 'start');
        assert.ok(messages.some(({ phase, status }) => phase === 'progress' && status !== ''));
        const { phase, bytes: published, error } = messages.at(-1) as VmMessage;
        assert.deepEqual([phase, published, error], ['end', bytes, undefined]);
        messages.length = 0;
        await assert.rejects(restoreLazily(restored.qmp, guest));
        assert.deepEqual(
          messages.map(({ phase, error }) => [phase, error === undefined]),
          [
            ['start', true],
            ['end', false],
          ],
        );
      } finally {
        unsubscribe(DIAGNOSTICS_CHANNELS.vmRestore, onMessage);
      }
    });

    test('of a guest that writes everywhere at once leaves no word wrong', async () => {
      const image = { firmware: firmware(BUSY) };
      const busyPath = dir.join('busy.mig');
      await saveGuest(busyPath, { ...options, ...image });
      const busy = await openGuest(busyPath);
      try {
        await using restored = await machine({ ...incoming, ...image });
        const { status } = await restoreLazily(restored.qmp, busy);
        assert.equal(status, 'running');
        await assertSound(restored, BUSY);
      } finally {
        await busy.close();
      }
    });
  });
}

describe('the command that restores lazily', { skip: requireQemu(), timeout: 300_000 }, () => {
  let dir: TempDir;
  const incoming = { incoming: 'defer' };
  before(() => {
    dir = makeTempDir();
  });
  after(() => dir.remove());

  test('refuses a stream with XBZRLE pages, with the command that converts it', async () => {
    const encoded = dir.join('xbzrle.mig');
    writeFileSync(encoded, gunzipSync(readFileSync(fixturePath('xbzrle.mig.gz'))));
    await using restored = await machine(incoming);
    const lazily = ['restore', '--lazy', '--qmp', restored.monitor];
    const { code, stderr } = await run([...lazily, encoded]);
    assert.equal(code, 5, stderr);
    assert.match(stderr, /it has XBZRLE pages; convert it with "qemu-file compact FROM TO"/);
    assert.equal(await restored.qemu.status(), 'inmigrate');
    const converted = dir.join('converted.mig');
    assert.equal((await run(['compact', encoded, converted])).code, 0);
    await (await openGuest(converted)).close();
  });

  test('shows on a terminal since when the guest runs', { skip: !has('script') }, async (t) => {
    const path = dir.join('running.mig');
    await saveGuest(path, {});
    await using restored = await machine(incoming);
    const command = `${process.execPath} --import tsx lib/cli/main.ts restore --lazy --qmp ${restored.monitor} ${path}`;
    // It sends only what the guest asks for, so it does not end by itself.
    const held = `${command} --record ${dir.join('set')} --record-seconds 1000`;
    const child = spawn('script', ['-qec', held, '/dev/null'], { stdio: 'pipe' });
    const closed = once(child, 'close');
    t.after(() => child.kill());
    let shown = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      shown += text;
    });
    const line = /running since [\d.]+ ms · \d+ % of memory/;
    await until(() => line.test(shown), { what: 'the progress line' });
    child.kill();
    await closed;
  });
});

/** Returns the arguments of a QEMU with credentials for TLS. */
function tlsObject(path: string): string[] {
  return ['-object', `tls-creds-x509,id=tls0,dir=${path},endpoint=server,verify-peer=on`];
}

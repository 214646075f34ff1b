// saveVm against a played QEMU: orders of events that a real one does not show on demand.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { memoryPair, openFrom, openTo } from '../../../adapters/index.ts';
import { QemuFile } from '../../../lib/index.ts';
import { openSavedGuest, unwrap } from '../../../lib/migration/index.ts';
import { type MigrationProgress, type SaveOptions, saveVm } from '../../../lib/vm/index.ts';
import { changeSettings } from '../../../lib/vm/migration-settings.ts';
import { recording } from '../../fixtures/recording.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { fails } from '../../helpers/errors.ts';
import { watchLeaks } from '../../helpers/leaks.ts';
import { until } from '../../helpers/until.ts';
import { connectFake } from '../fake-monitor.ts';
import { FakeQemu } from '../fake-qemu.ts';

/** Saves into a sink, with the socket in a directory that must be empty again afterwards. */
async function save(
  fake: FakeQemu,
  dir: TempDir,
  sink: QemuFile | Writable,
  options: SaveOptions = {},
): ReturnType<typeof saveVm> {
  const before = JSON.stringify([fake.capabilities, fake.parameters]);
  try {
    return await saveVm(fake.qmp, sink, { directory: dir.path, ...options });
  } finally {
    if (!fake.qmp.isClosed) {
      assert.equal(JSON.stringify([fake.capabilities, fake.parameters]), before);
    }
    const sockets = readdirSync(dir.path).filter((name) => name.startsWith('qemu-file-'));
    assert.deepEqual(sockets, [], 'the private directory is gone');
    assert.equal(fake.qmp.listenerCount('event'), 0);
  }
}

/** Start a save into `vm.mig` and wait until QEMU has sent half of its stream. */
async function saveHalf(
  fake: FakeQemu,
  dir: TempDir,
  options: SaveOptions = {},
): Promise<{ saving: ReturnType<typeof saveVm> }> {
  fake.stream = fake.stream.subarray(0, 500_000);
  const saving = save(fake, dir, await openTo(dir.join('vm.mig')), options);
  await until(() => fake.socket !== undefined, { what: 'the connection' });
  await fake.sent();
  return { saving };
}

/** A sink that completes, or fails, on request. */
function slowSink(log: string[]): {
  sink: Writable;
  bytes: Buffer[];
  finish: (error?: Error) => void;
} {
  let onFinal: ((error?: Error | null) => void) | undefined;
  const bytes: Buffer[] = [];
  const sink = new Writable({
    write: (chunk: Buffer, _encoding, callback) => {
      bytes.push(Buffer.from(chunk));
      callback();
    },
    final: (callback) => {
      log.push('closing');
      onFinal = callback;
    },
  });
  const finish = (error?: Error): void => {
    log.push('closed');
    onFinal?.(error);
  };
  return { sink, bytes, finish };
}

describe('a save', () => {
  test('answers QEMU only when the sink is closed, and QEMU completes then', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const { sink, bytes, finish } = slowSink(fake.log);
    const saving = save(fake, dir, sink);
    await until(() => fake.log.includes('closing'), { what: 'the sink to be closed' });
    await fake.qmp.execute('query-status');
    assert.deepEqual([fake.log, fake.status], [['closing'], 'active']);
    finish();
    const result = await saving;
    assert.deepEqual(fake.log, ['closing', 'closed', 'SHUT 0', 'completed']);
    assert.deepEqual(Buffer.concat(bytes), fake.stream);
    assert.equal(result.bytes, fake.stream.length);
    assert.deepEqual([result.status, result.manifest, result.warnings], ['postmigrate', null, []]);
    await fake.qmp.close();
  });

  test('of which the sink fails to close is cancelled, and never answered', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const { sink, finish } = slowSink(fake.log);
    const saving = save(fake, dir, sink);
    await until(() => fake.log.includes('closing'), { what: 'the sink to be closed' });
    finish(Object.assign(new Error('disk on fire'), { code: 'ENOSPC' }));
    await assert.rejects(saving, fails('ENOSPC', /disk on fire/));
    assert.deepEqual(fake.log, ['closing', 'closed', 'migrate_cancel', 'cancelled']);
    assert.equal(fake.runState, 'running');
    await fake.qmp.close();
  });

  test('is not stopped by its signal any more once the sink is being closed', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const { sink, finish } = slowSink(fake.log);
    const controller = new AbortController();
    const saving = save(fake, dir, sink, { signal: controller.signal });
    await until(() => fake.log.includes('closing'), { what: 'the sink to be closed' });
    controller.abort();
    finish();
    await saving;
    assert.deepEqual(fake.log, ['closing', 'closed', 'SHUT 0', 'completed']);
    await fake.qmp.close();
  });

  test('changes the settings that it needs, and no others', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const { sink, finish } = slowSink(fake.log);
    const saving = save(fake, dir, sink);
    await until(() => fake.log.includes('closing'), { what: 'the sink to be closed' });
    assert.deepEqual(fake.capabilities, {
      events: true,
      'return-path': true,
      multifd: false,
      'release-ram': false,
      'auto-converge': true,
    });
    assert.deepEqual(fake.parameters, {
      'max-bandwidth': 2 ** 40,
      'tls-creds': '',
      'downtime-limit': 300,
    });
    finish();
    await saving;
    await fake.qmp.close();
  });

  test('compresses, reports progress, and makes a manifest', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const seen: MigrationProgress[] = [];
    const result = await save(fake, dir, await openTo(dir.join('vm.mig.gz')), {
      compress: 'gzip',
      manifest: true,
      resume: true,
      onProgress: (progress) => seen.push(progress),
    });
    assert.deepEqual(gunzipSync(readFileSync(dir.join('vm.mig.gz'))), fake.stream);
    // As recorded: of the stream, not of its compressed form.
    assert.equal(result.manifest?.xxh64, '53975d83884d67ca');
    assert.equal(result.status, 'running');
    assert.equal(seen.at(-1)?.status, 'completed');
    await fake.qmp.close();
  });

  test('makes an index of its pages, with which the guest is opened', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    fake.capabilities.xbzrle = true;
    const path = dir.join('vm.mig');
    const saving = save(fake, dir, await openTo(path), { index: true, manifest: true });
    const { index, warnings } = await saving;
    assert.ok(index);
    assert.deepEqual(warnings, []);
    assert.equal(fake.capabilities.xbzrle, true);
    const file = await unwrap(await openFrom({ scheme: 'file', path, offset: 0 }));
    const guest = await openSavedGuest(file, { index });
    const { ram } = recording('return-path').facts;
    for (const [block, { used, sha256 }] of ram.entries()) {
      const bytes = Buffer.alloc(used);
      await guest.pages.read(block, 0, bytes);
      assert.equal(createHash('sha256').update(bytes).digest('hex'), sha256);
    }
    await guest.close();
    await fake.qmp.close();
  });

  test('refuses an index of what has no places, before QEMU is asked', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    for (const options of [{ compress: 'gzip' }, { check: false }] as const) {
      const saving = save(fake, dir, await openTo(dir.join('vm.mig')), { ...options, index: true });
      await assert.rejects(saving, { code: 'EINVAL' });
    }
    assert.equal(fake.status, undefined);
    await fake.qmp.close();
  });

  test('can write to a file in memory', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const [here, there] = memoryPair();
    const reading = buffer(new QemuFile(there, { writable: false }));
    await save(fake, dir, new QemuFile(here, { readable: false }), { resume: true });
    assert.deepEqual(await reading, fake.stream);
    await fake.qmp.close();
  });
});

describe('a save of a machine without a VM description, or unchecked,', () => {
  for (const [what, options] of [
    ['a machine without a VM description', {}],
    ['an unchecked stream', { check: false }],
  ] as const) {
    test(`waits for QEMU to complete before it closes the sink: ${what}`, async () => {
      await using dir = makeTempDir();
      const fake = await FakeQemu.start();
      fake.suppressesDescription = !('check' in options);
      const { sink, finish } = slowSink(fake.log);
      const saving = save(fake, dir, sink, options);
      await until(() => fake.log.includes('closing'), { what: 'the sink to be closed' });
      assert.deepEqual(fake.log, ['completed', 'closing']);
      finish();
      await saving;
      await fake.qmp.close();
    });
  }

  test('has the guest run on if the sink fails after QEMU has completed', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const { sink, finish } = slowSink(fake.log);
    const saving = save(fake, dir, sink, { check: false });
    await until(() => fake.log.includes('closing'), { what: 'the sink to be closed' });
    finish(new Error('no luck'));
    await assert.rejects(saving, fails('EIO', /no luck/));
    assert.deepEqual(fake.log, ['completed', 'closing', 'closed', 'cont']);
    await fake.qmp.close();
  });

  test('is not published if QEMU fails after a stream that seems complete', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    fake.stream = fake.stream.subarray(0, 500_000);
    fake.endsAs = 'failed';
    fake.errorDescription = 'Input/output error';
    const saving = save(fake, dir, await openTo(dir.join('vm.mig')), { check: false });
    await assert.rejects(saving, fails('EIO', /QEMU's migration failed: Input\/output error/));
    assert.deepEqual([fake.log, readdirSync(dir.path)], [['failed'], []]);
    await fake.qmp.close();
  });
});

describe('a save that fails leaves no file, and QEMU as it was:', () => {
  test('QEMU fails', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    fake.errorDescription = 'Unable to write to socket: Bad weather';
    const { saving } = await saveHalf(fake, dir);
    fake.finish('failed');
    await assert.rejects(saving, fails('EIO', /QEMU's migration failed: Unable to write.*weather/));
    assert.deepEqual(readdirSync(dir.path), []);
    await fake.qmp.close();
  });

  test('another client cancels', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const { saving } = await saveHalf(fake, dir);
    fake.finish('cancelled');
    await assert.rejects(
      saving,
      fails('ECANCELED', /another client cancelled the migration in QEMU/),
    );
    assert.deepEqual(readdirSync(dir.path), []);
    await fake.qmp.close();
  });

  test('the stream is not sound', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    fake.stream = Buffer.concat([fake.stream.subarray(0, 200), Buffer.alloc(100_000, 0xee)]);
    const saving = save(fake, dir, await openTo(dir.join('vm.mig')));
    await assert.rejects(saving, fails('EBADMSG', /at byte \d+$/));
    assert.deepEqual(fake.log, ['migrate_cancel', 'cancelled']);
    assert.deepEqual(readdirSync(dir.path), []);
    await fake.qmp.close();
  });

  test('the sink fails while QEMU does nothing but wait for its bytes to be taken', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    fake.isDeafWhileItSends = true;
    const saving = save(fake, dir, await openTo('/dev/full'));
    await assert.rejects(saving, fails('ENOSPC', /no space left/));
    assert.deepEqual(fake.log, ['migrate_cancel', 'cancelled']);
    await fake.qmp.close();
  });

  test('the signal aborts, before it and in the middle', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    fake.stream = fake.stream.subarray(0, 500_000);
    const early = save(fake, dir, await openTo(dir.join('vm.mig')), {
      signal: AbortSignal.abort(),
    });
    await assert.rejects(early, fails('ECANCELED', /saveVm: aborted/));
    const controller = new AbortController();
    const { signal } = controller;
    const saving = save(fake, dir, await openTo(dir.join('vm.mig')), { signal });
    await until(() => fake.socket !== undefined, { what: 'the connection' });
    await fake.sent();
    controller.abort();
    await assert.rejects(saving, fails('ECANCELED', /saveVm: aborted/));
    assert.deepEqual(fake.log, ['migrate_cancel', 'cancelled']);
    assert.deepEqual(readdirSync(dir.path), []);
    await fake.qmp.close();
  });

  test('the monitor is lost, and with that the way to cancel', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const { saving } = await saveHalf(fake, dir);
    fake.monitor.stream.destroy();
    await assert.rejects(saving, fails('ECONNRESET', /QEMU ended the connection to its monitor/));
    // QEMU's migration fails with its connection.
    await until(() => fake.socket?.readableEnded, { what: 'the end of the connection' });
    assert.equal(existsSync(dir.join('vm.mig')), false);
    assert.deepEqual(readdirSync(dir.path), []);
    fake.socket?.destroy();
    await fake.qmp.close();
  });

  test('it is given up as the monitor is lost, and does not claim that the guest runs on', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    const controller = new AbortController();
    const { signal } = controller;
    const { saving } = await saveHalf(fake, dir, { signal });
    controller.abort();
    fake.monitor.stream.destroy();
    await assert.rejects(saving, (error: Error) => {
      fails('ECANCELED', /aborted by its signal; and QEMU cannot be reached any more/)(error);
      return error.cause !== signal.reason;
    });
    assert.deepEqual(readdirSync(dir.path), []);
    fake.socket?.destroy();
    await fake.qmp.close();
  });

  test('QEMU cannot connect, or the save is given up before it does', async () => {
    await using dir = makeTempDir();
    const fake = await FakeQemu.start();
    fake.connects = false;
    fake.errorDescription = "Failed to connect to '/x/socket': Permission denied";
    const saving = save(fake, dir, await openTo(dir.join('vm.mig')));
    await until(() => fake.status === 'active', { what: 'the migration' });
    fake.finish('failed');
    await assert.rejects(saving, fails('EIO', /migration failed: Failed to connect.*Permission/));
    const controller = new AbortController();
    const { signal } = controller;
    const second = save(fake, dir, await openTo(dir.join('vm.mig')), { signal });
    await until(() => fake.status === 'active', { what: 'the second migration' });
    controller.abort();
    await assert.rejects(second, fails('ECANCELED', /saveVm: aborted/));
    assert.deepEqual(fake.log, ['failed', 'migrate_cancel', 'cancelled']);
    assert.deepEqual(readdirSync(dir.path), []);
    await fake.qmp.close();
  });

  for (const [what, change, code, message] of [
    [
      'a migration is under way',
      { status: 'active' },
      'EBUSY',
      /another migration of this QEMU is in progress, in state "active"/,
    ],
    ['it is one that waits for a guest', { runState: 'inmigrate' }, 'EBUSY', /has no guest yet/],
    ['its guest has gone', { runState: 'postmigrate' }, 'EBUSY', /"cont" first/],
    [
      'QEMU cannot',
      { blockers: ['disk d0', 'disk d1'] },
      'ENOTSUP',
      /cannot save.*disk d0; disk d1/,
    ],
  ] as const) {
    test(`${what}, and nothing is begun`, async () => {
      await using dir = makeTempDir();
      const fake = await FakeQemu.start();
      Object.assign(fake, change);
      const saving = save(fake, dir, await openTo(dir.join('vm.mig')));
      await assert.rejects(saving, fails(code, message));
      assert.deepEqual([fake.log, readdirSync(dir.path)], [[], []]);
      await fake.qmp.close();
    });
  }
});

test('settings of which QEMU takes some not back are otherwise as before', async () => {
  const parameters = { 'tls-creds': 'tls0' };
  let changed = 0;
  const { qmp } = await connectFake(({ execute, arguments: args }) => {
    if (execute === 'query-migrate-capabilities') return [{ capability: 'multifd', state: true }];
    if (execute === 'query-migrate-parameters') return parameters;
    if (execute === 'migrate-set-parameters') return Object.assign(parameters, args);
    changed += 1;
    return changed === 1 ? {} : new Error('not now');
  });
  const wanted = { capabilities: { multifd: false }, parameters: { 'tls-creds': '' } };
  const settings = await changeSettings(qmp, wanted);
  assert.deepEqual(parameters, { 'tls-creds': '' });
  await assert.rejects(settings.restore(), fails('EIO', /not now/));
  assert.deepEqual(parameters, { 'tls-creds': 'tls0' });
  await qmp.close();
});

test('saves leave nothing open, good ones and bad ones', async () => {
  await using dir = makeTempDir();
  const fake = await FakeQemu.start();
  await save(fake, dir, await openTo(dir.join('warm.gz')), { compress: 'gzip', resume: true });
  const leaks = await watchLeaks({ emitters: { qmp: fake.qmp } });
  await save(fake, dir, await openTo(dir.join('one')), { resume: true });
  await save(fake, dir, await openTo(dir.join('two')), { compress: 'gzip', resume: true });
  const full = (): Promise<QemuFile> => openTo('/dev/full');
  await assert.rejects(save(fake, dir, await full()), fails('ENOSPC', /no space/));
  await assert.rejects(save(fake, dir, await full(), { compress: 'gzip' }), fails('ENOSPC', /./));
  const options: SaveOptions = { check: false, manifest: true };
  await assert.rejects(
    save(fake, dir, await full(), options),
    fails('EINVAL', /`manifest` requires `check`/),
  );
  const sink = await openTo(dir.join('three'));
  const strange = { compress: 'rar' as 'gzip' };
  await assert.rejects(save(fake, dir, sink, strange), fails('EIO', /unknown format rar/));
  await leaks.end();
  await fake.qmp.close();
});

import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { DIAGNOSTICS_CHANNELS, type VmMessage } from '../../lib/contract/diagnostics-channels.ts';
import { saveVm } from '../../lib/vm/index.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { FakeQemu } from './fake-qemu.ts';

test('a save publishes its start, its progress and its end, good or bad', async () => {
  await using dir = makeTempDir();
  const messages: VmMessage[] = [];
  const onMessage = (message: unknown): void => void messages.push(message as VmMessage);
  subscribe(DIAGNOSTICS_CHANNELS.vmSave, onMessage);
  try {
    const fake = await FakeQemu.start();
    const sink = (): Writable => new Writable({ write: (_chunk, _encoding, done) => done() });
    const options = { directory: dir.path, resume: true };
    const { bytes } = await saveVm(fake.qmp, sink(), options);
    const [first, ...rest] = messages;
    const last = rest.at(-1);
    assert.equal(first?.phase, 'start');
    assert.ok(rest.some(({ phase, status }) => phase === 'progress' && status === 'completed'));
    assert.deepEqual([last?.phase, last?.bytes, last?.error], ['end', bytes, undefined]);

    messages.length = 0;
    fake.blockers = ['disk d0'];
    await assert.rejects(saveVm(fake.qmp, sink(), options), /disk d0/);
    assert.deepEqual(
      messages.map(({ phase, error }) => [phase, error === undefined]),
      [
        ['start', true],
        ['end', false],
      ],
    );
    await fake.qmp.close();
  } finally {
    unsubscribe(DIAGNOSTICS_CHANNELS.vmSave, onMessage);
  }
});
